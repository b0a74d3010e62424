#!/usr/bin/env bash
# A tool call that max_tokens cuts in the middle of a number keeps the half that arrived.
#
# One would expect the partial JSON of a cut tool call to end before the value that is incomplete, since both SDKs of
# the same API do that with strings and literals. The Python SDK drops a half string and a half `true`, and keeps a half
# number: 1250 cents arrive as 125, in a well-formed input that passes the tool's schema. The TypeScript SDK drops all
# three. Whoever runs tool calls without reading the stop reason pays 125 and believes it was asked for.
# What to do: if stop_reason is max_tokens, the last tool call is not one, however complete it looks.
# Seen on 2026-12-01 with anthropic 2.15.0 (Python) and @anthropic-ai/sdk 1.15.0 (TypeScript).
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
command -v npm >/dev/null || cannot 'npm is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  anthropic==2.15.0 || cannot 'pip could not install'
npm install --prefix "$scratch" --silent --no-audit --no-fund --ignore-scripts \
  @anthropic-ai/sdk@1.15.0 || cannot 'npm could not install'

# One answer per value that the cut leaves unfinished: a number, a string, a literal.
for partial in 'cents\":125' 'note\":\"for the ren' 'urgent\":tr'; do
  cat <<SSE
event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":300,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"toolu_1","name":"pay","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"to\":\"a\",\"$partial"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"max_tokens","stop_sequence":null},"usage":{"output_tokens":20}}

event: message_stop
data: {"type":"message_stop"}

SSE
  echo '=== end of answer'
done >"$scratch/answers"

cat >"$scratch/finding.py" <<'PY'
import json, sys
from importlib.metadata import version
from pathlib import Path
import anthropic, httpx2

answers = Path(sys.argv[1]).read_text().split("=== end of answer\n")[:-1]
inputs = []
for answer in answers:
    def reply(request: httpx2.Request, body: str = answer) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=body)
    client = anthropic.Anthropic(api_key="none", http_client=httpx2.Client(transport=httpx2.MockTransport(reply)))
    ask = {"model": "claude-sonnet-5-5", "max_tokens": 20, "messages": [{"role": "user", "content": "Pay 1250 cents."}]}
    with client.messages.stream(**ask) as stream:
        inputs.append(stream.get_final_message().content[0].input)
print("anthropic", version("anthropic"), json.dumps(inputs))
if inputs != [{"to": "a", "cents": 125}, {"to": "a"}, {"to": "a"}]:
    sys.exit("CHANGED: the half number used to be kept, the half string and literal dropped")
PY
cat >"$scratch/finding.mjs" <<'JS'
import { readFileSync } from 'node:fs';
import Anthropic from '@anthropic-ai/sdk';
const answers = readFileSync(process.argv[2], 'utf8').split('=== end of answer\n').slice(0, -1);
const inputs = [];
for (const answer of answers) {
  const fetch = async () => new Response(answer, { headers: { 'content-type': 'text/event-stream' } });
  const client = new Anthropic({ apiKey: 'none', fetch });
  const ask = { model: 'claude-sonnet-5-5', max_tokens: 20, messages: [{ role: 'user', content: 'Pay 1250 cents.' }] };
  inputs.push((await client.messages.stream(ask).finalMessage()).content[0].input);
}
console.log('@anthropic-ai/sdk 1.15.0', JSON.stringify(inputs));
if (JSON.stringify(inputs) !== '[{"to":"a"},{"to":"a"},{"to":"a"}]') {
  console.error('CHANGED: all three used to be dropped');
  process.exit(1);
}
JS
"$scratch/venv/bin/python" "$scratch/finding.py" "$scratch/answers"
node "$scratch/finding.mjs" "$scratch/answers"
