"""What a call cost, decided in one place from what is known of it.

    evidence                                                          verdict
    final usage, every count plausible                                exact
    a count that cannot be                                            unknown
    a class of tokens, a tier or a model without a price              unknown
    no usage, or none that is final                                   unknown
    surely nothing left, or the provider does not bill it             nothing

An unknown cost is charged at the bound that was reserved for it; without a reservation it is an error. No cost is ever
taken for zero because it is not known.
"""

from dataclasses import dataclass
from typing import Literal

from budget_tools.pricing.usage import ReportedUsage

Basis = Literal["exact", "unknown", "nothing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a call cost.

    Attributes:
        basis: ``exact``: ``amount_microcents`` is the cost; ``unknown``: the bound is charged; ``nothing``: it is free.
        amount_microcents: the cost; 0 unless ``basis`` is ``exact``.
        reason: one sentence for people, why it is not exact; ``""`` if it is.
        price_source: whose prices.
        reported: the usage that was believed; ``None`` if none was.
    """

    basis: Basis
    amount_microcents: int = 0
    reason: str = ""
    price_source: str = ""
    reported: ReportedUsage | None = None
