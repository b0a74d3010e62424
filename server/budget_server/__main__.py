"""The entry point: without arguments the MCP server on stdio, otherwise the command line."""

import gc
import logging
import sys

from budget_server.transports.logs import LineFormatter
from budget_tools.core.errors import ConfigurationError


def main() -> None:
    """Run ``cycles-budget-mcp``."""
    # Before the SDK configures logging itself. Standard output belongs to the protocol.
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[to_stderr], level=logging.WARNING)
    if len(sys.argv) > 1:
        from budget_server.cli.app import app  # here: a host that starts the server never needs the command line

        app(prog_name="cycles-budget-mcp")
        return
    raise SystemExit(_serve())


def _serve() -> int:
    # Importing creates many objects and no garbage: collecting during it would take a twentieth of the start time.
    gc.disable()
    from budget_server.config.settings import read_settings
    from budget_server.transports.lifecycle import serve_stdio

    gc.freeze()
    gc.enable()
    try:
        return serve_stdio(read_settings())
    except ConfigurationError as exc:
        sys.stderr.write(f"cycles-budget-mcp: {exc.message}\n")
        return 2


if __name__ == "__main__":
    main()
