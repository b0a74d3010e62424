"""Evidence of what a call cost, judged in one place.

This module finds the facts; the table in ``evidence_table.py`` decides by them. Delegations, ``commit_usage``,
``record_usage`` and the settling after a crash ask it.

An unknown cost is charged at the bound that was reserved for it, or at its known minimum if that is more; without a
reservation it is an error. An unknown cost is never taken for zero. How good the answer was is not evidence of its
cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from budget_tools.core.errors import UnknownModelError, UsageError
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.charge_warnings import stated_above
from budget_tools.pricing.evidence_table import Basis, Facts, Price, Refusal, Row, Sending, UsageState, row_for
from budget_tools.pricing.served_model import names_same_model, priced_as, shown_model
from budget_tools.pricing.tokens import is_enough
from budget_tools.pricing.totals import Place, RunningTotals
from budget_tools.pricing.usage import ReportedUsage, UsageEntry, read_usage

UNBILLED_REFUSALS = frozenset({"", "cyber", "general_harms"})
"""Categories of refusals before any output that the Claude API does not bill (its documentation, September 2026).

It bills ``bio``, ``frontier_llm`` and ``reasoning_extraction``, and says that the set may change: a category that is
not listed here counts as billed. ``""`` is a refusal without a category.
"""

_MOST_BYTES_PER_TOKEN = 256
"""Maximum length of a token in bytes, even of blanks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Usage as it was reported, and where in the answer."""

    counts: Any
    place: Place = "end"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Everything known of a call.

    Attributes:
        asked_model: the model that the request named.
        sending: what became of the request.
        served_model: the model that the answer names; ``""`` if it does not name one.
        reports: the usage that was reported, in order.
        text: the text that came.
        has_output: whether a model wrote anything, text or not.
        refusal_category: ``None`` if Claude did not decline; ``""`` if it gave no category.
        is_claude_api: whether the Claude API's own rules say what is billed.
        is_several: whether more than one answer came.
        request: the body that was sent, which bounds its prompt from below; ``None`` if it is not known.
    """

    asked_model: str
    sending: Sending = "complete"
    served_model: str = ""
    reports: Sequence[Report] = ()
    text: str = ""
    has_output: bool = False
    refusal_category: str | None = None
    is_claude_api: bool = True
    is_several: bool = False
    request: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The decision on what a call cost.

    Attributes:
        basis: ``exact``: ``amount_microcents`` is the cost; ``unknown``: the bound is charged; ``nothing``: it is free.
        amount_microcents: the cost; 0 unless ``basis`` is ``exact``.
        reason: one sentence for people on why it is not exact; ``""`` if it is.
        price_source: whose prices.
        reported: the usage that was believed; ``None`` if none was.
        at_least_microcents: the minimum of an unknown cost, by the highest counts that were reported.
        warnings: sentences for people, beside the charge.
    """

    basis: Basis
    amount_microcents: int = 0
    reason: str = ""
    price_source: str = ""
    reported: ReportedUsage | None = None
    at_least_microcents: int = 0
    warnings: tuple[str, ...] = ()

    def charge_microcents(self, bound_microcents: int) -> int:
        """Return what is charged under a reservation of the bound."""
        if self.basis == "unknown":
            return max(bound_microcents, self.at_least_microcents)
        return self.amount_microcents


def judge(evidence: Evidence, prices: PriceBook, *, at: datetime | None = None) -> Verdict:
    """Return what a call cost.

    Args:
        evidence: what is known of it.
        prices: the prices in force.
        at: when it was made, with a time zone; now if absent.
    """
    look = _Look(evidence, prices, at)
    facts = Facts(sending=evidence.sending, refusal=look.refusal, usage=look.usage, price=look.price)
    row = row_for(facts)
    if row.basis == "exact":
        assert look.reported is not None, "a row that is exact must leave no usage unread"
        return Verdict(
            basis="exact",
            amount_microcents=look.amount_microcents,
            price_source=look.price_source,
            reported=look.reported,
            warnings=(*look.reported.warnings, *look.warnings),
        )
    # The sentence may contain a fact that was not examined yet.
    reason = row.reason.format(detail=look.details.get(_telling_fact(row), ""))
    at_least = look.at_least_microcents() if row.basis == "unknown" else 0
    return Verdict(basis=row.basis, reason=reason, at_least_microcents=at_least)


def judge_report(model: str, reported: ReportedUsage, prices: PriceBook, *, at: datetime | None = None) -> Verdict:
    """Return the cost of a report that a caller handed in: ``exact``, or ``unknown`` with the reason.

    Raises:
        UnknownModelError: the model is not listed.
        UsageError: something that was used has no price.
    """
    charge = prices.cost_of(model, reported, at=at)
    usage = _state_of(reported, least_output_tokens=0)
    row = row_for(Facts(sending="complete", usage=usage))
    if row.basis != "exact":
        return Verdict(basis=row.basis, reason=row.reason.format(detail="a prompt of 0 tokens"))
    return Verdict(
        basis="exact",
        amount_microcents=charge.amount_microcents,
        price_source=charge.price_source,
        reported=reported,
        warnings=reported.warnings,
    )


def fewest_output_tokens(text: str) -> int:
    """Bound from below the tokens that a text was written with, far below the count of any tokenizer in use.

    No tokenizer joins words; a quarter is left for words that are cut here and not there. Words of one letter count as
    at most one token in four characters.
    """
    by_words = min(len(text.split()) * 3 // 4, len(text) // 4)
    return max(by_words, len(text.encode(errors="replace")) // _MOST_BYTES_PER_TOKEN)


class _Look:
    """The facts of one call, and the data that they were found in."""

    def __init__(self, evidence: Evidence, prices: PriceBook, at: datetime | None) -> None:
        self._evidence = evidence
        self._prices = prices
        self._at = at
        self.details: dict[str, str] = {}
        self.warnings: tuple[str, ...] = ()
        self.reported: ReportedUsage | None = None
        self.amount_microcents = 0
        self.price_source = ""
        self._totals = RunningTotals()
        for report in evidence.reports:
            self._totals.add(report.counts, report.place)
        self.refusal: Refusal = self._refusal()
        self.usage: UsageState = self._usage()
        self.price: Price = self._price()

    def _refusal(self) -> Refusal:
        evidence = self._evidence
        category = evidence.refusal_category
        if category is None or evidence.has_output:
            return "none"
        self.details["refusal"] = f"category {category}" if category else "no category"
        return "unbilled" if evidence.is_claude_api and category in UNBILLED_REFUSALS else "billed"

    def _usage(self) -> UsageState:
        totals, evidence = self._totals, self._evidence
        if totals.problem:
            self.details["usage"] = totals.problem
            return "unreadable"
        if totals.counts is None:
            return "none"
        counts = dict(totals.counts)
        if self.refusal == "billed" or counts.get("output_tokens") is None:
            # The reported input of a refusal is billed; its output is a placeholder.
            counts["output_tokens"] = 0
        try:
            # Our requests ask for a cache lifetime of five minutes, so every write to the cache has that lifetime.
            self.reported = read_usage(counts, unsplit_cache_ttl="5m")
        except UsageError as exc:
            self.details["usage"] = "a prompt of 0 tokens" if totals.has_no_prompt else exc.message
            return "no_prompt" if totals.has_no_prompt else "unreadable"
        if totals.fallen or evidence.is_several:
            self.details["usage"] = totals.fallen or "several answers came in one stream"
            return "contradictory"
        prompt = self.reported.prompt_tokens
        if evidence.request is not None and not is_enough(evidence.request, prompt):
            self.details["usage"] = f"a prompt of {prompt} tokens, whose words come to more"
            return "no_prompt"
        state = _state_of(
            self.reported,
            least_output_tokens=max(int(evidence.has_output), fewest_output_tokens(evidence.text)),
        )
        if totals.has_final_output:
            output = sum(entry.usage.output_tokens for entry in self.reported.entries)
            self.details["usage"] = f"{output} output tokens for an answer that has more"
            return state
        return "placeholder"

    def _price(self) -> Price:
        evidence = self._evidence
        model = evidence.asked_model
        state: Price = "listed"
        if evidence.served_model and not names_same_model(evidence.served_model, evidence.asked_model):
            listed = priced_as(evidence.served_model, self._prices.models)
            if listed is None:
                self.details["price"] = _unlisted(evidence, self._prices)
                return "unlisted"
            model, state = listed, "other_listed"
            served, asked = shown_model(evidence.served_model), shown_model(evidence.asked_model)
            self.warnings = (
                f"{served} answered, although {asked} was asked for: the model that answered is charged for",
            )
        if self.reported is None:
            return state
        try:
            charge = self._prices.cost_of(model, self.reported, at=self._at)
        except UnknownModelError as exc:
            self.details["price"] = exc.message
            return "unlisted"
        except UsageError as exc:
            self.details["price"] = exc.message
            return "unpriced"
        self.amount_microcents = charge.amount_microcents
        self.price_source = charge.price_source
        excess = stated_above(self.reported, charge)
        if excess:
            self.details["price"] = excess
            return "unpriced"
        return state

    def at_least_microcents(self) -> int:
        """Return the price of the highest counts that were reported, plain ones and all; 0 if they have no price."""
        served, asked = self._evidence.served_model, self._evidence.asked_model
        model = asked if not served or names_same_model(served, asked) else priced_as(served, self._prices.models)
        if model is None:
            return 0
        try:
            usage = self._totals.least_usage()
            reported = ReportedUsage(entries=(UsageEntry(usage=usage),))
            plain_microcents = self._prices.cost_of(model, reported, at=self._at).amount_microcents
        except (UsageError, UnknownModelError):
            plain_microcents = 0
        return max(plain_microcents, self.amount_microcents)


def _state_of(reported: ReportedUsage, *, least_output_tokens: int) -> Literal["no_prompt", "no_output", "final"]:
    if not any(entry.usage.prompt_tokens for entry in reported.entries):
        return "no_prompt"
    output = sum(entry.usage.output_tokens for entry in reported.entries)
    return "no_output" if output < least_output_tokens else "final"


def _telling_fact(row: Row) -> str:
    """Return the fact that a row decides by."""
    return next((name for name in ("refusal", "usage", "price") if getattr(row, name) is not None), "")


def _unlisted(evidence: Evidence, prices: PriceBook) -> str:
    try:
        prices.price(evidence.served_model)
    except UnknownModelError as exc:
        return exc.message
    raise AssertionError("a listed model is not unlisted")
