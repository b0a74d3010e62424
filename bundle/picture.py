"""Draw the README's picture of the demonstration from its real output.

    python bundle/picture.py docs/demo.svg

The scripted Claude plays the model, so the picture needs no key and costs nothing.
"""

import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

WIDTH = 118

FIRST_SECTION = "5. It delegates"
"""The picture begins here: a delegation that runs to the end of its budget, and what follows."""


def output_of_the_demonstration() -> str:
    """Run the demonstration without a key and return what it prints.

    Raises:
        CalledProcessError: it failed, or what it showed did not add up.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "BUDGET_"))}
    command = [sys.executable, "-m", "budget_server", "demo"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    return shown.stdout


def draw(output: str) -> str:
    """Return an SVG of the output's last sections, in fonts that the reader's machine has."""
    lines = output.splitlines()
    start = next(number for number, line in enumerate(lines) if FIRST_SECTION in line)
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "green"), ("make demo", "bold")))
    for line in lines[start:]:
        style = "bold" if re.match(r"^─+ ", line) or "adds up" in line else ""
        console.print(Text(line, style=style), no_wrap=True)
    svg = console.export_svg(title="make demo", theme=MONOKAI, unique_id="demo")
    # A picture that fetches fonts from elsewhere tells somebody else who looks at it.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code", "ui-monospace")


def main() -> None:
    """Write the picture to the path that the command line names."""
    path = Path(sys.argv[1])
    path.write_text(draw(output_of_the_demonstration()), encoding="utf-8")
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
