"""Processes on one ledger, killed at counted points: what was answered stays, nothing is done twice or overspent.

``CRASH_POINTS=10000`` is the long campaign (``make crash``); ``CRASH_SEED`` repeats what the processes do, and where
they kill themselves. Delegations are killed in ``test_killed_anywhere.py``.
"""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

from campaigns.crash_worker import KINDS

POINTS = int(os.environ.get("CRASH_POINTS", "300"))
SEED = int(os.environ.get("CRASH_SEED", "0")) or secrets.randbelow(2**32)
WORKER = Path(__file__).with_name("crash_worker.py")


def test_what_was_answered_outlives_every_crash(tmp_path: Path) -> None:
    """After every round each answer stands in the ledger, once; what was not answered is found or done by its key."""
    ended = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path / "ledger.db"), str(POINTS), str(SEED)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120 + POINTS,
        check=False,
    )

    assert ended.returncode == 0, f"CRASH_SEED={SEED}: {ended.stderr[-2_000:]}"
    found = json.loads(ended.stdout)
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(found.items()))
    sys.stderr.write(f"\nCRASH_SEED={SEED}: {counts}\n")
    assert sum(found.get(kind, 0) for kind in KINDS) >= POINTS
    assert all(found.get(name) for name in (*KINDS, "acknowledged", "asked again", "denied", "days begun"))
