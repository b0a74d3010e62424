#!/usr/bin/env bash
# LiteLLM prices a dated form of a model it knows, and any Claude it does not know yet, at nothing.
#
# Its price table lists claude-haiku-5-5. One would expect claude-haiku-5-5-20261001 to cost the same, or to be refused
# as gpt-7 and claude-foo are. It costs $0.00, for input and output, without an exception or a warning, and so does
# claude-sonnet-5-7: a name that looks like one of Anthropic's is routed, found to have no price, and priced at zero.
# APIs answer with dated ids, so whoever prices by the id in the answer, or upgrades on the day a model comes out, runs
# on a meter that stands still. Unknown and free must not look alike.
# What to do: treat a cost of exactly 0 as unknown, and check the id against litellm.model_cost first.
# Seen on 2026-12-01 with litellm 1.110.2 and the price table that the package carries.
set -euo pipefail
cannot() { echo "cannot run here: $1" >&2; exit 2; }
scratch=$(mktemp -d) && trap 'rm -rf "$scratch"' EXIT
python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  cannot 'Python 3.11 or newer with pip is needed'
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
  litellm==1.110.2 || cannot 'pip could not install'

LITELLM_LOCAL_MODEL_COST_MAP=True "$scratch/venv/bin/python" - <<'PY'
import contextlib, io, sys
from importlib.metadata import version
import litellm

litellm.suppress_debug_info = True
print("litellm", version("litellm"))
costs: dict[str, object] = {}
models = ("claude-haiku-5-5", "claude-haiku-5-5-20261001", "claude-sonnet-5-7", "claude-foo", "gpt-7")
for model in models:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            costs[model] = litellm.cost_per_token(model=model, prompt_tokens=1_000_000, completion_tokens=1_000_000)
        except Exception as error:
            costs[model] = type(error).__name__
    print(f"  {model}, a million tokens in and out: {costs[model]}")
dear, dated, next_one, *others = costs.values()
if not sum(dear) or (dated, next_one) != ((0.0, 0.0), (0.0, 0.0)) or others != ["BadRequestError"] * 2:
    sys.exit("CHANGED: the dated and the next model used to cost 0, the others to be refused")
PY
