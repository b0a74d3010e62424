"""The endpoint's own count of a prompt, believed only as far as the bytes of the prompt allow it.

Some gateways answer 0, a constant, or the length of a part. Such a count would reserve less than a turn costs, so it is
replaced by the bound of the bytes, and the endpoint is not asked again while this process runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from budget_tools.claude.client import Claude
from budget_tools.pricing.tokens import is_plausible_count

_FROM_NOW_ON = (
    "its counts are not asked for again while this server runs, and prompts are bounded by their bytes, which "
    "reserves more for each turn"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCount:
    """The tokens of a prompt as the endpoint counts them."""

    tokens: int | None
    """``None`` if the endpoint does not count, or its count cannot be true."""
    warning: str = ""
    """A clause, if a count cannot be true; once for each endpoint, since it is not asked again."""


async def count_tokens(claude: Claude, request: Mapping[str, Any], *, no_fewer_than: int = 0) -> TokenCount:
    """Ask the endpoint for the length of a prompt, free of charge, and check its answer.

    Args:
        claude: the endpoint.
        request: body of POST /v1/messages; fields that the count does not depend on are left out.
        no_fewer_than: tokens that the prompt is known to have.

    Raises:
        InvalidArgumentError: the request is not valid JSON text.
    """
    counted = await claude.count_input_tokens(request)
    if counted is None or (counted >= no_fewer_than and is_plausible_count(request, counted)):
        return TokenCount(tokens=counted)
    cannot_be = f"The Claude endpoint counted {counted:,} tokens for a prompt that cannot have that number"
    return TokenCount(tokens=None, warning=f"{cannot_be}: {_FROM_NOW_ON}" if claude.distrust_counts() else "")


def contradicted(claude: Claude, *, counted: int, used: int) -> str:
    """Stop asking for counts, because a turn used more than its prompt was counted to have; return the warning."""
    said = f"The Claude endpoint counted {counted:,} tokens for a prompt and then reported {used:,}"
    return f"{said}: {_FROM_NOW_ON}" if claude.distrust_counts() else ""
