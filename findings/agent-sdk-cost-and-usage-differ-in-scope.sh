#!/usr/bin/env bash
# In one result of the Claude Agent SDK the cost is the session's and the usage is the turn's.
#
# ResultMessage has total_cost_usd, usage and model_usage side by side. One would expect them to speak of the same
# calls. After two equal queries on one client, usage counts the second alone, while total_cost_usd and model_usage
# count both: add up the costs of the results and the first query is charged twice, add up the usages and it is right.
# Dividing one by the other gives twice the price of a token. AssistantMessage.usage, a third figure, holds the output
# count of the start of the stream: 1 for 500.
# What to do: per client, take the last total_cost_usd; sum usage over the results; ignore the assistant's.
# Seen on 2026-12-01 with claude-agent-sdk 0.2.189 and the Claude Code 2.1.332 that it carries.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  claude-agent-sdk==0.2.189 || cannot 'pip could not install'

cat >"$scratch/finding.py" <<'PY'
import asyncio
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"input_tokens": 1000, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, "output_tokens": 500}


class Endpoint(BaseHTTPRequestHandler):
    """Answer each request as the Messages API does, with the same usage."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": asked["model"], "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": {**USAGE, "output_tokens": 1},
        }
        text = {"type": "text_delta", "text": "Hello."}
        events = [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": text},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": USAGE},
            {"type": "message_stop"},
        ]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write("".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode())

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
threading.Thread(target=server.serve_forever, daemon=True).start()
home = sys.argv[1]
env = {
    "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.server_port}", "ANTHROPIC_API_KEY": "none", "HOME": home,
    "CLAUDE_CONFIG_DIR": home + "/.claude", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
}
from importlib.metadata import version
from claude_agent_sdk import AssistantMessage, ClaudeAgentOptions, ClaudeSDKClient, ResultMessage


async def main() -> None:
    options = ClaudeAgentOptions(model="claude-sonnet-5-5", env=env, setting_sources=[], tools=[], cwd=home)
    seen = []
    async with ClaudeSDKClient(options) as client:
        for _ in range(2):
            await client.query("Hello.")
            async for message in client.receive_response():
                if isinstance(message, AssistantMessage):
                    started = message.usage["output_tokens"]
                if isinstance(message, ResultMessage):
                    (model,) = message.model_usage.values()
                    seen.append((started, message.usage["output_tokens"], model["outputTokens"], message.total_cost_usd))
    print("claude-agent-sdk", version("claude-agent-sdk"))
    for number, (started, turn, session, cost) in enumerate(seen, 1):
        print(f"  query {number}: assistant {started}, usage {turn}, model_usage {session} output tokens; ${cost}")
    if seen != [(1, 500, 500, 0.007), (1, 500, 1000, 0.014)]:
        sys.exit("CHANGED: usage used to be the turn's, cost and model_usage the session's")


asyncio.run(main())
PY
"$scratch/venv/bin/python" "$scratch/finding.py" "$scratch"
