"""What a disk may hold after the power failed is opened: each answer that was given is there, any other whole or not.

A ledger's work is recorded write by write (``power_worker.py``). An image is what could be on the disk at one moment:
all that was flushed before, and of each write since any part, in sectors of 512 bytes, each on the disk or not,
whatever came first; that a name is gone, only if the directory was flushed since. ``POWER_IMAGES=10000`` is the long
campaign; ``POWER_SEED`` repeats one. Names of files are taken to be on the disk once they were made.
"""

import os
import pickle
import random
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from budget_server.authority.audit import audit
from budget_server.authority.store import LedgerStore
from contract.harness import NOON_MS

IMAGES = int(os.environ.get("POWER_IMAGES", "500"))
SEED = int(os.environ.get("POWER_SEED", "0")) or secrets.randbelow(2**32)
WORKER = Path(__file__).with_name("power_worker.py")
NAME = "ledger.db"
SECTOR = 512
FULL, NORMAL = 2, 1
Log = list[tuple[Any, ...]]


def record(directory: Path, seed: int, synchronous: int) -> Log:
    """Let a ledger work, and give what it did to its files."""
    directory.mkdir()
    log = directory / "log"
    command = [sys.executable, str(WORKER), str(directory / NAME), str(seed), str(synchronous), str(log)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return pickle.loads(log.read_bytes())  # type: ignore[no-any-return]  # noqa: S301 - our own


def image(log: Log, moment: int, rng: random.Random) -> dict[str, bytes]:
    """Make files as they may be on the disk if the power fails at a moment of the log."""
    flushed = {entry[1]: number for number, entry in enumerate(log[:moment]) if entry[0] == "flush"}
    names_flushed = max((number for number, entry in enumerate(log[:moment]) if entry[0] == "flush names"), default=-1)
    files: dict[str, bytearray] = {}
    notes = [b""]
    keeps = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    for number, entry in enumerate(log[:moment]):
        match entry:
            case ("write", name, offset, data):
                is_sure = number < flushed.get(name, -1)
                file = files.setdefault(name, bytearray())
                for start in range(0, len(data), SECTOR):
                    if is_sure or rng.random() < keeps:
                        end = offset + min(start + SECTOR, len(data))
                        file.extend(bytes(max(0, end - len(file))))
                        file[offset + start : end] = data[start : start + SECTOR]
            case ("truncate", name, size):
                if number < flushed.get(name, -1) or rng.random() < keeps:
                    del files.setdefault(name, bytearray())[size:]
            case ("delete", name):
                if number < names_flushed or rng.random() < keeps:
                    files.pop(name, None)
            case ("note", text):
                notes.append(text)
            case _:
                pass
    # Written after what it notes was flushed, and never flushed itself: any of them may be there.
    note = rng.choice((notes[-1], rng.choice(notes)))
    return {**{name: bytes(content) for name, content in files.items()}, f"{NAME}.lock": note}


def losses(directory: Path, log: Log, moment: int) -> list[str]:
    """Open an image, and say what of the acknowledged is missing, or what is there in part."""
    acknowledged = [entry for entry in log[:moment] if entry[0] == "ack"]
    states = {entry[2]: entry[3] for entry in acknowledged if entry[2]}
    spent = sum(entry[4] for entry in acknowledged)
    path = directory / NAME
    store = LedgerStore(path, clock=lambda: NOON_MS + 10_000)
    select = "SELECT reservation_id, state FROM reservations"
    found_rows: list[Any] = store.run(lambda ledger: ledger.db.execute(select).fetchall())
    rows = dict(found_rows)
    amounts = store.run(lambda ledger: ledger.db.execute("SELECT spent FROM budgets ORDER BY scope").fetchall())
    store.close()
    # The one after the last that was acknowledged may have been done as well.
    following = next((entry for entry in log[moment:] if entry[0] == "ack"), ("ack", 0, "", "", 0))
    later = {**states, **({following[2]: following[3]} if following[2] else {})}
    found = [
        f"{rid}: {rows.get(rid)}, not {state}"
        for rid, state in states.items()
        if rows.get(rid) not in (state, later[rid])
    ]
    if rows not in (states, later):
        found.append("what is there is of no one moment")
    found += [f"spent {each}, not {spent}" for (each,) in amounts if each not in (spent, spent + following[4])]
    return found + audit(path, None).findings


def lost_in(tmp_path: Path, log: Log, images: int, seed: int) -> list[str]:
    """Make images, and say what each lost."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    first = log.index(("set up",)) + 1
    lost: list[str] = []
    for number in range(images):
        moment = rng.randrange(first, len(log) + 1)
        directory = tmp_path / "image"
        directory.mkdir()
        for name, content in image(log, moment, rng).items():
            (directory / name).write_bytes(content)
        try:
            found = losses(directory, log, moment)
        except Exception as exc:  # whatever keeps it from being opened is what is looked for
            found = [f"{exc.__class__.__name__}: {exc}"]
        if found:
            lost.append(f"image {number} at {moment}: {found[0]}")
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
    return lost


def test_no_answer_is_lost_with_the_power(tmp_path: Path) -> None:
    """As the ledger is: every commit is flushed before it is answered."""
    log = record(tmp_path / "recorded", SEED, FULL)
    assert sum(entry[0] == "write" and entry[1] == NAME for entry in log) > 20, "the log never began anew"

    lost = lost_in(tmp_path, log, IMAGES, SEED)

    sys.stderr.write(f"\nPOWER_SEED={SEED}: {IMAGES:,} images, {len(lost)} with losses\n")
    assert lost == [], f"POWER_SEED={SEED}"


def test_the_images_would_show_a_loss(tmp_path: Path) -> None:
    """With the setting that flushes less, the same images lose what was answered."""
    log = record(tmp_path / "recorded", SEED, NORMAL)

    lost = lost_in(tmp_path, log, 100, SEED)

    sys.stderr.write(f"\nPOWER_SEED={SEED}: with less flushing, {len(lost)} of 100 images have losses\n")
    assert len(lost) > 10, f"POWER_SEED={SEED}"
