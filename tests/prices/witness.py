"""Compare our prices with those that two other packages keep: model by model, one class of token after the other.

::

    make prices-check

litellm (its own collection, kept current) and openai-cost-calculator (read from Anthropic's price page on a day that it
names) are witnesses of their own. Their archives are read as data; nothing of them is installed or run. Both are held
against the prices of the overlay's day, so that the result depends on the lock files and our own tables alone.

Ends with 1 if there is a difference that ``EXPLAINED`` does not explain, or an explanation that explains nothing.
"""

import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path
from typing import Any

from budget_tools.core.money import MICROCENTS_PER_USD, format_usd
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.price_data import BATCH_MULTIPLIER, LISTINGS, OVERLAY_DATE, ModelPrices, TokenPrices

Table = dict[str, dict[str, Fraction]]
"""Prices by model id and name: microcents per million tokens (searches: per thousand), or a bare multiple."""

EXPLAINED: Mapping[tuple[str, str, str], str] = {
    ("*", "claude-sonnet-4-5*", "* over 200000"): (
        "genai-prices still has the price of the 1M-token beta, which ended on 2026-04-30; prompts end at 200,000 "
        "tokens now, and should one be longer, the dearer price is taken"
    ),
    ("litellm", "claude-haiku-4-5*", "searches"): "litellm has left it out; the other witness has the price",
    ("litellm", "claude-opus-4-6-20260205", "listed"): "no id that the Anthropic SDK lists",
    ("litellm", "claude-opus-4-7-20260416", "listed"): "no id that the Anthropic SDK lists",
    ("any", "claude-*-5-2", "listed"): "newer than what either witness knows; genai-prices alone has the price",
    ("any", "claude-3-*", "listed"): "retired or soon to be, and dropped by both witnesses",
}
"""Differences that are right as they are, and why: witness, model and name of the price, as patterns.

"listed" is the model itself, and "any" a model that no witness has.
"""

_LITELLM_CLASSES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_creation_input_token_cost": "write 5 m",
    "cache_creation_input_token_cost_above_1hr": "write 1 h",
    "cache_read_input_token_cost": "read",
}
_LITELLM_TIER = re.compile(r"(.+)_above_(\d+)k_tokens", re.ASCII)
_CALCULATOR_CLASSES = {
    "input": "input",
    "output": "output",
    "cache_write": "write 5 m",
    "cache_write_1h": "write 1 h",
    "cached_input": "read",
}
_CALCULATOR_IDS = {
    "claude-3-5-haiku": "claude-3-5-haiku-latest",
    "claude-opus-4": "claude-opus-4-0",
    "claude-sonnet-4": "claude-sonnet-4-0",
}
"""Names of that witness for models that have another id in the API."""


def ours(prices: ModelPrices) -> dict[str, Fraction]:
    """Every price of a model on the overlay's day."""
    period = prices.on(OVERLAY_DATE)
    found: dict[str, Fraction] = {}
    for mode, tiers in (("", period.standard), ("fast ", period.fast)):
        for tier in tiers:
            above = f" over {tier.above_prompt_tokens}" if tier.above_prompt_tokens else ""
            found |= {f"{mode}{name}{above}": Fraction(price) for name, price in classes(tier.prices)}
            found |= {
                f"batch {name}{above}": price * BATCH_MULTIPLIER for name, price in classes(tier.prices) if not mode
            }
    if period.web_search_microcents_per_1000 is not None:
        found["searches"] = Fraction(period.web_search_microcents_per_1000)
    if prices.us_multiplier is not None:
        found["US"] = prices.us_multiplier
    return found


def classes(prices: TokenPrices) -> Iterator[tuple[str, int]]:
    """The prices of one tier that are known, by name."""
    for name, price in (
        ("input", prices.input_microcents_per_mtok),
        ("output", prices.output_microcents_per_mtok),
        ("write 5 m", prices.cache_write_5m_microcents_per_mtok),
        ("write 1 h", prices.cache_write_1h_microcents_per_mtok),
        ("read", prices.cache_read_microcents_per_mtok),
    ):
        if price is not None:
            yield name, price


def litellm(archive: Path) -> Table:
    """Read litellm's own table: US dollars per token, as JSON numbers, which are read as decimals."""
    document = _json(archive, "litellm/model_prices_and_context_window_backup.json")
    return {
        model: dict(_litellm_prices(entry))
        for model, entry in document.items()
        if entry.get("litellm_provider") == "anthropic" and not model.endswith("-latest")
    }


def _litellm_prices(entry: Mapping[str, Any]) -> Iterator[tuple[str, Fraction]]:
    usual: dict[str, Fraction] = {}
    for key, usd_per_token in entry.items():
        mode, rest = ("batch ", key.removesuffix("_batches")) if key.endswith("_batches") else ("", key)
        tier = _LITELLM_TIER.fullmatch(rest)
        name = _LITELLM_CLASSES.get(tier[1] if tier else rest)
        if name is not None:
            amount = Fraction(usd_per_token) * MICROCENTS_PER_USD * 1_000_000
            above = f" over {int(tier[2]) * 1_000}" if tier else ""
            yield f"{mode}{name}{above}", amount
            if not mode:
                usual[f"{name}{above}"] = amount
    searches = entry.get("search_context_cost_per_query", {}).get("search_context_size_medium")
    if searches is not None:
        yield "searches", Fraction(searches) * MICROCENTS_PER_USD * 1_000
    multiples = entry.get("provider_specific_entry", {})
    if "us" in multiples:
        yield "US", Fraction(multiples["us"])
    if "fast" in multiples:
        yield from ((f"fast {name}", amount * Fraction(multiples["fast"])) for name, amount in usual.items())


def calculator(archive: Path) -> Table:
    """Read openai-cost-calculator's table of Anthropic: US dollars per million tokens, as text."""
    document = _json(archive, "openai_cost_calculator/data/pricing/anthropic.json")
    return {
        _CALCULATOR_IDS.get(entry["id"], entry["id"]): dict(_calculator_prices(entry["prices"]))
        for entry in document["models"]
    }


def _calculator_prices(sets: list[dict[str, Any]]) -> Iterator[tuple[str, Fraction]]:
    modes = {(): "", (("service_tier", "batch"),): "batch ", (("service_tier", "fast"),): "fast "}
    by_conditions = {tuple(sorted(each.get("conditions", {}).items())): each["rates"] for each in sets}
    for conditions, rates in by_conditions.items():
        in_the_us = ("region", "us") in conditions
        mode = modes[tuple(part for part in conditions if part != ("region", "us"))]
        for key, name in _CALCULATOR_CLASSES.items():
            if in_the_us:
                elsewhere = by_conditions[tuple(part for part in conditions if part != ("region", "us"))]
                yield f"US {mode}{name}".strip(), Fraction(rates[key]) / Fraction(elsewhere[key])
            else:
                yield f"{mode}{name}", Fraction(rates[key]) * MICROCENTS_PER_USD
        if not conditions:
            yield "searches", Fraction(rates["web_search"]) * MICROCENTS_PER_USD * 1_000


def _json(archive: Path, name: str) -> Any:
    with zipfile.ZipFile(archive) as opened:
        return json.loads(opened.read(name), parse_float=Decimal)


def differences(witness: str, table: Table, book: PriceBook) -> Iterator[tuple[tuple[str, str, str], str]]:
    """Every price that one has and the other has not, or has otherwise, with its sentence."""
    for model, theirs in sorted(table.items()):
        if model not in book.models:
            yield (witness, model, "listed"), f"{model} has a price at {witness} and none here."
            continue
        mine = ours(book.price(model))
        us_names = {name for name in theirs if name.startswith("US ")}
        if us_names:  # one multiple for every class and mode
            mine |= {name: mine["US"] for name in us_names if "US" in mine}
            mine.pop("US", None)
        quoted = {name.split(" ", 1)[0] for name in theirs} & {"batch"}
        for name in sorted(mine.keys() | theirs.keys()):
            # A witness that keeps no batch prices of a model says nothing about them, and litellm none for an hour.
            if name.startswith("batch ") and name not in theirs and (not quoted or "write 1 h" in name):
                continue
            here, there = mine.get(name), theirs.get(name)
            if here != there:
                sentence = f"{model}, {name}: {_shown(name, here)} here, {_shown(name, there)} at {witness}."
                yield (witness, model, name), sentence


def _shown(name: str, value: Fraction | None) -> str:
    if value is None:
        return "none"
    return str(value) if name.startswith("US") or value.denominator != 1 else f"${format_usd(int(value))}"


def main(directory: Path) -> int:
    """Compare, print, and give the exit code."""
    book = PriceBook.load()
    witnesses = {
        "litellm": litellm(_archive(directory, "litellm")),
        "openai-cost-calculator": calculator(_archive(directory, "openai_cost_calculator")),
    }
    found = dict(each for name, table in witnesses.items() for each in differences(name, table, book))
    seen = {model for table in witnesses.values() for model in table}
    for model in book.models:
        if model not in seen and not seen & _same_entry(model):
            found["any", model, "listed"] = f"{model} has a price here and at no witness."
    unexplained = [sentence for key, sentence in found.items() if not any(_matches(key, each) for each in EXPLAINED)]
    idle = [" / ".join(each) for each in EXPLAINED if not any(_matches(key, each) for key in found)]
    for name, table in witnesses.items():
        compared = [model for model in table if model in book.models]
        prices = sum(len(table[model]) for model in compared)
        print(f"{name}: {len(compared)} models compared, {prices} prices.")
    for sentence in unexplained:
        print(sentence)
    for key in idle:
        print(f"EXPLAINED has {key}, which is no longer a difference: remove it.")
    print(f"{len(unexplained)} differences, {len(found) - len(unexplained)} explained ones.")
    return 1 if unexplained or idle else 0


def _same_entry(model: str) -> set[str]:
    """Other ids that get their price from the same entry, and so share its witness."""
    keys = {listing.entry_key for listing in LISTINGS if listing.model == model}
    return {listing.model for listing in LISTINGS if listing.entry_key in keys}


def _matches(key: tuple[str, str, str], patterns: tuple[str, str, str]) -> bool:
    return all(fnmatchcase(part, pattern) for part, pattern in zip(key, patterns, strict=True))


def _archive(directory: Path, package: str) -> Path:
    (archive,) = directory.glob(f"{package}-*.whl")
    return archive


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
