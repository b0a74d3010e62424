#!/usr/bin/env bash
# A limit that the MCP Inspector's command line cannot read as a number is sent as null, which is no limit.
#
# `--tool-arg max_usd=0,50` has a comma for a point, and `max_usd=$5` a currency sign. One would expect an error, or the
# text as it is, which a server refuses. The Inspector makes a number of it, gets none, and JSON writes that as null.
# For an optional parameter null means "not given": the tool runs without the cap that the user typed, and the result is
# a success. 1_000 goes the same way. mcporter sends the text, and the server's validation names the argument.
# What to do: look at what a tool echoes of its limits; write a cap in digits and one point.
# Seen on 2026-12-01 with @modelcontextprotocol/inspector 2.12.0, mcporter 0.12.3 and, for the server, mcp 2.3.0.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
command -v npm >/dev/null || cannot 'npm is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  mcp==2.3.0 || cannot 'pip could not install'
npm install --prefix "$scratch" --silent --no-audit --no-fund --ignore-scripts \
  @modelcontextprotocol/inspector@2.12.0 mcporter@0.12.3 || cannot 'npm could not install'

cat >"$scratch/server.py" <<'PY'
import logging
from mcp.server import MCPServer

logging.disable(logging.CRITICAL)
server = MCPServer("shop", version="1")


@server.tool()
def buy(max_usd: float | None = None) -> str:
    return f"bought with cap {max_usd}"


server.run("stdio")
PY
cd "$scratch"
export HOME="$scratch"
inspect() {
  node_modules/.bin/mcp-inspector --cli venv/bin/python server.py --method tools/call --tool-name buy --tool-arg "$1" 2>&1 || true
}
call() {
  node_modules/.bin/mcporter call --stdio 'venv/bin/python server.py' buy "$1" 2>&1 || true
}
changed=0
expect() {
  printf '%s %s: ' "$1" "$2"
  if grep -oF "$3" <<<"$4" | head -n 1 | grep .; then return; fi
  printf 'CHANGED: used to say "%s"; says %s\n' "$3" "$4"
  changed=1
}
expect 'inspector 2.12.0' 'max_usd=0.50' 'bought with cap 0.5' "$(inspect max_usd=0.50)"
expect 'inspector 2.12.0' 'max_usd=0,50' 'bought with cap None' "$(inspect max_usd=0,50)"
expect 'inspector 2.12.0' 'max_usd=$5' 'bought with cap None' "$(inspect 'max_usd=$5')"
expect 'mcporter 0.12.3' 'max_usd=0,50' 'unable to parse string as a number' "$(call max_usd=0,50)"
exit $changed
