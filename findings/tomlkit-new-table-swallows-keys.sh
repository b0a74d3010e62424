#!/usr/bin/env bash
# A table added with tomlkit to a file with dotted keys takes the keys that follow into itself.
#
# tomlkit exists to edit a TOML file and keep the rest as it is. A Codex configuration may write its servers as dotted
# keys (mcp_servers.a.command = ...). One would expect a server added to that table to be written after everything that
# is not a table, or as dotted keys. It is written in the middle, as [mcp_servers.budget], so the lines below it change
# owner: the arguments of the other server and the user's `model` become keys of the new one. The file parses, nothing
# warns, and the host runs with another model, at another price.
# What to do: parse the edited text again and compare everything that was not to change.
# Seen on 2026-12-01 with tomlkit 0.15.2.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  tomlkit==0.15.2 || cannot 'pip could not install'

"$scratch/venv/bin/python" - <<'PY'
import sys, tomllib
from importlib.metadata import version
import tomlkit

BEFORE = 'mcp_servers.a.command = "a"\nmcp_servers.a.args = ["serve"]\nmodel = "small"\n'
document = tomlkit.parse(BEFORE)
document["mcp_servers"]["budget"] = {"command": "b"}
after = tomlkit.dumps(document)
intended, written = document.unwrap(), tomllib.loads(after)
print("tomlkit", version("tomlkit"))
print("  " + after.strip().replace("\n", "\n  "))
print("  in memory:", intended)
print("  in the file:", written)
if intended.get("model") != "small" or "model" in written or written["mcp_servers"]["budget"].get("model") != "small":
    sys.exit("CHANGED: model used to move into the new table")
PY
