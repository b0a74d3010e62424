"""The final answer of a delegation: its text, and whether it has the form that was asked for."""

from budget_tools.claude.output_schema import Mismatch, OutputSchema
from budget_tools.claude.stream import Reply
from budget_tools.delegation.landing import Landing
from budget_tools.delegation.log import DelegationLog
from budget_tools.delegation.replies import ending_of
from budget_tools.delegation.store import Outcome

_HALF_SAID = ("cut", "window_full", "paused")


class FinalAnswer:
    """The final answer of one delegation.

    Args:
        schema: the form of the answer, if the caller gave one.
        log: keeps its text.
    """

    def __init__(self, schema: OutputSchema | None, log: DelegationLog) -> None:
        self._schema = schema
        self._log = log
        self._said_before = ""
        self.misfit = ""
        """What did not fit in an answer that is being corrected; it is corrected once at most."""

    @property
    def has_form(self) -> bool:
        """Whether JSON of some form was asked for."""
        return self._schema is not None

    def note_pause(self, reply: Reply) -> None:
        """Keep the text before a pause: the next text continues it."""
        self._said_before += reply.text
        self._log.replace_text(self._said_before)

    def take_text(self, reply: Reply) -> str:
        """Return the text of an answer, with that before its pause, as the last words of the delegation."""
        said_before, self._said_before = self._said_before, ""
        text = f"{said_before}{reply.text}"
        if said_before:
            self._log.replace_text(text)
        return text

    def check(self, reply: Reply) -> Outcome | Mismatch:
        """Return the ending for an answer, or why it does not fit."""
        text = self.take_text(reply)
        if self._schema is None:
            return Outcome(status="completed")
        checked = self._schema.check(text)
        return checked if isinstance(checked, Mismatch) else Outcome(status="completed", structured=checked.value)

    def landed(self, reply: Reply, landing: Landing) -> Outcome:
        """Return the ending of a delegation whose last turn was announced as its last, whatever it answered."""
        hint = landing.hint
        text = self.take_text(reply)
        if not text.strip():
            hint = f"{hint} Its last turn brought no answer (stop reason {reply.stop_reason or 'none'})."
        elif ending_of(reply.stop_reason) in _HALF_SAID:
            hint = f"{hint} Its last answer was cut."
        if self._schema is None:
            return Outcome(status=landing.status, hint=hint)
        checked = self._schema.check(text)
        if isinstance(checked, Mismatch):
            return Outcome(status=landing.status, hint=f"{hint} It does not fit output_schema: {checked.problem}")
        return Outcome(status=landing.status, hint=hint, structured=checked.value)
