"""The caller of a tool: a host, with or without a person, or a sub-agent of ours to which this server is a tool."""

from budget_tools.delegation.records import PARENT_META
from budget_tools.mcp_tools.toolkit import ToolContext


def parent_of(ctx: ToolContext) -> str:
    """Return the delegation whose sub-agent makes a call; ``""`` for a host."""
    meta = ctx.request_context.meta
    parent = (meta or {}).get(PARENT_META)
    return parent if isinstance(parent, str) else ""


def can_ask_a_person(ctx: ToolContext) -> bool:
    """Return whether a host can show a form to a person (MCP, elicitation; one without modes is for forms)."""
    capabilities = ctx.client_capabilities
    asked = None if capabilities is None else capabilities.elicitation
    return asked is not None and (asked.form is not None or asked.url is None)
