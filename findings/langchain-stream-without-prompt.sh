#!/usr/bin/env bash
# A stream whose last event counts only the output has no prompt at all in LangChain for Python.
#
# In message_delta every count but output_tokens may be missing or null: the API's own type says so, older versions of
# the API and many gateways send nothing else, and the SDK then keeps what message_start said. One would expect
# LangChain to do so too, and LangChain for TypeScript does. LangChain for Python reads the last event alone: a prompt
# of 39,111 tokens becomes input_tokens 0, total_tokens 4, without a warning, and only while streaming. Whoever meters
# by usage_metadata bills such streams at the output alone: here at a thousandth of their price.
# What to do: treat input_tokens 0 in a stream as unknown, never as free.
# Seen on 2026-12-01 with langchain-anthropic 1.7.10 (Python) and @langchain/anthropic 1.5.11 (TypeScript).
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
command -v npm >/dev/null || cannot 'npm is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  langchain-anthropic==1.7.10 langchain-core==1.8.3 anthropic==2.15.0 || cannot 'pip could not install'
npm install --prefix "$scratch" --silent --no-audit --no-fund --ignore-scripts \
  @langchain/anthropic@1.5.11 @langchain/core@1.4.0 || cannot 'npm could not install'

cat >"$scratch/stream" <<'SSE'
event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":2,"cache_read_input_tokens":31561,"cache_creation_input_tokens":7548,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello."}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":4}}

event: message_stop
data: {"type":"message_stop"}

SSE

cat >"$scratch/finding.py" <<'PY'
import sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
import anthropic
from langchain_anthropic import ChatAnthropic

BODY = Path(sys.argv[1]).read_bytes()


class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
threading.Thread(target=server.serve_forever, daemon=True).start()
base_url = f"http://127.0.0.1:{server.server_port}"
ask = {"model": "claude-sonnet-5-5", "max_tokens": 99, "messages": [{"role": "user", "content": "Hello."}]}
with anthropic.Anthropic(api_key="none", base_url=base_url).messages.stream(**ask) as stream:
    kept = stream.get_final_message().usage
whole = None
for chunk in ChatAnthropic(model="claude-sonnet-5-5", base_url=base_url, api_key="none", max_tokens=99).stream("Hello."):
    whole = chunk if whole is None else whole + chunk
usage = whole.usage_metadata
print("anthropic", version("anthropic"), kept.input_tokens, kept.cache_read_input_tokens, kept.cache_creation_input_tokens)
print("langchain-anthropic", version("langchain-anthropic"), usage)
if (usage["input_tokens"], usage["total_tokens"], usage.get("input_token_details")) != (0, 4, {}):
    sys.exit("CHANGED: the prompt used to be 0 tokens")
PY
cat >"$scratch/finding.mjs" <<'JS'
import { readFileSync } from 'node:fs';
import { ChatAnthropic } from '@langchain/anthropic';
const body = readFileSync(process.argv[2], 'utf8');
const fetch = async () => new Response(body, { headers: { 'content-type': 'text/event-stream' } });
const model = new ChatAnthropic({ model: 'claude-sonnet-5-5', apiKey: 'none', maxTokens: 99, clientOptions: { fetch } });
let whole;
for await (const chunk of await model.stream('Hello.')) whole = whole ? whole.concat(chunk) : chunk;
console.log('@langchain/anthropic 1.5.11', JSON.stringify(whole.usage_metadata));
if (whole.usage_metadata.input_tokens !== 39111) {
  console.error('CHANGED: the prompt used to be 39111 tokens');
  process.exit(1);
}
JS
"$scratch/venv/bin/python" "$scratch/finding.py" "$scratch/stream"
node "$scratch/finding.mjs" "$scratch/stream"
