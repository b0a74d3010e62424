#!/usr/bin/env bash
# A misspelt argument of an MCP tool is dropped by both official SDKs, and the tool runs without it.
#
# One would expect a call that names an argument the tool does not have to fail, as a call of a function does. The
# Python SDK and the TypeScript SDK publish schemas that allow any further property, remove it, and run the tool: a
# model that writes max_usdd for max_usd spends without a cap, and is told that all went well. FastMCP, whose tools are
# written with the same decorator, refuses the call with a sentence. Moving a server from one to the other changes this
# silently.
# What to do: in a server that spends, refuse unknown names yourself, and publish additionalProperties false.
# Seen on 2026-12-01 with mcp 2.3.0, fastmcp 4.2.3 and @modelcontextprotocol/sdk 1.32.2 (zod 4.6.7).
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
command -v npm >/dev/null || cannot 'npm is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  mcp==2.3.0 fastmcp==4.2.3 || cannot 'pip could not install'
npm install --prefix "$scratch" --silent --no-audit --no-fund --ignore-scripts \
  @modelcontextprotocol/sdk@1.32.2 zod@4.6.7 || cannot 'npm could not install'

cat >"$scratch/finding.py" <<'PY'
import asyncio, logging, sys
from importlib.metadata import version
import fastmcp
from mcp.client import Client
from mcp.server import MCPServer

logging.disable(logging.CRITICAL)


def pay(cents: int, max_usd: float | None = None) -> str:
    return f"paid {cents}, cap {max_usd}"


async def main() -> None:
    official, other = MCPServer("official"), fastmcp.FastMCP("other")
    official.tool()(pay)
    other.tool()(pay)
    misspelt = {"cents": 900, "max_usdd": 5}
    async with Client(official) as client:
        first = await client.call_tool("pay", misspelt)
    async with fastmcp.Client(other) as client:
        second = await client.call_tool("pay", misspelt, raise_on_error=False)
    print("mcp", version("mcp"), "error:", first.is_error, first.content[0].text)
    print("fastmcp", version("fastmcp"), "error:", second.is_error, second.content[0].text.splitlines()[0])
    if first.content[0].text != "paid 900, cap None" or not second.is_error:
        sys.exit("CHANGED: mcp used to pay without the cap, and fastmcp to refuse")


asyncio.run(main())
PY
cat >"$scratch/finding.mjs" <<'JS'
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { InMemoryTransport } from '@modelcontextprotocol/sdk/inMemory.js';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { z } from 'zod';

const server = new McpServer({ name: 'official', version: '1' });
const inputSchema = { cents: z.number().int(), max_usd: z.number().optional() };
server.registerTool('pay', { inputSchema }, async ({ cents, max_usd }) => (
  { content: [{ type: 'text', text: `paid ${cents}, cap ${max_usd}` }] }));
const [near, far] = InMemoryTransport.createLinkedPair();
await server.connect(near);
const client = new Client({ name: 'client', version: '1' });
await client.connect(far);
const result = await client.callTool({ name: 'pay', arguments: { cents: 900, max_usdd: 5 } });
console.log('@modelcontextprotocol/sdk 1.32.2 error:', result.isError ?? false, result.content[0].text);
if (result.content[0].text !== 'paid 900, cap undefined') {
  console.error('CHANGED: it used to pay without the cap');
  process.exit(1);
}
process.exit(0);
JS
"$scratch/venv/bin/python" -W ignore "$scratch/finding.py"
node "$scratch/finding.mjs"
