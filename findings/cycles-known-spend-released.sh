#!/usr/bin/env bash
# A Cycles stream reservation gives the money back although its cost was already reported.
#
# stream_reservation() commits on a clean exit and releases on an exception. One would expect a cost that was set with
# usage.set_actual_cost() to be committed either way: the model has been paid, whatever fails afterwards, and the client
# takes great care never to release spend when a commit fails. It does release it when the caller's own code raises
# after the answer came, on a KeyboardInterrupt too: the budget reads as if nothing was spent, and repeats are free.
# What to do: leave the block first and work on the answer after it, or commit by hand.
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
import json, sys, tempfile, threading, time
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

ask = {
    "action": runcycles.Action(kind="llm.completion", name="claude"),
    "estimate": runcycles.Amount(unit="USD_MICROCENTS", amount=1_000_000),
}
print("runcycles", version("runcycles"))

try:
    with client.stream_reservation(**ask) as reservation:
        reservation.usage.tokens_input, reservation.usage.tokens_output = 20_000, 3_000
        reservation.usage.set_actual_cost(700_000)
        raise ValueError("the answer came, and parsing it failed")
except ValueError:
    pass
steps = [step for step, _ in calls]
print("  reserved 1,000,000, reported 700,000, then an exception:", steps)
if steps != ["reservations", "release"]:
    sys.exit("CHANGED: the whole reservation used to be released")
PY
