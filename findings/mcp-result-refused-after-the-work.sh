#!/usr/bin/env bash
# A tool's result is fine for the TypeScript server and refused by the TypeScript client, after the work is done.
#
# A tool declares outputSchema { cents } and returns { cents, currency }. One would expect a server that validates its
# own results to complain, or a client to take one more property. The server checks with zod, which ignores what it does
# not know, and sends the object whole; what it published says additionalProperties false, and the SDK's own client
# holds the server to it and throws. The tool has run, the money is spent, the server logs success, and the caller sees
# an exception in place of the result, which invites it to call again. Both ends are the same package.
# What to do: use z.looseObject for results that may grow, and test results with a client.
# Seen on 2026-12-01 with @modelcontextprotocol/sdk 1.32.2 and zod 4.6.7.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
command -v npm >/dev/null || cannot 'npm is needed'
npm install --prefix "$scratch" --silent --no-audit --no-fund --ignore-scripts \
  @modelcontextprotocol/sdk@1.32.2 zod@4.6.7 || cannot 'npm could not install'

cat >"$scratch/finding.mjs" <<'JS'
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { InMemoryTransport } from '@modelcontextprotocol/sdk/inMemory.js';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { z } from 'zod';

let paid = 0;
const server = new McpServer({ name: 'server', version: '1' });
server.registerTool('pay', { outputSchema: { cents: z.number().int() } }, async () => {
  paid += 900;
  return { content: [{ type: 'text', text: 'paid' }], structuredContent: { cents: 900, currency: 'USD' } };
});
const [near, far] = InMemoryTransport.createLinkedPair();
const sent = [];
const send = near.send.bind(near);
near.send = async (message, ...rest) => { sent.push(message); return send(message, ...rest); };
await server.connect(near);
const client = new Client({ name: 'client', version: '1' });
await client.connect(far);
const { tools: [tool] } = await client.listTools();
let thrown = 'nothing';
try {
  await client.callTool({ name: 'pay', arguments: {} });
} catch (error) {
  thrown = error.message;
}
const answer = sent.at(-1).result;
console.log('@modelcontextprotocol/sdk 1.32.2');
console.log('  published: additionalProperties', tool.outputSchema.additionalProperties);
console.log('  the server sent:', JSON.stringify(answer.structuredContent), 'isError', answer.isError ?? false, 'paid', paid);
console.log('  the client threw:', thrown);
if (paid !== 900 || answer.isError || !thrown.includes('must NOT have additional properties')) {
  console.error('CHANGED: the server used to be content, and the client to throw');
  process.exit(1);
}
process.exit(0);
JS
node "$scratch/finding.mjs"
