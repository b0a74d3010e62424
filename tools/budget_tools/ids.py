"""Identifiers made before the first attempt."""

import secrets
import time
import uuid


def time_ordered_id() -> str:
    """Make a UUID version 7 (RFC 9562, section 5.7).

    New rows land at the end of their index, and no id can be guessed from another.
    """
    unix_ms = time.time_ns() // 1_000_000
    value = (unix_ms & (2**48 - 1)) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))
