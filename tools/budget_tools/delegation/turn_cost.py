"""The cost of a turn: its course, given as evidence to the one table that decides (``pricing.evidence``)."""

from collections.abc import Mapping, Sequence
from typing import Any

from budget_tools.claude.failures import Failure
from budget_tools.claude.stream import Reply
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.evidence import Evidence, Report, Verdict, judge


def verdict_on(
    outcome: Reply | Failure | None, request: Mapping[str, Any], *, asked_model: str, prices: PriceBook
) -> Verdict:
    """Return what a turn cost.

    Args:
        outcome: the result of its request; ``None`` if it was stopped after it left.
        request: the body of POST /v1/messages.
        asked_model: the model by whose prices it was bounded.
        prices: the prices in force.
    """
    if outcome is None:
        evidence = Evidence(asked_model=asked_model, sending="lost")
    elif isinstance(outcome, Failure):
        partial = outcome.partial
        evidence = Evidence(
            asked_model=asked_model,
            sending=outcome.sending,
            served_model="" if partial is None else partial.model,
            reports=() if partial is None else _reports(partial),
        )
    else:
        evidence = Evidence(
            asked_model=asked_model,
            sending="broken" if outcome.stop_reason is None else "complete",
            served_model=outcome.model,
            reports=_reports(outcome),
            text=outcome.text,
            has_output=outcome.has_output,
            refusal_category=outcome.refusal_category if outcome.stop_reason == "refusal" else None,
            is_claude_api=outcome.is_from_claude_api,
            is_several=outcome.is_several,
            request=request,
        )
    return judge(evidence, prices)


def _reports(reply: Reply) -> Sequence[Report]:
    return [Report(counts=report.counts, place=report.place) for report in reply.reports]
