#!/usr/bin/env bash
# input_tokens, cache_read_tokens and cache_write_tokens mean opposite things in agno and in pydantic-ai.
#
# Two agent frameworks report one answer of Claude under the same three names. One would expect the same numbers. In
# pydantic-ai (and genai-prices) input_tokens is the whole prompt, cache included: 39,111. In agno it is what was not
# cached: 2. A meter that knows the names of one charges the other's cached prompts at the full price or takes them off
# twice, and the names give no hint which it has. agno's total_tokens is input plus output, so 6 where 39,115 were used:
# a limit on it lets through more the better the cache works.
# What to do: if the cached counts exceed input_tokens it is the exclusive kind; if not, ask which framework it was.
# Seen on 2026-12-01 with agno 3.1.10, pydantic-ai-slim 2.68.0 and anthropic 2.15.0.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  agno==3.1.10 pydantic-ai-slim[anthropic]==2.68.0 anthropic==2.15.0 || cannot 'pip could not install'

cat >"$scratch/finding.py" <<'PY'
import sys
from importlib.metadata import version
import anthropic, httpx2
from agno.agent import Agent as AgnoAgent
from agno.models.anthropic import Claude
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.providers.anthropic import AnthropicProvider

usage = {"input_tokens": 2, "cache_creation_input_tokens": 7548, "cache_read_input_tokens": 31561, "output_tokens": 4}
message = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5",
    "content": [{"type": "text", "text": "Hello."}], "stop_reason": "end_turn", "stop_sequence": None, "usage": usage,
}
transport = httpx2.MockTransport(lambda request: httpx2.Response(200, json=message))
client = anthropic.Anthropic(api_key="none", http_client=httpx2.Client(transport=transport))
async_client = anthropic.AsyncAnthropic(api_key="none", http_client=httpx2.AsyncClient(transport=transport))

theirs = AgnoAgent(model=Claude(id="claude-sonnet-5-5", client=client), telemetry=False).run("Hello.").metrics
model = AnthropicModel("claude-sonnet-5-5", provider=AnthropicProvider(anthropic_client=async_client))
others = Agent(model).run_sync("Hello.", model_settings={"max_tokens": 900}).usage
names = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "total_tokens")
seen = [[getattr(counts, name) for name in names] for counts in (theirs, others)]
for package, counts in zip(("agno", "pydantic-ai-slim"), seen):
    print(package, version(package), dict(zip(names, counts)))
if seen != [[2, 31561, 7548, 6], [39111, 31561, 7548, 39115]]:
    sys.exit("CHANGED: input_tokens used to be 2 in agno and 39111 in pydantic-ai")
PY
HOME="$scratch" "$scratch/venv/bin/python" "$scratch/finding.py"
