"""``cycles-budget-mcp``, with the conformance suite's fixtures beside its own tools.

All else is the program itself: its command line, its door, gate and middleware, its way to refuse unknown arguments.
"""

import warnings
from collections.abc import Sequence

from mcp import MCPDeprecationWarning
from mcp.server.mcpserver.tools import Tool

from budget_server import __main__
from budget_server.mcp_server import server as app
from budget_server.transports import lifecycle as transports
from budget_tools.mcp_tools.toolkit import Toolkit
from conformance import fixtures


def create_server(toolkit: Toolkit, tools: Sequence[Tool] = app.TOOLS) -> app.BudgetServer:
    """Build the server as the program does, and add the fixtures."""
    server = app.create_server(toolkit, (*tools, *fixtures.TOOLS))
    fixtures.add_resources(server)
    for prompt in fixtures.PROMPTS:
        server.add_prompt(prompt)
    return server


if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)  # the suite asks for what older clients still use
    transports.create_server = create_server  # type: ignore[attr-defined]  # what it calls, not what it offers
    __main__.main()
