"""People look at the prices in force, and learn when ours have fallen behind."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from budget_tools.pricing.book import PriceBook
from budget_tools.pricing.price_data import OVERLAY_DATE
from hosting import Environment, complaint_of, run_program

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "pricing.md").read_text(encoding="utf-8")
FOREVER = ("--max-overlay-days", "100000")


def pinned(package: str) -> str:
    """The version that the lock has of a package."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(package)}==(\S+)", lock, re.MULTILINE)
    assert found
    return found[1]


def needs_pinned(*packages: str) -> None:
    """Skip where a package is newer than the lock: what it brings is then news, and no fault of ours."""
    for package in packages:
        if version(package) != pinned(package):
            pytest.skip(f"{package} {version(package)} is installed, and {pinned(package)} is pinned")


def rows_of(shown: str, model: str) -> list[list[str]]:
    """The rows of a model, split at the gaps between columns."""
    return [re.split(r" {2,}", line.strip()) for line in shown.splitlines() if re.match(rf" {model}[ ,]", line)]


def table_of(markdown: str) -> list[list[str]]:
    """The cells of a Markdown table without its header."""
    lines = [line for line in markdown.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_model_with_a_price_is_shown_with_its_source(environment: Environment) -> None:
    """README, Prices: every price in force and its source, and nothing is written to the disk for it."""
    shown = run_program(environment, "prices")

    assert (shown.returncode, shown.stderr) == (0, "")
    book = PriceBook.load()
    for model in book.models:
        (first, *_) = rows_of(shown.stdout, model)
        assert book.price(model).source.removeprefix("cycles-budget-mcp ") in first
    assert not Path(environment["BUDGET_DATA_DIR"]).exists()


def test_a_mythos_row_holds_exact_dollars_the_us_multiple_the_overlay_and_the_retirement(
    environment: Environment,
) -> None:
    """Anthropic, "Pricing" and "Data residency"; SDK, DEPRECATED_MODELS."""
    shown = run_program(environment, "prices", "claude-mythos-preview")

    assert rows_of(shown.stdout, "claude-mythos-preview") == [
        [
            *("claude-mythos-preview", "10.00", "50.00", "12.50", "20.00", "1.00", "10.00", "x 1.1"),
            *(f"overlay {OVERLAY_DATE}", "2026-06-30"),
        ]
    ]


def test_longer_prompts_fast_mode_and_former_prices_have_rows_of_their_own(environment: Environment) -> None:
    """Anthropic, "Pricing": Haiku 5.5 above 100,000 tokens, Opus 5.5 fast, Opus 4.6 before 2026-03-13."""
    shown = run_program(environment, "prices", "claude-haiku-5-5", "claude-opus-5-5", "claude-opus-4-6").stdout

    prices = {
        row[0]: row[1:6] for model in ("haiku-5-5", "opus-5-5", "opus-4-6") for row in rows_of(shown, f"claude-{model}")
    }
    assert prices == {
        "claude-haiku-5-5": ["0.10", "0.50", "0.125", "0.20", "0.01"],
        "claude-haiku-5-5, prompt over 100,000": ["0.50", "2.50", "0.625", "1.00", "0.05"],
        "claude-opus-5-5": ["4.00", "20.00", "5.00", "8.00", "0.20"],
        "claude-opus-5-5, fast mode": ["8.00", "40.00", "10.00", "16.00", "0.40"],
        "claude-opus-4-6, from 2026-03-13": ["5.00", "25.00", "6.25", "10.00", "0.50"],
        "claude-opus-4-6, until 2026-03-12": ["5.00", "25.00", "6.25", "10.00", "0.50"],
        "claude-opus-4-6, until 2026-03-12, prompt over 200,000": ["10.00", "37.50", "12.50", "20.00", "1.00"],
    }


def test_the_users_own_table_is_in_force(environment: Environment, tmp_path: Path) -> None:
    """BUDGET_PRICES wins, is named as the source, and what it leaves unknown is not shown as free."""
    table = tmp_path / "prices.toml"
    table.write_text('[models."m|[red]1"]\ninput = "0.00000001"\noutput = "1.5"\n', encoding="utf-8")
    environment["BUDGET_PRICES"] = str(table)

    shown = run_program(environment, "prices", "m|[red]1")
    markdown = run_program(environment, "prices", "--markdown", "m|[red]1")

    (row,) = rows_of(shown.stdout, re.escape("m|[red]1"))
    assert row == [
        *("m|[red]1", "0.00000001", "1.50", "0.00000002", "0.00000002", "0.00000001"),
        *("unknown", "x 1.1", "BUDGET_PRICES"),
    ]
    assert "| `m\\|[red]1` |  | 0.000001 | 150 | 0.000002 | 0.000002 | 0.000001 | unknown |" in markdown.stdout


def test_prices_in_another_unit_are_doubted_beside_the_table(environment: Environment, tmp_path: Path) -> None:
    """They are in force and shown as they are; the doubt goes to standard error, for a table is read by programs."""
    table = tmp_path / "prices.toml"
    table.write_text('[models.claude-sonnet-5-5]\ninput = "0.002"\noutput = "0.01"\n', encoding="utf-8")
    environment["BUDGET_PRICES"] = str(table)

    for arguments in ([], ["--markdown"]):
        shown = run_program(environment, "prices", *arguments, "claude-sonnet-5-5")

        (doubt,) = shown.stderr.splitlines()
        assert shown.returncode == 0
        assert doubt.startswith(
            'The prices of "claude-sonnet-5-5" in the file that BUDGET_PRICES names look like another'
        )
        assert "input = $0.002, where $2.00 is known for that model" in doubt
        assert "another unit" not in shown.stdout


def test_an_unknown_model_is_one_sentence_with_the_nearest_id(environment: Environment) -> None:
    """A typo should cost a sentence, not a price guessed by family."""
    line = complaint_of(environment, "prices", "claude-opus-5-5-turbo", "claude-opus-5-5")

    assert "claude-opus-5-5-turbo" in line
    assert 'nearest listed id is "claude-opus-5-5"' in line


def test_a_table_that_is_wrong_is_one_sentence_with_its_place(environment: Environment, tmp_path: Path) -> None:
    """The prices shown would otherwise be others than the user believes."""
    environment["BUDGET_PRICES"] = str(tmp_path / "missing.toml")

    assert "missing.toml" in complaint_of(environment, "prices")


@pytest.mark.parametrize("also", ["--markdown", "claude-opus-5-5"])
def test_a_check_of_a_part_is_refused(environment: Environment, also: str) -> None:
    """It would say that all is well where nobody looked."""
    assert "--check" in complaint_of(environment, "prices", "--check", also)


def test_the_pinned_packages_show_no_drift(environment: Environment) -> None:
    """CONTRIBUTING: after an update of genai-prices or anthropic, what this reports is mended with it."""
    needs_pinned("genai-prices", "anthropic")

    checked = run_program(environment, "prices", "--check", *FOREVER)

    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
    assert "agree" in checked.stdout


def test_an_overlay_that_is_too_old_ends_the_check_with_1(environment: Environment) -> None:
    """Prices that nobody compared for long are not known to be current."""
    checked = run_program(environment, "prices", "--check", "--max-overlay-days", "0")

    assert checked.returncode == 1
    assert f"({OVERLAY_DATE}), more than 0" in checked.stdout


def test_the_document_has_the_prices_of_the_pinned_table() -> None:
    """docs/pricing.md is written by `make pricing`, which a new lock needs too: else an old version stands there."""
    sources = {cells[9] for cells in table_of(DOCUMENT)}

    assert f"genai-prices {pinned('genai-prices')}" in sources
    assert sources <= {f"genai-prices {pinned('genai-prices')}", f"overlay {OVERLAY_DATE}"}


def test_the_document_is_what_the_command_prints(environment: Environment) -> None:
    """With the pinned packages, which CI has, the document is the command's output to the letter."""
    needs_pinned("genai-prices")

    printed = run_program(environment, "prices", "--markdown").stdout

    _, written = DOCUMENT.split("<!-- make pricing writes what follows -->\n")
    assert written.strip() == printed.strip(), "run `make pricing`"


def test_a_row_of_the_document_is_what_a_token_costs() -> None:
    """Microcents per token, searches per thousand: the document's numbers are those that a charge is made of."""
    rows = {(cells[0].strip("`"), cells[1]): cells[2:8] for cells in table_of(DOCUMENT)}

    assert rows["claude-haiku-5-5", ""] == ["10", "50", "12.5", "20", "1", "1,000,000,000"]
    assert rows["claude-3-haiku-20240307", ""] == ["25", "125", "30", "50", "3", "unknown"]
