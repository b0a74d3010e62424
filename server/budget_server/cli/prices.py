"""The command ``cycles-budget-mcp prices``: each model's prices, their source, and whether they are up to date."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from budget_server.cli.common import cli_errors, table_console
from budget_server.config.settings import read_settings
from budget_tools.core.errors import InvalidArgumentError
from budget_tools.core.money import format_usd
from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.price_data import ModelPrices, PricePeriod
from budget_tools.pricing.price_drift import MAX_OVERLAY_DAYS, find_drift, installed_upstream

_TOKENS_PER_MTOK = 1_000_000
_COLUMNS = 150
"""Wide enough that no id and no price is broken if the output is not a terminal."""

_MODEL_COLUMNS = 27
"""As wide as the longest id, so that a narrow terminal breaks the columns after it."""

_CLASSES = ("input", "output", "write 5 m", "write 1 h", "read")
_OTHERS = ("searches", "US", "source", "retires")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """The prices of one model under one condition; the condition of its plain price is empty."""

    model: str
    condition: str
    microcents_per_mtok: tuple[int | None, ...]
    """One price for each of ``_CLASSES``."""
    web_search_microcents_per_1000: int | None
    us: str
    source: str
    retires: str


def prices(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Ids of models; all that have a price if left out.", show_default=False),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Write a Markdown table, in microcents per token.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Say instead where the overlay lags behind genai-prices and the SDK: exit code 1."
        ),
    ] = False,
    max_overlay_days: Annotated[
        int, typer.Option(min=0, help="With --check: from what age on the overlay counts as out of date.")
    ] = MAX_OVERLAY_DAYS,
) -> None:
    """Show the prices in force, in US dollars per million tokens (searches: per thousand), with their source."""
    with cli_errors():
        if check and (models or markdown):
            raise InvalidArgumentError("--check compares the whole table: leave out the models and --markdown.")
        if check:
            _check(max_overlay_days)
            return
        settings = read_settings()
        book = PriceBook.load(settings.budget_prices, base_url=settings.anthropic_base_url)
        rows = [row for model in dict.fromkeys(models or book.models) for row in _rows(book.price(model))]
    if markdown:
        typer.echo("\n".join(_markdown(rows)))
    else:
        _print(rows)
    for doubt in book.doubts:
        typer.echo(doubt, err=True)


def _check(max_overlay_days: int) -> None:
    found = find_drift(installed_upstream(), today=datetime.now(UTC).date(), max_overlay_days=max_overlay_days)
    for sentence in found:
        typer.echo(sentence)
    if found:
        raise typer.Exit(1)
    typer.echo("The overlay and the list of models agree with the installed genai-prices and Anthropic SDK.")


def _rows(prices: ModelPrices) -> Iterator[_Row]:
    """Yield the plain price first, then those for other times, for longer prompts and in fast mode."""
    for period, until in _with_ends(prices.periods):
        dates = []
        if period.starts_on > date.min:
            dates.append(f"from {period.starts_on}")
        if until is not None:
            dates.append(f"until {until}")
        for mode, tiers in (("", period.standard), ("fast mode", period.fast)):
            for tier in tiers:
                longer = f"prompt over {tier.above_prompt_tokens:,}" if tier.above_prompt_tokens else ""
                usd = tier.prices
                yield _Row(
                    model=prices.model,
                    condition=", ".join(part for part in (" ".join(dates), mode, longer) if part),
                    microcents_per_mtok=(
                        usd.input_microcents_per_mtok,
                        usd.output_microcents_per_mtok,
                        usd.cache_write_5m_microcents_per_mtok,
                        usd.cache_write_1h_microcents_per_mtok,
                        usd.cache_read_microcents_per_mtok,
                    ),
                    web_search_microcents_per_1000=period.web_search_microcents_per_1000,
                    us="" if prices.us_multiplier is None else f"x {_multiplier(prices)}",
                    source=prices.source.removeprefix("cycles-budget-mcp "),
                    retires="" if prices.retires_on is None else str(prices.retires_on),
                )


def _with_ends(periods: tuple[PricePeriod, ...]) -> Iterator[tuple[PricePeriod, date | None]]:
    """Yield each period with its last day, if it has one; the newest first."""
    ends = [*(period.starts_on - timedelta(days=1) for period in periods[1:]), None]
    return reversed(list(zip(periods, ends, strict=True)))


def _multiplier(prices: ModelPrices) -> Decimal:
    assert prices.us_multiplier is not None, "the caller has looked"
    return Decimal(prices.us_multiplier.numerator) / prices.us_multiplier.denominator


def _print(rows: Iterable[_Row]) -> None:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold", min_width=_MODEL_COLUMNS)
    for name in (*_CLASSES, "searches"):
        table.add_column(name, justify="right")
    for name in _OTHERS[1:]:
        table.add_column(name)
    for row in rows:
        amounts = (*row.microcents_per_mtok, row.web_search_microcents_per_1000)
        usd = ("unknown" if amount is None else format_usd(amount) for amount in amounts)
        name = row.model + (f", {row.condition}" if row.condition else "")
        table.add_row(Text(name), *usd, row.us, row.source, row.retires)
    table_console(_COLUMNS).print(table)


def _markdown(rows: Iterable[_Row]) -> Iterator[str]:
    """Yield one line per row; exact: a price per token may be a fraction of a microcent, but is a finite decimal."""
    header = ("model", "when", *_CLASSES, "1,000 searches", *_OTHERS[1:])
    yield _line(header)
    yield _line(["---", "---", *["--:"] * (len(_CLASSES) + 1), "---", "---", "---"])
    for row in rows:
        per_token = ("unknown" if amount is None else _per_token(amount) for amount in row.microcents_per_mtok)
        searches = row.web_search_microcents_per_1000
        yield _line(
            [
                f"`{row.model}`",
                row.condition,
                *per_token,
                "unknown" if searches is None else f"{searches:,}",
                row.us,
                row.source,
                row.retires,
            ]
        )


def _line(cells: Iterable[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _per_token(microcents_per_mtok: int) -> str:
    whole, millionths = divmod(microcents_per_mtok, _TOKENS_PER_MTOK)
    return f"{whole:,}.{millionths:06d}".rstrip("0").removesuffix(".")
