#!/usr/bin/env bash
# A generator under @cycles is charged before its first step, and runs without a reservation.
#
# The decorator reserves, runs the function, commits. Streaming code is a generator, so one would expect it to be
# wrapped until it is exhausted, or refused. A call of a generator function returns at once: the reservation is
# committed, with an `actual` that was handed the generator object, and all the tokens flow afterwards, when nothing is
# held for them. Async generators go the same way, through the synchronous client. No budget can stop such a stream, and
# what it cost can never be what was charged.
# What to do: use stream_reservation() inside the generator.
# Seen on 2026-12-01 with runcycles 0.5.3, against a server on loopback that allows everything.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  runcycles==0.5.3 || cannot 'pip could not install'

"$scratch/venv/bin/python" - "$scratch" <<'PY'
import asyncio, json, sys, tempfile, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
import runcycles

calls: list[tuple[str, dict]] = []


class Server(BaseHTTPRequestHandler):
    """Answer as a Cycles server that allows everything does."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        step = self.path.rsplit("/", 1)[1]
        later = {"expires_at_ms": int(time.time() * 1000) + 60_000, "remaining_ttl_ms": 60_000}
        answer = {
            "commit": lambda: {"status": "COMMITTED", "charged": asked["actual"]},
            "release": lambda: {"status": "RELEASED", "released": {"unit": "USD_MICROCENTS", "amount": 1_000_000}},
            "extend": lambda: {"status": "ACTIVE", **later},
            "reservations": lambda: {
                "decision": "ALLOW", "reservation_id": "r1", "affected_scopes": ["tenant:acme"], **later,
            },
        }[step]()
        if step != "extend":
            calls.append((step, asked))
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
config = runcycles.CyclesConfig(
    base_url=f"http://127.0.0.1:{server.server_port}", api_key="none", tenant="acme",
    journal_dir=tempfile.mkdtemp(dir=sys.argv[1]), retry_initial_delay=0.01,
)
client = runcycles.CyclesClient(config)

print("runcycles", version("runcycles"))
kinds: list[str] = []


def cost(result: object) -> int:
    kinds.append(type(result).__name__)
    return 5


@runcycles.cycles(1_000_000, actual=cost, client=client)
def stream():
    calls.append(("first token", {}))
    yield "Hello."


@runcycles.cycles(1_000_000, actual=cost, client=client)
async def async_stream():
    calls.append(("first token", {}))
    yield "Hello."


async def drain() -> None:
    async for _ in async_stream():
        pass


list(stream())
asyncio.run(drain())
steps = [step for step, _ in calls]
print("  in this order:", steps)
print("  the cost was computed from:", kinds)
if steps != ["reservations", "commit", "first token"] * 2 or kinds != ["generator", "async_generator"]:
    sys.exit("CHANGED: the commit used to come before the first token")
PY
