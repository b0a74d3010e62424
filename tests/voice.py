"""Count words and openings in docstrings that make a reader stop; too many of them fail ``make check``.

    python tests/voice.py server tools

ruff holds functions to the imperative mood (D401). What no rule of it knows is counted here: words that are rare in
technical English, and verbs that open a docstring without saying what comes back.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

RARE_WORDS = re.compile(r"\b(whoever|anew|nobody|(?<!there )(?:is|are) (?:no|none))\b")
"""What is *not* is said as such: "there is no limit" is plain, "a page is no answer" is not."""
MOST_PERCENT = 1

VAGUE_OPENINGS = frozenset({"Give", "Gives", "Say", "Says", "Tell", "Tells"})
SHOWN_TO_MODELS = ("release_budget.py",)
"""Modules whose docstring is a tool's description, written for a model."""


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every docstring of a file, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


def main() -> int:
    """Print every place, and return 1 if there are too many."""
    count, rare, vague = 0, 0, 0
    for path in sorted(each for root in sys.argv[1:] for each in Path(root).rglob("*.py")):
        for line, text in docstrings(path):
            count += 1
            if found := RARE_WORDS.search(text):
                rare += 1
                print(f"{path}:{line}: rare word: {found.group()}")
            if text.split()[0] in VAGUE_OPENINGS and path.name not in SHOWN_TO_MODELS:
                vague += 1
                print(f"{path}:{line}: opens with {text.split()[0]}")
    print(f"{count} docstrings, {rare} with a rare word (at most {MOST_PERCENT} %), {vague} with a vague opening")
    return int(rare * 100 > count * MOST_PERCENT or vague > 0)


if __name__ == "__main__":
    sys.exit(main())
