#!/usr/bin/env bash
# A cost with a decimal point makes the Cycles client charge the whole estimate.
#
# cost_fn returns what a call cost. One would expect 2,500.0 to be taken as 2,500, or refused with an exception, as the
# protocol's amounts are integers. Instead the estimate is committed, by all three ways to say a cost: cost_fn, the
# decorator's actual, set_actual_cost. Any price with a fraction makes such floats (1,000 tokens at 2.5), the call
# succeeds, and the only trace is a log line and actual_source in the metadata. Here 400 times the cost is charged; with
# an estimate that is too low, less than was spent.
# What to do: round up to int yourself, and watch for actual_source "estimate" in what is committed.
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
import json, logging, sys, tempfile, threading, time
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

logging.disable(logging.CRITICAL)

ask = {
    "action": runcycles.Action(kind="llm.completion", name="claude"),
    "estimate": runcycles.Amount(unit="USD_MICROCENTS", amount=1_000_000),
}
print("runcycles", version("runcycles"))

with client.stream_reservation(**ask, cost_fn=lambda usage: usage.tokens_input * 2.5) as reservation:
    reservation.usage.tokens_input = 1_000
with client.stream_reservation(**ask) as reservation:
    reservation.usage.set_actual_cost(2_500.0)


@runcycles.cycles(1_000_000, actual=lambda tokens: tokens * 2.5, client=client)
def work() -> int:
    return 1_000


work()
charged = [asked["actual"]["amount"] for step, asked in calls if step == "commit"]
print("  estimate 1,000,000, cost 2,500.0, charged:", charged)
if charged != [1_000_000] * 3:
    sys.exit("CHANGED: the estimate used to be charged, three times")
PY
