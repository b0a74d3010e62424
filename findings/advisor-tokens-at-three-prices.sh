#!/usr/bin/env bash
# One usage with an advisor's tokens, three libraries: two wrong prices, and none that is right.
#
# With the advisor tool the API calls a second, dearer model within one request. Its tokens are in usage.iterations,
# with the model's name, and not in the top-level counts. One would expect a price library to read the entry and price
# it at the model it names. genai-prices and pydantic-ai leave it out: $0.007. LiteLLM adds its tokens to those of the
# asking model and takes that model's rate: $0.127. At list prices it is $0.247. As an advisor is the dearer of the two,
# the error is to the low side, and nothing in a result shows it.
# What to do: price each entry of iterations by its own model, or refuse a usage that has any but "message".
# Seen on 2026-12-01 with litellm 1.110.2, genai-prices 0.2.3, pydantic-ai-slim 2.68.0, anthropic 2.15.0.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  litellm==1.110.2 genai-prices==0.2.3 pydantic-ai-slim[anthropic]==2.68.0 anthropic==2.15.0 || cannot 'pip could not install'

LITELLM_LOCAL_MODEL_COST_MAP=True "$scratch/venv/bin/python" - <<'PY'
import sys
from decimal import Decimal
from importlib.metadata import version
import httpx2, litellm
from anthropic import AsyncAnthropic
from genai_prices import Usage, calc_price, extract_usage
from litellm.llms.anthropic.chat.transformation import AnthropicConfig
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.providers.anthropic import AnthropicProvider

asking = {"input_tokens": 1_000, "output_tokens": 500, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
advice = {"input_tokens": 50_000, "output_tokens": 2_000, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
usage = {**asking, "iterations": [
    {"type": "message", **asking}, {"type": "advisor_message", "model": "claude-opus-5-5", **advice},
]}
message = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5",
    "content": [{"type": "text", "text": "Hello."}], "stop_reason": "end_turn", "stop_sequence": None, "usage": usage,
}


def price(model: str, counts: dict[str, int]) -> Decimal:
    counted = Usage(input_tokens=counts["input_tokens"], output_tokens=counts["output_tokens"])
    return calc_price(counted, model, provider_id="anthropic").total_price


costs = {"at list prices": price("claude-sonnet-5-5", asking) + price("claude-opus-5-5", advice)}
costs["genai-prices"] = extract_usage(message, provider_id="anthropic").calc_price().total_price
transport = httpx2.MockTransport(lambda request: httpx2.Response(200, json=message))
client = AsyncAnthropic(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
agent = Agent(AnthropicModel("claude-sonnet-5-5", provider=AnthropicProvider(anthropic_client=client)))
costs["pydantic-ai-slim"] = agent.run_sync("Hello.", model_settings={"max_tokens": 900}).usage.cost
read = AnthropicConfig().calculate_usage(usage_object=usage, reasoning_content=None)
answer = litellm.ModelResponse(model="claude-sonnet-5-5", usage=read)
costs["litellm"] = Decimal(str(round(litellm.completion_cost(answer, model="anthropic/claude-sonnet-5-5"), 6)))
for name, cost in costs.items():
    print(name, "" if " " in name else version(name), f"${cost}")
if [str(cost.normalize()) for cost in costs.values()] != ["0.247", "0.007", "0.007", "0.127"]:
    sys.exit("CHANGED: used to be 0.247, 0.007, 0.007, 0.127")
PY
