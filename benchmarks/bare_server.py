"""What ours is measured against: the smallest useful server of the bare SDK, with one tool that does nothing."""

from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel


class Done(BaseModel):
    """A small structured result."""

    is_done: bool
    what: str


server = MCPServer("bare")


@server.tool()
async def do_nothing() -> Done:
    """Do nothing, and say so."""
    return Done(is_done=True, what="nothing")


if __name__ == "__main__":
    server.run("stdio")
