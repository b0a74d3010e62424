#!/usr/bin/env bash
# CYCLES_JOURNAL_ENABLED=1 turns the journal off, and CYCLES_RETRY_ENABLED=1 the retries.
#
# Both are on unless said otherwise, and both protect spend: a commit that does not get through is repeated, and kept on
# disk over a restart. One would expect 1, yes and on to mean on, or to be refused. Every word but "true" means off,
# without a message: whoever writes the switch down to be sure loses what it switches, and a commit that does not get
# through is dropped for good.
# What to do: write true, or leave the variables out.
# Seen on 2026-12-01 with runcycles 0.5.3.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  runcycles==0.5.3 || cannot 'pip could not install'

"$scratch/venv/bin/python" - <<'PY'
import os, sys
from importlib.metadata import version
from runcycles import CyclesConfig

print("runcycles", version("runcycles"))
os.environ.update(CYCLES_BASE_URL="http://127.0.0.1:1", CYCLES_API_KEY="none")
seen = {}
for word in (None, "true", "True", "1", "yes", "on"):
    if word is not None:
        os.environ.update(CYCLES_RETRY_ENABLED=word, CYCLES_JOURNAL_ENABLED=word)
    config = CyclesConfig.from_env()
    seen[word] = (config.retry_enabled, config.journal_enabled)
    print(f"  {word or 'unset'}: retry {config.retry_enabled}, journal {config.journal_enabled}")
on = {word for word, both in seen.items() if both == (True, True)}
off = {word for word, both in seen.items() if both == (False, False)}
if (on, off) != ({None, "true", "True"}, {"1", "yes", "on"}):
    sys.exit("CHANGED: 1, yes and on used to mean off")
PY
