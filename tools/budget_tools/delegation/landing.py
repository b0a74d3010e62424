"""The last turn of a delegation, called its landing: why it is the last, and what both sides are told of it."""

from dataclasses import dataclass

from budget_tools.delegation.conversation import last_turn_notice
from budget_tools.delegation.records import Status
from budget_tools.delegation.store import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Landing:
    """The reason that the next turn is the last."""

    status: Status
    hint: str
    """What the caller is told."""
    reason: str = ""
    """What the sub-agent is told, as the middle of a sentence; empty if it knows already."""
    is_repair: bool = False
    """Whether the turn only repeats the answer in another form."""

    def told(self) -> tuple[Message, ...]:
        """Return the notice of the landing."""
        return (last_turn_notice(self.reason),) if self.reason else ()


LAST_STEP = Landing(
    status="max_turns",
    hint="It took all the steps that the budget's caps allow: resume it once they allow more.",
    reason="the budget's caps allow no more steps",
)
