#!/usr/bin/env bash
# Removing one entry from a settings file with comments gives its comment to the entry before it.
#
# jsonc-parser is what VS Code uses to change a settings file and keep its comments. One would expect the comment behind
# a removed server to go, and the one behind its neighbour to stay. Removing the last server deletes the neighbour's
# comment and keeps the removed one's, now behind the neighbour: "expensive, ask first" stands at the wrong server.
# Adding a server does the same, the last entry's comment moves behind the new one. And of two equal keys, which parsers
# allow, parse() reads the last and modify() changes the first, so the edit is lost.
# What to do: put comments on lines of their own, above what they speak of.
# Seen on 2026-12-01 with jsonc-parser 3.3.1.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
command -v npm >/dev/null || cannot 'npm is needed'
npm install --prefix "$scratch" --silent --no-audit --no-fund --ignore-scripts \
  jsonc-parser@3.3.1 || cannot 'npm could not install'

cat >"$scratch/finding.mjs" <<'JS'
import { createRequire } from 'node:module';
const { applyEdits, modify, parse } = createRequire(import.meta.url)('jsonc-parser');
const text = `{
  "servers": {
    "free": {}, // costs nothing
    "paid": {}, // expensive, ask first
  }
}
`;
const options = { formattingOptions: { insertSpaces: true, tabSize: 2 } };
const removed = applyEdits(text, modify(text, ['servers', 'paid'], undefined, options));
const added = applyEdits(text, modify(text, ['servers', 'new'], {}, options));
const doubled = '{ "cap": 1, "cap": 2 }';
const edited = applyEdits(doubled, modify(doubled, ['cap'], 3, options));
console.log('jsonc-parser 3.3.1\nwithout "paid":\n' + removed + 'with "new":\n' + added + edited, '->', parse(edited).cap);
const line = (all, key) => all.split('\n').find((each) => each.includes(key));
if (removed.includes('costs nothing') || !line(removed, '"free"').includes('ask first')
    || !line(added, '"new"').includes('ask first') || parse(edited).cap !== 2) {
  console.error('CHANGED: the comments used to change owner, and the edit of the doubled key to be lost');
  process.exit(1);
}
JS
node "$scratch/finding.mjs"
