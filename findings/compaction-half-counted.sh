#!/usr/bin/env bash
# The Vercel AI SDK counts the plain tokens of a compaction and forgets its cached ones.
#
# When the API compacts a conversation, the summarising pass is billed, and stands in usage.iterations only. The AI SDK
# knows that and adds the pass to inputTokens, so one would expect the whole pass. It adds input and output and leaves
# out what the pass read from the cache and wrote to it, which for a long cached conversation is nearly all of it: here
# 163,000 of 205,000 prompt tokens are missing, cache details and total included. A library that ignored compaction
# would be noticed sooner than one that adds a part.
# What to do: sum the four counts of each entry of providerMetadata.anthropic.iterations yourself.
# Seen on 2026-12-01 with @ai-sdk/anthropic 4.0.105 and ai 7.0.173.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
command -v npm >/dev/null || cannot 'npm is needed'
npm install --prefix "$scratch" --silent --no-audit --no-fund --ignore-scripts \
  @ai-sdk/anthropic@4.0.105 ai@7.0.173 || cannot 'npm could not install'

cat >"$scratch/finding.mjs" <<'JS'
import { createAnthropic } from '@ai-sdk/anthropic';
import { generateText } from 'ai';

const counts = (input, read, written, output) => ({
  input_tokens: input, cache_read_input_tokens: read, cache_creation_input_tokens: written, output_tokens: output,
});
const top = counts(1000, 23000, 2000, 500);
const pass = counts(16000, 150000, 13000, 3500);
const usage = { ...top, iterations: [{ type: 'compaction', ...pass }, { type: 'message', ...top }] };
const message = {
  id: 'msg_1', type: 'message', role: 'assistant', model: 'claude-sonnet-5-5',
  content: [{ type: 'text', text: 'Hello.' }], stop_reason: 'end_turn', stop_sequence: null, usage,
};
const provider = createAnthropic({ apiKey: 'none', fetch: async () => Response.json(message) });
const seen = (await generateText({ model: provider('claude-sonnet-5-5'), prompt: 'Hello.' })).usage;
const used = 1000 + 23000 + 2000 + 16000 + 150000 + 13000;
console.log('@ai-sdk/anthropic 4.0.105');
console.log('  inputTokens', seen.inputTokens, 'of', used, JSON.stringify(seen.inputTokenDetails));
const { noCacheTokens, cacheReadTokens, cacheWriteTokens } = seen.inputTokenDetails;
if (`${seen.inputTokens} ${noCacheTokens} ${cacheReadTokens} ${cacheWriteTokens}` !== '42000 17000 23000 2000') {
  console.error('CHANGED: 42000 used to be counted, with the cache of the last pass only');
  process.exit(1);
}
JS
node "$scratch/finding.mjs"
