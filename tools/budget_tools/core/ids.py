"""Identifiers made before the first attempt."""

import os
import time

_RANDOM_BYTES = 10
_VARIANT = {digit: "89ab"[number % 4] for number, digit in enumerate("0123456789abcdef")}


def time_ordered_id() -> str:
    """Make a UUID version 7 (RFC 9562, section 5.7).

    New rows land at the end of their index, and no id can be guessed from another.
    """
    at = f"{time.time_ns() // 1_000_000:012x}"
    chance = os.urandom(_RANDOM_BYTES).hex()
    variant = _VARIANT[chance[3]]
    return f"{at[:8]}-{at[8:]}-7{chance[:3]}-{variant}{chance[4:7]}-{chance[7:19]}"
