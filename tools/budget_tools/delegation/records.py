"""Records of a delegation: plain data that the tools show and the store keeps, without anything that runs one.

Kept apart because a host lists the tools at every start, and most conversations do not delegate.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from budget_tools.core.money import USD_MICROCENTS, Money, format_usd
from budget_tools.core.subjects import Subject

Status = Literal["completed", "running", "budget_exhausted", "max_turns", "cancelled", "refused", "failed"]

RESUMABLE: frozenset[Status] = frozenset({"budget_exhausted", "max_turns", "cancelled", "failed"})
"""States of a stopped delegation that may have something left to do."""


PARENT_META = "cycles-budget-mcp/delegation"
"""Key of a tool call's ``_meta`` (MCP): the delegation whose sub-agent makes it. The loop sets it; models cannot."""


class Task(BaseModel):
    """A delegated task and the limits of its caller; a repeated call gives an equal one."""

    model_config = ConfigDict(frozen=True)

    task: str
    context: str = ""
    system: str = ""
    model: str
    fallback_models: tuple[str, ...] = ()
    max_turns: int
    max_output_tokens: int
    budget_microcents: int | None = None
    """Most that the delegation may be charged over its whole life, in microcents; ``None`` if no limit was given."""
    tools: tuple[str, ...] = ()
    output_schema: dict[str, Any] | None = None
    levels: dict[str, str]
    """Whose budget: the subject's levels, by name."""
    dimensions: dict[str, str] = {}

    @property
    def subject(self) -> Subject:
        """The subject whose budget is drawn on."""
        return Subject(self.levels, self.dimensions)


class ToolCallRecord(BaseModel):
    """One call of a sub-agent's tool."""

    name: str
    ok: bool
    duration_ms: int
    charged: Money | None = Field(None, description="What the call itself cost, where its tool has a price.")
    uncovered: Money | None = None
    """Cost beyond the charge, which the budget could not cover."""


class TurnRecord(BaseModel):
    """Record of what one turn reserved, did and was charged."""

    number: int
    model: str
    reservation_id: str = ""
    decision: str = Field("ALLOW", description="ALLOW, ALLOW_WITH_CAPS or DENY.")
    reserved: Money | None = Field(None, description="The turn's worst case, held before its request left.")
    charged: Money | None = None
    uncovered: Money | None = None
    """Cost beyond the charge, which the budget could not cover."""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    actual_source: str = Field("", description='"usage" as the API reported it, or "bound" where it is not known.')
    charged_because: str = ""
    """Why it was charged at the bound, or not at all; ``""`` if it was charged its exact cost."""
    served_model: str = ""
    """The model that answered, if it is another than was asked."""
    stop_reason: str = ""
    tool_calls: list[ToolCallRecord] = []
    request_id: str = ""
    warnings: list[str] = []
    """Sentences to know about how the turn came about."""

    @property
    def prompt_tokens(self) -> int:
        """All of its prompt, whether read from the cache, written to it or neither; 0 if that is not known."""
        return self.input_tokens + self.cache_read_input_tokens + self.cache_creation_input_tokens


def uncovered_microcents(turn: TurnRecord) -> int:
    """Return what a turn and its tools cost beyond what the budget could cover."""
    missing = (turn.uncovered, *(call.uncovered for call in turn.tool_calls))
    return sum(money.amount for money in missing if money is not None and money.unit == USD_MICROCENTS)


def excess_hint(turn: TurnRecord) -> str:
    """Return why a turn cost more than its bound; ``""`` if it did not."""
    if turn.charged is None or turn.reserved is None:
        return ""
    missing = 0 if turn.uncovered is None else turn.uncovered.amount
    cost = turn.charged.amount + missing
    if cost <= turn.reserved.amount:
        return ""
    shortage = f" The budget could not cover ${format_usd(missing)} of it." if missing else ""
    tokens = f"({turn.prompt_tokens} in, {turn.output_tokens} out)"
    if turn.charged_because:
        at_least, why = "at least ", "so much do the highest counts come to that the endpoint reported"
    elif turn.served_model:
        at_least = ""
        why = f"{turn.served_model} answered {tokens}, and what was held goes by the prices of {turn.model}"
    else:
        at_least, why = "", f"the endpoint reports more tokens {tokens} than were counted or allowed"
    cost_text = f"{at_least}${format_usd(cost)}"
    return f"Turn {turn.number} cost {cost_text}, above its bound of {turn.reserved}: {why}.{shortage}"
