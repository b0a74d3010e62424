"""Bills: what the scripted endpoint would have charged for, by its own account.

A gateway may report anything to its client; what was used stays what it was. Tests compare a ledger with this list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What one answer used.

    Attributes:
        request_id: the ``request-id`` of the answer.
        model: the model that answered, and at whose prices it is billed.
        usage: true counts, in the form of the Messages API.
    """

    request_id: str
    model: str
    usage: Mapping[str, Any]
