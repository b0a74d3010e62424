#!/usr/bin/env bash
# LangChain files the same cache write under one key from invoke() and under another from stream().
#
# One would expect input_token_details.cache_creation to be what was written to the cache, as its documentation says.
# From invoke() it is 0 although 7,548 tokens were written: as soon as the API says how long they live, they move to
# ephemeral_1h_input_tokens (or _5m_), keys that the type InputTokenDetails does not name. From stream() the same answer
# has cache_creation 7,548 and no such key. A callback that adds up both kinds of call holds a mixture, and who prices
# cache_creation alone charges nothing for the dearest tokens of the prompt: twice the base price in one case.
# What to do: cache writes = cache_creation + ephemeral_5m_input_tokens + ephemeral_1h_input_tokens, absent ones 0.
# Seen on 2026-12-01 with langchain-anthropic 1.7.10, langchain-core 1.8.3, anthropic 2.15.0.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  langchain-anthropic==1.7.10 langchain-core==1.8.3 anthropic==2.15.0 || cannot 'pip could not install'

"$scratch/venv/bin/python" - <<'PY'
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from langchain_anthropic import ChatAnthropic
from langchain_core.callbacks import UsageMetadataCallbackHandler

USAGE = {
    "input_tokens": 2, "cache_read_input_tokens": 31561, "cache_creation_input_tokens": 7548,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 7548}, "output_tokens": 4,
}
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5",
    "content": [{"type": "text", "text": "Hello."}], "stop_reason": "end_turn", "stop_sequence": None, "usage": USAGE,
}

FINAL = {name: count for name, count in USAGE.items() if name != "cache_creation"}  # the split is in message_start only
BEGUN = {**MESSAGE, "content": [], "stop_reason": None}
EVENTS = [
    {"type": "message_start", "message": {**BEGUN, "usage": {**USAGE, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello."}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": FINAL},
    {"type": "message_stop"},
]
STREAM = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in EVENTS)


class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        kind = "text/event-stream" if asked.get("stream") else "application/json"
        body = STREAM if asked.get("stream") else json.dumps(MESSAGE)
        self.send_response(200)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
threading.Thread(target=server.serve_forever, daemon=True).start()
base_url = f"http://127.0.0.1:{server.server_port}"

model = ChatAnthropic(model="claude-sonnet-5-5", base_url=base_url, api_key="none", max_tokens=99)
counter = UsageMetadataCallbackHandler()
invoked = model.invoke("Hello.", config={"callbacks": [counter]}).usage_metadata["input_token_details"]
whole = None
for chunk in model.stream("Hello.", config={"callbacks": [counter]}):
    whole = chunk if whole is None else whole + chunk
streamed = whole.usage_metadata["input_token_details"]
summed = counter.usage_metadata["claude-sonnet-5-5"]["input_token_details"]
print("langchain-anthropic", version("langchain-anthropic"), "langchain-core", version("langchain-core"))
print("  invoke():", invoked)
print("  stream():", streamed)
print("  the callback's sum of both:", summed)
written = [details.get("cache_creation") for details in (invoked, streamed, summed)]
lasting = [details.get("ephemeral_1h_input_tokens") for details in (invoked, streamed, summed)]
if written != [0, 7548, 7548] or lasting != [7548, None, 7548]:
    sys.exit("CHANGED: invoke() used to say cache_creation 0, and stream() 7548 with no key for the hour")
PY
