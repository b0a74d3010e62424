#!/usr/bin/env bash
# One call to Claude leaves two spans, each with its tokens, under two names for the same cache write.
#
# One would expect a provider's SDK to emit no telemetry that nobody asked for. The Anthropic SDK does as soon as the
# process has a global tracer provider, with no option set. Add the usual instrumentation package, and a dashboard that
# sums gen_ai.usage.input_tokens counts each call twice: the two spans have no parent in common and differ in scope
# only. Tokens written to the cache are gen_ai.usage.cache_write.input_tokens in one of them and
# gen_ai.usage.cache_creation.input_tokens in the other, so a sum by attribute name finds half of each.
# What to do: group by instrumentation scope, or run one of the two.
# Seen on 2026-12-01 with anthropic 2.15.0, opentelemetry-instrumentation-anthropic 0.62.4, opentelemetry-sdk 1.45.2.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  anthropic==2.15.0 opentelemetry-instrumentation-anthropic==0.62.4 opentelemetry-sdk==1.45.2 || cannot 'pip could not install'

"$scratch/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version
import anthropic, httpx2
from opentelemetry import trace
from opentelemetry.instrumentation.anthropic import AnthropicInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
AnthropicInstrumentor().instrument()
usage = {"input_tokens": 100, "cache_creation_input_tokens": 900, "cache_read_input_tokens": 0, "output_tokens": 50}
message = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5",
    "content": [{"type": "text", "text": "Hello."}], "stop_reason": "end_turn", "stop_sequence": None, "usage": usage,
}
transport = httpx2.MockTransport(lambda request: httpx2.Response(200, json=message))
client = anthropic.Anthropic(api_key="none", http_client=httpx2.Client(transport=transport))
client.messages.create(model="claude-sonnet-5-5", max_tokens=99, messages=[{"role": "user", "content": "Hello."}])

print("anthropic", version("anthropic"))
print("opentelemetry-instrumentation-anthropic", version("opentelemetry-instrumentation-anthropic"))
total, names = 0, set()
for span in spans.get_finished_spans():
    print(f"  {span.instrumentation_scope.name}: parent {span.parent}")
    for name, value in sorted(span.attributes.items()):
        if name.startswith("gen_ai.usage."):
            print(f"    {name} = {value}")
    total += span.attributes["gen_ai.usage.input_tokens"]
    names |= {name for name, value in span.attributes.items() if name.startswith("gen_ai.usage.cache") and value == 900}
print(f"  sum of input tokens over the spans: {total}; used: 1000")
if total != 2000 or names != {"gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.cache_creation.input_tokens"}:
    sys.exit("CHANGED: there used to be two spans of 1000 input tokens, with two names for the 900 written")
PY
