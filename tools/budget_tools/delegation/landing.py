"""The last turn of a delegation, in which it lands: why it is the last, and what both sides are told of it."""

from dataclasses import dataclass

from budget_tools.delegation.conversation import last_turn_notice
from budget_tools.delegation.records import Status
from budget_tools.delegation.store import Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Landing:
    """Why the next turn is the last."""

    status: Status
    hint: str
    """What the caller is told."""
    reason: str = ""
    """What the sub-agent is told, as the middle of a sentence; nothing if it knows already."""
    is_repair: bool = False
    """Whether it only gives its answer once more, in another form."""

    def told(self) -> tuple[Message, ...]:
        """Return the notice of it."""
        return (last_turn_notice(self.reason),) if self.reason else ()


LAST_STEP = Landing(
    status="max_turns",
    hint="It took all the steps that the budget's caps allow: resume it once they allow more.",
    reason="the budget's caps allow no more steps",
)
