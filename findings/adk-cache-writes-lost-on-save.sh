#!/usr/bin/env bash
# Google ADK knows what Claude wrote to the cache until the response is saved.
#
# usage_metadata.cache_creation_input_tokens is there on the response that the model returns. One would expect an
# attribute of a pydantic model to be one of its fields. It is set around the model, so every dump leaves it out, to
# JSON or to a dict, and with it every session store, event and log that is read later, while the tokens themselves stay
# in prompt_token_count. What was written to the cache, at 1.25 or 2 times the price of input, is then input like any
# other; a cost that was right while the process ran is too low when it is computed from the session.
# What to do: read the count in a callback, before anything is stored.
# Seen on 2026-12-01 with google-adk 2.13.0 and anthropic 2.15.0.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  google-adk==2.13.0 anthropic==2.15.0 || cannot 'pip could not install'

cat >"$scratch/finding.py" <<'PY'
import asyncio, sys
from importlib.metadata import version
import httpx2
from anthropic import AsyncAnthropic
from google.adk.events import Event
from google.adk.models.anthropic_llm import AnthropicLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.genai import types

usage = {"input_tokens": 100, "cache_creation_input_tokens": 7500, "cache_read_input_tokens": 0, "output_tokens": 50}
message = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5",
    "content": [{"type": "text", "text": "Hello."}], "stop_reason": "end_turn", "stop_sequence": None, "usage": usage,
}
transport = httpx2.MockTransport(lambda request: httpx2.Response(200, json=message))


class Scripted(AnthropicLlm):
    async def _get_anthropic_client(self) -> AsyncAnthropic:
        return AsyncAnthropic(api_key="none", http_client=httpx2.AsyncClient(transport=transport))


async def main() -> None:
    hello = types.Content(role="user", parts=[types.Part(text="Hello.")])
    request = LlmRequest(model="claude-sonnet-5-5", contents=[hello])
    (response,) = [each async for each in Scripted(model="claude-sonnet-5-5").generate_content_async(request)]
    read_back = LlmResponse.model_validate_json(response.model_dump_json())
    event = Event(author="agent", **response.model_dump())
    name = "cache_creation_input_tokens"
    counts = [getattr(each.usage_metadata, name, None) for each in (response, read_back, event)]
    prompts = [each.usage_metadata.prompt_token_count for each in (response, read_back, event)]
    print("google-adk", version("google-adk"), "anthropic", version("anthropic"))
    print("  written to the cache, in the response, read back, in an event:", counts)
    print("  the prompt, in the same three:", prompts)
    if counts != [7500, None, None] or prompts != [7600] * 3:
        sys.exit("CHANGED: the 7500 used to be lost on the way through a dump")


asyncio.run(main())
PY
"$scratch/venv/bin/python" -W ignore "$scratch/finding.py"
