#!/usr/bin/env bash
# Since 0.5.1 the Cycles client takes an answer with one field too many for a failure, and repeats what was done.
#
# The protocol's document closes its answers, and has grown by fields all the same, which it calls additive. One would
# expect a client to ignore what it does not know, and until 0.5.0 this one did. Now a reservation that the server
# granted becomes an exception, asked for twice, and its money stays held until it expires; a commit that the server
# booked is sent five more times and then kept on disk, to be sent again at each start. The exception has status 200 and
# no reason code, so code that takes every CyclesProtocolError for a denial says that the budget is spent.
# What to do: hold back server upgrades until the client knows the fields; look at the status before saying "denied".
# Seen on 2026-12-01 with runcycles 0.5.3 and, before the change, 0.5.0.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  runcycles==0.5.3 || cannot 'pip could not install'

python3 -m venv "$scratch/before"
"$scratch/before/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  runcycles==0.5.0 || cannot 'pip could not install'

cat >"$scratch/finding.py" <<'PY'
import json, logging, os, sys, tempfile, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
import runcycles

calls: list[tuple[str, dict]] = []
grown: dict[str, object] = {}


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
        body = json.dumps(answer | grown).encode()
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

grown["policy_version"] = "7"
failure = None
try:
    with client.stream_reservation(**ask) as reservation:
        reservation.usage.set_actual_cost(2_500)
except runcycles.CyclesProtocolError as error:
    failure = (error.status, error.reason_code)
reserving = [step for step, _ in calls]
calls.clear()
grown.clear()
with client.stream_reservation(**ask) as reservation:
    reservation.usage.set_actual_cost(2_500)
    grown["policy_version"] = "7"
strict = version("runcycles") == "0.5.3"
deadline = time.monotonic() + 20
while strict and time.monotonic() < deadline and len(calls) < 7:
    time.sleep(0.05)
committing = [step for step, _ in calls]
kept = sum(len(files) for _, _, files in os.walk(config.journal_dir))
print("  reserve, granted with one more field:", reserving, "raised, status and reason:", failure)
print("  commit, booked with one more field:", committing, "files kept for the next start:", kept)
known = ["reservations", "commit"], None, ["reservations", "commit"], 0
if strict:
    known = ["reservations"] * 2, (200, None), ["reservations"] + ["commit"] * 6, 1
if (reserving, failure, committing, kept) != known:
    sys.exit(f"CHANGED: used to be {known}")
PY
"$scratch/before/bin/python" "$scratch/finding.py" "$scratch"
"$scratch/venv/bin/python" "$scratch/finding.py" "$scratch"
