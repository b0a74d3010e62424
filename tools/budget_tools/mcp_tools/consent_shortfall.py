"""The shortfall of a delegation whose budget does not cover the next turn: asked of a person in ``consent_raise``.

A delegation makes do with what is left for as long as it can, without questions meanwhile. So a person is asked before
a first turn for which not even a short answer fits, and on resuming a delegation that ended for lack of budget.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import Elicit

from budget_tools.core.subjects import WhoseBudget
from budget_tools.core.text_safety import beginning
from budget_tools.mcp_tools.consent_raise import NewBudget, ask_for_more, raising_with_a_person
from budget_tools.mcp_tools.toolkit import ToolContext, Want, toolkit_of
from budget_tools.pricing.tokens import likely_input_tokens, most_input_tokens

if TYPE_CHECKING:
    from budget_tools.delegation.views import DelegationView
    from budget_tools.pricing.book import PriceBook


async def ask_to_fund(
    ctx: ToolContext,
    task: str,
    context: str,
    system: str,
    model: str,
    fallback_models: list[str],
    max_output_tokens: int,
    budget_usd: int | None,
    resume: str,
    subject: WhoseBudget,
    idempotency_key: str,
) -> NewBudget | Elicit[NewBudget]:
    """Return the question for a higher budget, if it does not cover a short first turn, or the turn after a resume.

    It may be called more than once for one call.

    Raises:
        InvalidArgumentError: there is no such delegation, the subject is not the caller's, or a model has no price.
    """
    kit, raising = toolkit_of(ctx), raising_with_a_person(ctx)
    if raising is None or await kit.delegations.knows(kit.subject.tenant, idempotency_key):
        return NewBudget()
    if resume:
        before = await kit.delegations.find(kit.subject.tenant, resume)
        want = _next_turn(kit.prices, before, budget_usd)
        return NewBudget() if want is None else await ask_for_more(raising, before.task.subject, want)
    if not task.strip():
        return NewBudget()  # it will be refused
    models = (model or kit.default_model, *fallback_models)
    prompt = {"system": system, "messages": [{"role": "user", "content": f"{task}{context}"}]}
    most, least = _first_turn(kit.prices, models, prompt, max_output_tokens)
    limit = most if budget_usd is None else budget_usd
    want = Want(
        who=f'A Claude sub-agent with the task "{beginning(task)}"',
        action=_action(models[0]),
        microcents=min(most, limit),
        makes_do_with_microcents=min(most, least, limit),
    )
    return await ask_for_more(raising, kit.subject.narrowed(subject), want)


def _first_turn(
    prices: "PriceBook", models: Sequence[str], prompt: Mapping[str, Any], max_output_tokens: int
) -> tuple[int, int]:
    """Return what the first turn of a delegation needs at worst, and what suffices for a short one, in microcents."""
    from budget_tools.delegation.policy import MIN_OUTPUT_TOKENS  # here: with the prices, which few starts need

    most_tokens, likely_tokens = most_input_tokens(prompt), likely_input_tokens(prompt)
    shortest = min(MIN_OUTPUT_TOKENS, max_output_tokens)
    return (
        prices.worst_case(models[0], input_tokens=most_tokens, max_output_tokens=max_output_tokens),
        min(prices.worst_case(each, input_tokens=likely_tokens, max_output_tokens=shortest) for each in models),
    )


def _next_turn(prices: "PriceBook", before: "DelegationView", budget_microcents: int | None) -> Want | None:
    """Return what the next turn of a delegation needs; ``None`` if it did not end for lack of budget."""
    if before.outcome is None or before.outcome.status != "budget_exhausted":
        return None
    from budget_tools.delegation.policy import LANDING_INPUT_TOKENS

    task = before.task
    longest = max((turn.prompt_tokens + turn.output_tokens for turn in before.turns), default=0)
    bound = prices.worst_case(
        task.model, input_tokens=longest + LANDING_INPUT_TOKENS, max_output_tokens=task.max_output_tokens
    )
    limit = task.budget_microcents if budget_microcents is None else budget_microcents
    if limit is not None:
        bound = min(bound, limit - before.spent_microcents - before.nested_microcents)
    if bound <= 0:
        return None
    who = f"Delegation {before.id}, which its budget ended,"
    return Want(who=who, action=_action(task.model), microcents=bound)


def _action(model: str) -> Mapping[str, str]:
    """Return the action of a turn's reservation."""
    return {"kind": "llm.completion", "name": model}
