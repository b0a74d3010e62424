#!/usr/bin/env bash
# Langfuse's LangChain callback records tokens written to the cache twice, if the answer was not streamed.
#
# One would expect usage_details to be a breakdown: parts that do not overlap and add up to what was used. For an
# ordinary answer that wrote 7,548 tokens for an hour, the callback of invoke() records cache_creation_input_tokens 7548
# beside cache_creation_ephemeral_1h_input_tokens 7548, and no total. Its parts make 46,663 tokens where 39,115 were
# used. The same answer from stream() is recorded under other names (input_cache_creation), adds up, and has lost for
# how long it was written. Prices by name have to know both sets.
# What to do: price by response_metadata["usage"], which is the API's own; do not sum usage_details.
# Seen on 2026-12-01 with langfuse 5.2.0, langchain-anthropic 1.7.10, langchain 1.5.2, anthropic 2.15.0.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  langfuse==5.2.0 langchain-anthropic==1.7.10 langchain-core==1.8.3 langchain==1.5.2 anthropic==2.15.0 || cannot 'pip could not install'

"$scratch/venv/bin/python" - <<'PY'
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from langchain_anthropic import ChatAnthropic
from langfuse import Langfuse
from langfuse.langchain import CallbackHandler
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

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

spans = InMemorySpanExporter()
langfuse = Langfuse(public_key="none", secret_key="none", base_url=base_url, span_exporter=spans)


def recorded() -> dict[str, int]:
    langfuse.flush()
    attribute = "langfuse.observation.usage_details"
    (details,) = [span.attributes[attribute] for span in spans.get_finished_spans() if attribute in span.attributes]
    spans.clear()
    return json.loads(details)


model = ChatAnthropic(model="claude-sonnet-5-5", base_url=base_url, api_key="none", max_tokens=99)
model.invoke("Hello.", config={"callbacks": [CallbackHandler()]})
invoked = recorded()
for _ in model.stream("Hello.", config={"callbacks": [CallbackHandler()]}):
    pass
streamed = recorded()
used = sum(count for name, count in USAGE.items() if name != "cache_creation")
print("langfuse", version("langfuse"), "langchain-anthropic", version("langchain-anthropic"))
print("  invoke():", invoked, "parts:", sum(invoked.values()), "used:", used)
print("  stream():", streamed, "parts:", sum(streamed.values()) - streamed["total"])
twice = invoked.get("cache_creation_input_tokens"), invoked.get("cache_creation_ephemeral_1h_input_tokens")
if twice != (7548, 7548) or "total" in invoked or streamed.get("input_cache_creation") != 7548:
    sys.exit("CHANGED: the 7548 tokens used to stand twice in what invoke() records, and once in what stream() does")
PY
