#!/usr/bin/env bash
# An optional string argument of an MCP tool is parsed as JSON before the tool sees it.
#
# A parameter `str` takes any text. One would expect `str | None` to take the same text, and null besides. In the Python
# SDK the text "null" arrives as None, and text that is a JSON object or array is refused as not being a string, though
# a string was sent: a memo, a prompt or a file's contents works until it happens to be JSON. A model that is told
# "Input should be a valid string" for its string sends it again, and pays again. FastMCP passes all of them on as they
# are.
# What to do: declare such parameters as `str = ""`.
# Seen on 2026-12-01 with mcp 2.3.0 and fastmcp 4.2.3.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  mcp==2.3.0 fastmcp==4.2.3 || cannot 'pip could not install'

"$scratch/venv/bin/python" -W ignore - <<'PY'
import asyncio, logging, sys
from importlib.metadata import version
import fastmcp
from mcp.client import Client
from mcp.server import MCPServer

logging.disable(logging.CRITICAL)
TEXTS = ("12345", "null", '{"a": 1}', "[1]")


def optional(memo: str | None = None) -> str:
    return repr(memo)


def plain(memo: str = "") -> str:
    return repr(memo)


async def answers(client, tool: str, **options: bool) -> list[str]:
    seen = []
    for text in TEXTS:
        result = await client.call_tool(tool, {"memo": text}, **options)
        seen.append("refused" if result.is_error else result.content[0].text)
    return seen


async def main() -> None:
    official, other = MCPServer("official"), fastmcp.FastMCP("other")
    for tool in (optional, plain):
        official.tool()(tool)
        other.tool()(tool)
    unchanged = [repr(text) for text in TEXTS]
    async with Client(official) as client:
        seen, control = await answers(client, "optional"), await answers(client, "plain")
    async with fastmcp.Client(other) as client:
        elsewhere = await answers(client, "optional", raise_on_error=False)
    print("sent:", *unchanged)
    print("mcp", version("mcp"), "str | None:", *seen)
    print("mcp", version("mcp"), "str:", *control)
    print("fastmcp", version("fastmcp"), "str | None:", *elsewhere)
    if seen != ["'12345'", "None", "refused", "refused"] or control != unchanged or elsewhere != unchanged:
        sys.exit("CHANGED: null used to become None, and JSON to be refused, in mcp's str | None alone")


asyncio.run(main())
PY
