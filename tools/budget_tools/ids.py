"""Identifiers made before the first attempt."""

import os
import time

_RANDOM_BITS = 80


def time_ordered_id() -> str:
    """Make a UUID version 7 (RFC 9562, section 5.7).

    New rows land at the end of their index, and no id can be guessed from another.
    """
    unix_ms = time.time_ns() // 1_000_000
    value = (unix_ms & (2**48 - 1)) << _RANDOM_BITS | int.from_bytes(os.urandom(_RANDOM_BITS // 8), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
