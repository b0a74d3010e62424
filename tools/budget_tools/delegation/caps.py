"""Caps of an authority besides the amount (Cycles v0, Caps), as a delegation obeys them."""

from dataclasses import dataclass

from runcycles import Caps


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """The caps of one reservation."""

    max_tokens: int | None = None
    max_steps: int | None = None
    """Turns that may still be taken, this one included."""
    tool_allowlist: tuple[str, ...] = ()
    tool_denylist: tuple[str, ...] = ()
    cooldown_ms: int = 0
    """How long to wait after this turn."""

    @classmethod
    def of(cls, caps: Caps | None) -> "Allowance":
        """Convert caps from the protocol's form."""
        if caps is None:
            return NO_CAPS
        return cls(
            max_tokens=caps.max_tokens,
            max_steps=caps.max_steps_remaining,
            tool_allowlist=tuple(caps.tool_allowlist or ()),
            tool_denylist=tuple(caps.tool_denylist or ()),
            cooldown_ms=caps.cooldown_ms or 0,
        )

    def allows_tool(self, name: str) -> bool:
        """Return whether a tool may be used: a list of allowed tools overrides the other, an empty one is ignored."""
        if self.tool_allowlist:
            return name in self.tool_allowlist
        return name not in self.tool_denylist


NO_CAPS = Allowance()
