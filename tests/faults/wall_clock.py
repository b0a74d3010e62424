"""A wall clock that tests set, of processes that are started with it (``worker.py`` reads its file)."""

import json
import time
from pathlib import Path


class WallClock:
    """The wall clock of the processes that are started with it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "clock.json"
        self.jump(0)

    def jump(self, seconds: float | None) -> None:
        """Set it so far ahead of the right time, or have it stand still."""
        frozen_at_ns = time.time_ns() if seconds is None else None
        text = json.dumps({"ahead_ns": int((seconds or 0) * 10**9), "frozen_at_ns": frozen_at_ns})
        whole = self.path.with_suffix(".new")
        whole.write_text(text, encoding="utf-8")
        whole.replace(self.path)
