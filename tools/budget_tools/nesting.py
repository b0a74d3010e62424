"""Who is behind a call: a host, or a sub-agent of ours to which this server is a tool."""

from budget_tools.delegation.records import PARENT_META
from budget_tools.toolkit import ToolContext


def parent_of(ctx: ToolContext) -> str:
    """Give the delegation whose sub-agent makes a call; ``""`` for a host."""
    meta = ctx.request_context.meta
    parent = (meta or {}).get(PARENT_META)
    return parent if isinstance(parent, str) else ""
