"""What is said of a delegation: plain data that the tools show, without anything that runs one.

Kept apart because a host lists the tools at every start, and most conversations delegate nothing.
"""

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, Field

from budget_tools.money import Money
from budget_tools.subjects import Subject

Status = Literal["completed", "running", "budget_exhausted", "max_turns", "cancelled", "refused", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is delegated, and the caller's limits."""

    task: str
    context: str
    system: str
    model: str
    max_turns: int
    max_output_tokens: int
    budget_microcents: int | None
    tools: tuple[str, ...]
    subject: Subject

    def is_same_as(self, other: "Task") -> bool:
        """Whether a caller that repeats itself would have given the other one; subjects compare by what they say."""
        return replace(self, subject=other.subject) == other and self.subject.wire() == other.subject.wire()


class ToolCallRecord(BaseModel):
    """One call of a sub-agent's tool."""

    name: str
    ok: bool
    duration_ms: int


class TurnRecord(BaseModel):
    """What one turn reserved, did and was charged."""

    number: int
    model: str
    reservation_id: str = ""
    decision: str = Field("ALLOW", description="ALLOW, ALLOW_WITH_CAPS or DENY.")
    reserved: Money | None = Field(None, description="The turn's worst case, held before its request left.")
    charged: Money | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    actual_source: str = Field("", description='"usage" as the API reported it, or "bound" where it is not known.')
    stop_reason: str = ""
    tool_calls: list[ToolCallRecord] = []
    request_id: str = ""
