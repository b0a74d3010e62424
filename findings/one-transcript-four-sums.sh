#!/usr/bin/env bash
# Four tools read one Claude Code transcript and report four outputs: 1, 5,000, 1 and 5,001 tokens.
#
# A transcript has a line for each content block of an answer, all with the id of the one message that was billed; lines
# written while the answer streamed hold the output count of its beginning, the last one the final count. One would
# expect a usage tool to take each message once, at its last line. ccusage and agentburn take the first, cc-cost the sum
# of all, aiburn the last. Here the answer is 5,000 tokens long; a prompt of 100 is counted once or twice. The tools
# agree as long as every answer has a single line.
# What to do: group by message id and keep the greatest output.
# Seen on 2026-12-01 with ccusage 18.0.11 (npm), aiburn 0.4.5, agentburn 0.14.0 and cc-cost 1.1.0 (PyPI).
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
command -v npm >/dev/null || cannot 'npm is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  aiburn==0.4.5 agentburn==0.14.0 cc-cost==1.1.0 || cannot 'pip could not install'
npm install --prefix "$scratch" --silent --no-audit --no-fund --ignore-scripts \
  ccusage@18.0.11 || cannot 'npm could not install'

session=11111111-1111-4111-8111-111111111111
mkdir -p "$scratch/home/.claude/projects/-home-user-app"
for line in '1 null' '5000 "end_turn"'; do
  read -r output stop <<<"$line"
  cat <<JSON
{"parentUuid":null,"isSidechain":false,"userType":"external","cwd":"/home/user/app","sessionId":"$session","version":"2.1.300","type":"assistant","requestId":"req_1","uuid":"00000000-0000-4000-8000-00000000$(printf %04d "$output")","timestamp":"$(date -u +%Y-%m-%dT00:00:01.000Z)","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5-20250929","content":[{"type":"text","text":"Hello."}],"stop_reason":$stop,"stop_sequence":null,"usage":{"input_tokens":100,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":$output}}}
JSON
done >"$scratch/home/.claude/projects/-home-user-app/$session.jsonl"

export HOME="$scratch/home" CLAUDE_CONFIG_DIR="$scratch/home/.claude" TZ=UTC
cd "$scratch"
node_modules/.bin/ccusage daily --json --offline >ccusage.json
venv/bin/aiburn --json >aiburn.json
venv/bin/agentburn --json >agentburn.json
venv/bin/cc-cost --json >cc-cost.json
venv/bin/python - <<'PY'
import json, sys
from importlib.metadata import version
from pathlib import Path

read = {name: json.loads(Path(name + ".json").read_text()) for name in ("ccusage", "aiburn", "agentburn", "cc-cost")}
counted = {
    "ccusage": (read["ccusage"]["totals"]["inputTokens"], read["ccusage"]["totals"]["outputTokens"]),
    "aiburn": (read["aiburn"]["groups"][0]["input"], read["aiburn"]["groups"][0]["output"]),
    "agentburn": (read["agentburn"]["total"]["input_tokens"], read["agentburn"]["total"]["output_tokens"]),
    "cc-cost": (read["cc-cost"]["total"]["input"], read["cc-cost"]["total"]["output"]),
}
for name, (prompt, output) in counted.items():
    print(f"{name} {'18.0.11' if name == 'ccusage' else version(name)}: {prompt} in, {output} out")
if list(counted.values()) != [(100, 1), (100, 5000), (100, 1), (200, 5001)]:
    sys.exit("CHANGED: used to be 100 in and 1 out, 100 and 5000, 100 and 1, 200 and 5001")
PY
