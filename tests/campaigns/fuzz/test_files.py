# ruff: noqa: PT017 - a refusal is one of two outcomes that are both right
"""Settings and files that a person wrote: one sentence and exit code 2, or a server that does as they say."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budget_server.config.settings import Settings, read_settings
from budget_tools.core.errors import BudgetError, ConfigurationError
from budget_tools.core.money import MAX_AMOUNT
from budget_tools.pricing.book import PriceBook
from budget_tools.subagent_tools.toolbox import Toolbox
from campaigns.fuzz.test_tools import check_sentence
from campaigns.fuzz.values import SECRET, TEXTS
from hosting import Environment, run_program

NUMBERS_AS_TEXT = [
    "0", "-0", "1", "5", "0.00", "0.000000001", "-1", "1e3", "1_000", "1,5", " 5", "5 ", "\uff15", "\u0663", "0x5",
    "+5", "inf", "nan", "true", "9" * 30, "9" * 5_000, "5.5.5", ".5", "5.", "$5",
]  # fmt: skip
WORDS = [*(text for text in TEXTS if "\0" not in text and not re.search("[\ud800-\udfff]", text)), *NUMBERS_AS_TEXT]
READ_LATER = [
    "BUDGET_DATA_DIR",
    "BUDGET_PRICES",
    "BUDGET_SUBAGENT_SERVERS",
    "BUDGET_TIME_ZONE",
    "BUDGET_TOOLS",
    "CYCLES_AGENT",
]
"""What is looked at after the environment has been read, or while it is."""
VARIABLES = sorted(name.upper() for name in Settings.model_fields)

_environment_text = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(
        ["https://a.example", "http://127.0.0.1:9/x", "https://u:p@a.example/?q", "Europe/Berlin", "core,all"]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
)


def test_whatever_the_environment_holds_it_is_one_sentence_or_settings(
    tally: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings: a wrong one names its variable and shows no value; a budget is what was written, or none."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    @settings(max_examples=settings().max_examples * 10, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(st.sampled_from(VARIABLES), _environment_text, min_size=1, max_size=3))
    def fuzz(values: dict[str, str]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ANTHROPIC_API_KEY", SECRET)
            for name, value in values.items():
                patch.setenv(name, value)
            try:
                read = read_settings()
            except ConfigurationError as exc:
                tally["settings, refused"] += 1
                check_sentence(exc.message, "settings")
                assert any(name in exc.message for name in VARIABLES)
                return
        tally["settings, read"] += 1
        assert SECRET not in repr(read)
        written = values.get("BUDGET_USD", "")
        if not written:
            assert read.budget_usd is None
        else:
            assert read.budget_usd is not None
            assert re.fullmatch(r"\s*-?\$?\d*\.?\d*\s*", written, re.ASCII)
            assert 0 <= read.budget_usd <= MAX_AMOUNT
            assert read.budget_usd == round(float(written.strip(" $")) * 10**8) or read.budget_usd > 2**53

    fuzz()


@pytest.mark.parametrize("name", READ_LATER)
def test_a_start_with_an_odd_setting_serves_or_says_why_not(tmp_path: Path, tally: Counter[str], name: str) -> None:
    """As a host starts it: exit code 0 once standard input ends, or 2 and one line; never a traceback."""
    for value in ("\x1b[2J\n2026-01-01 INFO", "9" * 400):
        tally["starts"] += 1
        environment: Environment = {"PATH": os.environ["PATH"], "BUDGET_DATA_DIR": str(tmp_path / "data")}
        ended = run_program({**environment, "BUDGET_USD": "1", name: value}, cwd=tmp_path)
        assert ended.returncode in (0, 2), ended.stderr
        assert (ended.returncode == 0) == (ended.stderr == "" or "WARNING" in ended.stderr), ended.stderr
        if ended.returncode == 2:
            (line,) = ended.stderr.splitlines()
            check_sentence(line, name)


_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS), st.text(max_size=8),
)  # fmt: skip
_json = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
_price = _json | st.fixed_dictionaries({}, optional={"usd": _json, "risk_points": _json})
_entry = _json | st.fixed_dictionaries(
    {},
    optional={
        "command": _json | st.just("x"), "args": _json, "env": _json, "cwd": _json, "type": _json, "timeout": _json,
        "url": _json | st.sampled_from(["http://127.0.0.1:9/", "file:///etc/passwd", "https://u:p@h/"]),
        "headers": _json, "disabled": _json,
        "budget": _json | st.fixed_dictionaries({"tools": st.dictionaries(st.sampled_from(["a", "*"]), _price)}),
    },
)  # fmt: skip
_servers = (
    _json | st.fixed_dictionaries({"mcpServers": _json | st.dictionaries(st.text(max_size=8), _entry, max_size=2)})
).map(lambda value: json.dumps(value).encode())
_prices = st.one_of(
    st.dictionaries(st.sampled_from(["input", "output", "cache_read", "x"]), _scalars, max_size=3).map(
        lambda prices: (
            '[models."claude-next-9"]\n' + "".join(f"{name} = {json.dumps(value)}\n" for name, value in prices.items())
        )
    ),
    st.text(max_size=60),
    st.sampled_from(["[models]", "models = 1", "[models.a]\n[models.a]", "a = " + "[" * 3_000, "\ufeff[models]"]),
).map(lambda text: text.encode(errors="surrogatepass"))


def _damaged(good: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    cut = st.tuples(good, st.integers(0, 400)).map(lambda pair: pair[0][: pair[1]])
    return st.one_of(good, good, cut, st.binary(max_size=80))


@pytest.mark.parametrize(("kind", "contents"), [("mcpServers", _damaged(_servers)), ("prices", _damaged(_prices))])
def test_whatever_a_file_holds_it_is_one_sentence_or_read(
    tmp_path: Path, tally: Counter[str], kind: str, contents: st.SearchStrategy[bytes]
) -> None:
    """TOML and JSON: a file that cannot be read is told at the start, by its name and in one line."""
    path = tmp_path / "file"

    @settings(max_examples=settings().max_examples * 5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(contents)
    def fuzz(content: bytes) -> None:
        path.write_bytes(content)
        try:
            if kind == "prices":
                PriceBook.load(path)
            else:
                Toolbox.load(path)
        except BudgetError as exc:
            tally[f"{kind}, refused"] += 1
            check_sentence(exc.message, kind)
            return
        tally[f"{kind}, read"] += 1

    fuzz()


def test_install_leaves_a_file_that_it_cannot_read_as_it_is(tmp_path: Path, tally: Counter[str]) -> None:
    """A host's file is somebody else's: either it has our entry beside all that it had, or it is untouched."""
    path = tmp_path / "host.json"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "BUDGET_DATA_DIR": str(tmp_path / "data")}
    odd = [b"[" * 5_000, b'{"a": "\\ud800"}', b"\0", b'{"mcpServers": null}', b"\xff\xfe{}"]
    for content in odd:
        path.write_bytes(content)
        tally["host files"] += 1
        ended = run_program(environment, "install", "cursor", "--config", str(path), "--yes")
        assert "Traceback" not in ended.stderr, ended.stderr
        if ended.returncode == 0:
            assert "budget" in json.loads(path.read_bytes().decode(errors="surrogatepass"))["mcpServers"]
        else:
            assert ended.returncode == 2
            assert path.read_bytes() == content
