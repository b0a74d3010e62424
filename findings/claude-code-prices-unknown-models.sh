#!/usr/bin/env bash
# Claude Code reports a cost in dollars for a model whose price it does not know.
#
# Behind a gateway a model has any name. One would expect total_cost_usd to be null there. `claude -p --output-format
# json` says $0.014 for 1,000 tokens in and 500 out of "my-gateway-model": to the cent what claude-opus-5-5 costs, twice
# claude-sonnet-5-5, and for a model of one's own any number at all. One word of the result gives it away, "costBasis":
# "unknown" far down in modelUsage; the total above it is a number like any other, and what adds up such totals reports
# dollars that nobody was charged.
# What to do: believe a cost only if each entry of modelUsage has costBasis "list".
# Seen on 2026-12-01 with @anthropic-ai/claude-code 2.1.332.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
command -v npm >/dev/null || cannot 'npm is needed'
npm install --prefix "$scratch" --silent --no-audit --no-fund --ignore-scripts \
  @anthropic-ai/claude-code@2.1.332 || cannot 'npm could not install'

cat >"$scratch/finding.mjs" <<'JS'
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import http from 'node:http';
import { join } from 'node:path';

const usage = { input_tokens: 1000, cache_read_input_tokens: 0, cache_creation_input_tokens: 0, output_tokens: 500 };
const server = http.createServer(async (request, response) => {
  let body = '';
  for await (const piece of request) body += piece;
  const { model } = JSON.parse(body || '{}');
  const message = {
    id: 'msg_1', type: 'message', role: 'assistant', model, content: [], stop_reason: null, stop_sequence: null,
    usage: { ...usage, output_tokens: 1 },
  };
  const events = [
    { type: 'message_start', message },
    { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } },
    { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'Hello.' } },
    { type: 'content_block_stop', index: 0 },
    { type: 'message_delta', delta: { stop_reason: 'end_turn', stop_sequence: null }, usage },
    { type: 'message_stop' },
  ];
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  response.end(events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join(''));
});
await new Promise((ready) => server.listen(0, '127.0.0.1', ready));

// The program comes in a package of its own for the platform, the only one that npm has installed.
const scratch = process.argv[2];
const packages = join(scratch, 'node_modules', '@anthropic-ai');
const program = join(packages, readdirSync(packages).find((name) => name.startsWith('claude-code-')), 'claude');
const env = {
  PATH: process.env.PATH, HOME: scratch, CLAUDE_CONFIG_DIR: join(scratch, '.claude'), ANTHROPIC_API_KEY: 'none',
  ANTHROPIC_BASE_URL: `http://127.0.0.1:${server.address().port}`, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
};
const seen = [];
for (const model of ['claude-sonnet-5-5', 'claude-opus-5-5', 'my-gateway-model']) {
  const args = ['-p', 'Hello.', '--model', model, '--output-format', 'json', '--tools', '', '--setting-sources', ''];
  const child = spawn(program, args, { cwd: scratch, env, stdio: ['ignore', 'pipe', 'ignore'] });
  let text = '';
  for await (const piece of child.stdout) text += piece;
  const result = JSON.parse(text);
  seen.push(`${result.total_cost_usd} ${result.modelUsage[model].costBasis}`);
  console.log(`claude-code 2.1.332 ${model}: $${result.total_cost_usd}, costBasis ${result.modelUsage[model].costBasis}`);
}
server.close();
if (seen.join() !== '0.007 list,0.014 list,0.014 unknown') {
  console.error('CHANGED: the unknown model used to cost what claude-opus-5-5 does');
  process.exit(1);
}
process.exit(0);
JS
node "$scratch/finding.mjs" "$scratch"
