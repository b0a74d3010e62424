"""Build the bundle that desktop hosts install with a double click: an archive of the manifest and the sources.

The host's own uv makes the environment when it first starts the server, from the ranges in ``pyproject.toml``. The same
sources give the same bytes.

    python bundle/build.py dist/cycles-budget-mcp.mcpb
"""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = ("pyproject.toml", "README.md", "LICENSE")
SOURCES = ("server", "tools")

_BEGINNING = (1980, 1, 1, 0, 0, 0)  # the earliest that an archive can say
_MODE = 0o644


def build(target: Path) -> list[str]:
    """Write the bundle and give the names of what is in it."""
    contents = {"manifest.json": ROOT / "bundle" / "manifest.json"}
    contents |= {name: ROOT / name for name in FILES}
    for source in SOURCES:
        found = (path for path in sorted((ROOT / source).rglob("*")) if path.is_file() and path.suffix != ".pyc")
        contents |= {path.relative_to(ROOT).as_posix(): path for path in found}
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in contents.items():
            entry = zipfile.ZipInfo(name, _BEGINNING)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, _MODE << 16
            archive.writestr(entry, path.read_bytes())
    return list(contents)


if __name__ == "__main__":
    (place,) = (Path(argument) for argument in sys.argv[1:])
    print(f"{place}: {len(build(place))} files")
