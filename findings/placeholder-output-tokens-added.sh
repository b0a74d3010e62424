#!/usr/bin/env bash
# The output tokens of a stream are counted once too often, by what message_start holds in their place.
#
# A stream of the Messages API says output_tokens twice: in message_start, before there is any output, and in
# message_delta, where the count is cumulative. One would expect the last to replace the first. Two widely used readers
# add them: OpenLLMetry's span attribute and LangChain.js' usage_metadata are higher than what is billed, while their
# own figures for the same answer without streaming are right. The error is a few tokens a call, the same for long and
# short answers, so it shows only where a meter is compared with the bill: here 508 for 500.
# What to do: take totals from non-streaming calls or from the SDK's final message, not from these two.
# Seen on 2026-12-01 with opentelemetry-instrumentation-anthropic 0.62.4 and @langchain/anthropic 1.5.11.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
command -v npm >/dev/null || cannot 'npm is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  anthropic==2.15.0 opentelemetry-instrumentation-anthropic==0.62.4 opentelemetry-sdk==1.45.2 || cannot 'pip could not install'
npm install --prefix "$scratch" --silent --no-audit --no-fund --ignore-scripts \
  @langchain/anthropic@1.5.11 @langchain/core@1.4.0 || cannot 'npm could not install'

cat >"$scratch/stream" <<'SSE'
event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5-5","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1000,"output_tokens":8}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello."}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":500}}

event: message_stop
data: {"type":"message_stop"}

SSE

cat >"$scratch/finding.py" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path
import anthropic, httpx2
from opentelemetry.instrumentation.anthropic import AnthropicInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
AnthropicInstrumentor().instrument(tracer_provider=provider)
body = Path(sys.argv[1]).read_text()
reply = lambda request: httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=body)
client = anthropic.Anthropic(api_key="none", http_client=httpx2.Client(transport=httpx2.MockTransport(reply)))
ask = {"model": "claude-sonnet-5-5", "max_tokens": 900, "messages": [{"role": "user", "content": "Hello."}]}
with client.messages.stream(**ask) as stream:
    billed = stream.get_final_message().usage.output_tokens
(span,) = spans.get_finished_spans()
seen = span.attributes["gen_ai.usage.output_tokens"]
print("opentelemetry-instrumentation-anthropic", version("opentelemetry-instrumentation-anthropic"))
print(f"  the SDK's final message: {billed} output tokens; the span: {seen}")
if (billed, seen) != (500, 508):
    sys.exit("CHANGED: 8 + 500 used to be reported for 500")
PY
cat >"$scratch/finding.mjs" <<'JS'
import { readFileSync } from 'node:fs';
import { ChatAnthropic } from '@langchain/anthropic';
const body = readFileSync(process.argv[2], 'utf8');
const fetch = async () => new Response(body, { headers: { 'content-type': 'text/event-stream' } });
const model = new ChatAnthropic({ model: 'claude-sonnet-5-5', apiKey: 'none', maxTokens: 900, clientOptions: { fetch } });
let whole;
for await (const chunk of await model.stream('Hello.')) whole = whole ? whole.concat(chunk) : chunk;
const seen = whole.usage_metadata.output_tokens;
console.log('@langchain/anthropic 1.5.11\n  usage_metadata of the stream:', seen, 'output tokens');
if (seen !== 508) {
  console.error('CHANGED: 508 used to be reported for 500');
  process.exit(1);
}
JS
"$scratch/venv/bin/python" "$scratch/finding.py" "$scratch/stream"
node "$scratch/finding.mjs" "$scratch/stream"
