"""Identifiers, made before the first attempt."""

import os
import re
import time
from typing import Annotated

from pydantic import AfterValidator, Field

_RANDOM_BYTES = 10
_VARIANT = {digit: "89ab"[number % 4] for number, digit in enumerate("0123456789abcdef")}
_TRAVELS = re.compile(r"(?! )[\x20-\x7e]+(?<! )")


def can_travel(key: str) -> bool:
    """Return whether an idempotency key survives an HTTP header unchanged; clients of Cycles servers send it in one."""
    return _TRAVELS.fullmatch(key) is not None


def _sendable(key: str) -> str:
    if key and not can_travel(key):
        raise ValueError("must be printable ASCII characters, without a blank or a line end at either end")
    return key


IdempotencyKey = Annotated[
    str, Field(description="Repeat it to repeat safely.", max_length=256), AfterValidator(_sendable)
]
"""An idempotency key chosen by a caller; rejected in every mode if it could not be sent to a Cycles server."""


def time_ordered_id() -> str:
    """Return a UUID version 7 (RFC 9562, section 5.7).

    New rows land at the end of their index, and no id can be guessed from another.
    """
    at = f"{time.time_ns() // 1_000_000:012x}"
    chance = os.urandom(_RANDOM_BYTES).hex()
    variant = _VARIANT[chance[3]]
    return f"{at[:8]}-{at[8:]}-7{chance[:3]}-{variant}{chance[4:7]}-{chance[7:19]}"
