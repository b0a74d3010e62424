"""The table that decides what a call cost: rows of evidence in order, of which the first that fits decides.

Rows are data. ``evidence.py`` asks them, ``docs/evidence.md`` shows them, and a test walks through every combination of
facts. A new rule is a new row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

Basis = Literal["exact", "unknown", "nothing"]

Sending = Literal["unsent", "refused", "no_answer", "lost", "broken", "complete"]
"""What became of the request.

    unsent     nothing of it left this machine
    refused    the API refused it before any work: by its status, or by an error that it does not bill
    no_answer  something other than an answer came in its place, under status 200
    lost       this server ended, or was told to stop, before it had read the answer
    broken     it may have been answered: an error after work may have begun, or a connection that was lost
    complete   it was answered to the end
"""

Refusal = Literal["none", "unbilled", "billed"]
"""Whether Claude declined before it wrote anything, and whether that is billed."""

UsageState = Literal["none", "unreadable", "contradictory", "no_prompt", "placeholder", "no_output", "final"]
"""What was reported of the usage.

    none           nothing
    unreadable     something unknown, or impossible
    contradictory  a total that fell to another count than 0, or several answers in one stream
    no_prompt      a prompt of 0 tokens, or of far fewer than the words that were sent
    placeholder    no output that was reported after the last of the content
    no_output      fewer output tokens than the written text has
    final          plausible counts
"""

Price = Literal["listed", "other_listed", "unlisted", "unpriced"]
"""Whether the model that answered has prices.

    listed        it is the one that was asked for
    other_listed  it is another one, which is listed
    unlisted      it is another one, which is not
    unpriced      it has no price for something that was used
"""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The facts that the table decides by."""

    sending: Sending
    refusal: Refusal = "none"
    usage: UsageState = "none"
    price: Price = "listed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of the table: it fits if every fact is one of those that it names; ``None`` leaves a fact open.

    ``reason`` is the sentence for people; ``{detail}`` in it is what was found.
    """

    evidence: str
    basis: Basis
    reason: str = ""
    sending: frozenset[Sending] | None = None
    refusal: frozenset[Refusal] | None = None
    usage: frozenset[UsageState] | None = None
    price: frozenset[Price] | None = None

    def fits(self, facts: Facts) -> bool:
        """Return whether this row decides, if no row before it does."""
        return all(
            allowed is None or fact in allowed
            for allowed, fact in (
                (self.sending, facts.sending),
                (self.refusal, facts.refusal),
                (self.usage, facts.usage),
                (self.price, facts.price),
            )
        )


def _of(*values: _T) -> frozenset[_T]:
    return frozenset(values)


ROWS: tuple[Row, ...] = (
    Row(
        evidence="nothing of the request left: it could not be built, sent, or connected",
        basis="nothing",
        reason="Nothing was sent.",
        sending=_of("unsent"),
    ),
    Row(
        evidence="refused before any work: by a status of 3xx, 4xx (not 408, 499) or 529, or by a first event",
        basis="nothing",
        reason="It was refused before any work.",
        sending=_of("refused"),
    ),
    Row(
        evidence="status 200 with an error in JSON or a page in place of an answer",
        basis="nothing",
        reason="What came was not an answer.",
        sending=_of("no_answer"),
    ),
    Row(
        evidence="this server ended, or was told to stop, before it had read the answer",
        basis="unknown",
        reason="The answer was not read to its end, so what it cost is not known.",
        sending=_of("lost"),
    ),
    Row(
        evidence="any other error, or an answer that broke off",
        basis="unknown",
        reason="The answer broke off, so what it cost is not known.",
        sending=_of("broken"),
    ),
    Row(
        evidence="Claude declined before any output, and the Claude API does not bill the category",
        basis="nothing",
        reason="Claude declined before any output, which is not billed ({detail}).",
        refusal=_of("unbilled"),
    ),
    Row(
        evidence="no usage was reported",
        basis="unknown",
        reason="The answer came without usage, so what it cost is not known.",
        usage=_of("none"),
    ),
    Row(
        evidence="usage that is not understood, or is impossible",
        basis="unknown",
        reason="The reported usage cannot be priced: {detail}",
        usage=_of("unreadable"),
    ),
    Row(
        evidence="a running total that fell to another count than 0; several answers in one stream",
        basis="unknown",
        reason="The reported usage contradicts itself: {detail}.",
        usage=_of("contradictory"),
    ),
    Row(
        evidence="fewer tokens of the prompt than it must have: 0, or far fewer than its words",
        basis="unknown",
        reason="The reported usage cannot be true: {detail}.",
        usage=_of("no_prompt"),
    ),
    Row(
        evidence="the model that answered is not the one that was asked for, and has no price",
        basis="unknown",
        reason="The model that answered has no known price: {detail}",
        price=_of("unlisted"),
    ),
    Row(
        evidence="a class of tokens or a tier without a price",
        basis="unknown",
        reason="The reported usage cannot be priced: {detail}",
        price=_of("unpriced"),
    ),
    Row(
        evidence="Claude declined before any output, in a category or on a platform that bills it",
        basis="exact",
        refusal=_of("billed"),
    ),
    Row(
        evidence="no output was reported after the last of the content: what was reported before it is a placeholder",
        basis="unknown",
        reason="The answer came without its final usage, so what it cost is not known.",
        usage=_of("placeholder"),
    ),
    Row(
        evidence="fewer output tokens than the answer must have: 0 although anything came, or far fewer than its words",
        basis="unknown",
        reason="The reported usage cannot be true: {detail}.",
        usage=_of("no_output"),
    ),
    Row(
        evidence="final usage, every count possible, and the model that answered has prices",
        basis="exact",
    ),
)
"""The table; its last row fits everything that no row before it decides."""

FACTS_OF_CRASH = Facts(sending="lost")
"""What is known of a call whose process ended during it without writing anything down."""


def row_for(facts: Facts) -> Row:
    """Return the row that decides."""
    return next(row for row in ROWS if row.fits(facts))


def table_in_markdown() -> str:
    """Return the table as the documentation shows it."""
    words = {"exact": "what was reported", "unknown": "the bound", "nothing": "nothing"}
    rows = [f"| {number} | {row.evidence} | {words[row.basis]} |" for number, row in enumerate(ROWS, start=1)]
    return "\n".join(["| | evidence | charged |", "|--:|---|---|", *rows])


FACTS: Mapping[str, tuple[str, ...]] = {
    "sending": get_args(Sending),
    "refusal": get_args(Refusal),
    "usage": get_args(UsageState),
    "price": get_args(Price),
}
"""Every fact, with its possible values."""
