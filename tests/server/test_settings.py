"""Settings as people and hosts write them: each works, or is refused at start with the name of its variable."""

import os
from pathlib import Path

import pytest

from budget_server.config.settings import Settings, read_settings
from budget_tools.core.errors import ConfigurationError
from hosting import Environment, complaint_of, run_program

PATHS = ["BUDGET_DATA_DIR", "BUDGET_PRICES", "BUDGET_SUBAGENT_SERVERS"]
KEY = "sk-ant-of-a-person"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A home, and nothing else of ours."""
    for name in list(os.environ):
        if name.startswith(("ANTHROPIC_", "BUDGET_", "CYCLES_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", str(tmp_path / "place"))
    monkeypatch.delenv("NOWHERE", raising=False)
    return monkeypatch


def read(environment: pytest.MonkeyPatch, **variables: str) -> Settings:
    """Read settings from these variables."""
    for name, value in variables.items():
        environment.setenv(name, value)
    return read_settings()


def refusal(environment: pytest.MonkeyPatch, **variables: str) -> str:
    """Read settings that must be refused, and give the sentence, which names the last variable first."""
    with pytest.raises(ConfigurationError) as found:
        read(environment, **variables)
    sentence = found.value.message
    assert "\n" not in sentence
    assert sentence.startswith(f"{list(variables)[-1]} is wrong: ")
    return sentence


@pytest.mark.parametrize("variable", PATHS)
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~/budget", "budget"),
        ("${HOME}/budget", "budget"),
        ("$HOME/budget", "budget"),
        ("~/${PLACED}/budget", "there/budget"),
        ("$PLACE/budget", "place/budget"),
        (" ~/budget\n", "budget"),
    ],
)
def test_a_path_is_expanded_where_no_shell_has(
    environment: pytest.MonkeyPatch, tmp_path: Path, variable: str, written: str, meant: str
) -> None:
    """Hosts pass the text of their files on as it is."""
    settings = read(environment, PLACED="there", **{variable: written})

    assert getattr(settings, variable.lower()) == tmp_path / meant


@pytest.mark.parametrize("variable", PATHS)
@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("budget", "must be an absolute path"),
        ("./budget", "must be an absolute path"),
        ("../budget", "must be an absolute path"),
        ("~nobody-of-this-name/budget", "must be an absolute path"),
        ("${NOWHERE}/budget", "has ${NOWHERE}, which is not set"),
        ("$NOWHERE/budget", "has $NOWHERE, which is not set"),
        ("/data/${NOWHERE}", "has ${NOWHERE}, which is not set"),
        ("${workspaceFolder}/budget", "has ${workspaceFolder}, which is not set"),
        ("${env:HOME}/budget", "has ${env:HOME}, which is not set"),
    ],
)
def test_a_path_that_means_another_place_for_each_host_is_refused(
    environment: pytest.MonkeyPatch, variable: str, written: str, says: str
) -> None:
    """A ledger in each working directory would let a budget be spent once in each."""
    assert says in refusal(environment, **{variable: written})


def test_one_ledger_is_kept_wherever_the_server_is_started(tmp_path: Path) -> None:
    """The same budget, though two hosts start in two directories."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    own: Environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "BUDGET_DATA_DIR": "~/budget"}
    made = run_program(own, "budget", "allocate", "1", cwd=first)
    shown = run_program(own, "budget", "show", cwd=second)

    assert made.returncode == shown.returncode == 0
    assert "1.00" in shown.stdout
    assert (tmp_path / "budget").is_dir()
    assert [*first.iterdir(), *second.iterdir()] == []
    assert "BUDGET_DATA_DIR is wrong" in complaint_of({**own, "BUDGET_DATA_DIR": "budget"}, "budget", "show")


@pytest.mark.parametrize("variable", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CYCLES_API_KEY"])
@pytest.mark.parametrize(
    "around",
    ["{}\n", "{}\r\n", " {}", "{} ", "\t{}", "{}\u00a0", "{}\u200b", "{} x", "\ufeff{}", "ü{}", '"{}"', "'{}'"],
)
def test_a_key_with_what_no_key_has_is_refused_without_showing_it(
    environment: pytest.MonkeyPatch, variable: str, around: str
) -> None:
    """Copied with a line end, it would fail in every request, after its reservation."""
    sentence = refusal(environment, **{variable: around.format(KEY)})

    assert KEY not in sentence
    assert "copy it again" in sentence


@pytest.mark.parametrize(
    "address",
    [
        "gateway.example",
        "localhost:4000",
        "//gateway.example",
        "ftp://gateway.example",
        "https://",
        "https://:8080",
        "https://gateway.example:port",
        "https://gateway.example\n",
        " https://gateway.example",
        "https://gate way.example",
        "https://gateway.example?key=1",
        "https://gateway.example/#x",
        "https://[::1",
    ],
)
@pytest.mark.parametrize("variable", ["ANTHROPIC_BASE_URL", "CYCLES_BASE_URL"])
def test_an_address_that_leads_nowhere_is_refused(environment: pytest.MonkeyPatch, variable: str, address: str) -> None:
    """With an example of one that does."""
    assert "https://gateway.example, with its scheme" in refusal(environment, **{variable: address})


@pytest.mark.parametrize("end", ["/v1", "/v1/", "/anthropic/v1", "/v1/messages", "/v1//"])
@pytest.mark.parametrize("variable", ["ANTHROPIC_BASE_URL", "CYCLES_BASE_URL"])
def test_v1_at_the_end_of_an_address_is_said_at_the_start(
    environment: pytest.MonkeyPatch, variable: str, end: str
) -> None:
    """Clients of other APIs want it there; here every request would meet a 404."""
    assert "leave /v1" in refusal(environment, **{variable: f"https://gateway.example{end}"})


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:4000", "https://g.example/a/v1beta/", "https://g.example/v1/a", "https://[::1]:1"]
)
def test_another_address_is_taken_as_it_is(environment: pytest.MonkeyPatch, address: str) -> None:
    """A path before /v1 is the gateway's own."""
    assert read(environment, ANTHROPIC_BASE_URL=address).claude_endpoint.base_url == address


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ("X-Team research", "line 1 is not"),
        ("X-Team: research\nnonsense", "line 2 is not"),
        ("X Team: research", "line 1 is not"),
        (": research", "line 1 is not"),
        (f"X-Key: {KEY}\x01", "that of its header X-Key"),
        (f"X-Key: {KEY}\rX-Other: y", "that of its header X-Key"),
        (f"X-Key: {KEY}ü", "that of its header X-Key"),
        ("Content-Length: 5", "its header Content-Length"),
        ("transfer-encoding: chunked", "its header transfer-encoding"),
    ],
)
def test_headers_that_http_does_not_take_are_refused_without_showing_them(
    environment: pytest.MonkeyPatch, headers: str, says: str
) -> None:
    """They may hold secrets."""
    sentence = refusal(environment, ANTHROPIC_CUSTOM_HEADERS=headers)

    assert says in sentence
    assert KEY not in sentence


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ANTHROPIC_API_KEY", "${ANTHROPIC_API_KEY}"),
        ("ANTHROPIC_API_KEY", "$ANTHROPIC_API_KEY"),
        ("ANTHROPIC_AUTH_TOKEN", "${env:TOKEN}"),
        ("ANTHROPIC_AUTH_TOKEN", "${input:token}"),
        ("ANTHROPIC_BASE_URL", "https://${GATEWAY}"),
        ("ANTHROPIC_CUSTOM_HEADERS", "X-Key: ${KEY:-none}"),
        ("BUDGET_USD", "${BUDGET}"),
        ("BUDGET_MODEL", "${MODEL}"),
        ("CYCLES_API_KEY", "${CYCLES_API_KEY}"),
    ],
)
def test_a_placeholder_that_nobody_replaced_is_named(
    environment: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """As a key it would be refused by the API, with no word of why."""
    assert value[value.index("$") :] in refusal(environment, **{variable: value})


def test_a_field_of_a_form_that_was_left_blank_counts_as_not_set(environment: pytest.MonkeyPatch) -> None:
    """Some hosts put the name of the field there."""
    settings = read(
        environment,
        ANTHROPIC_API_KEY="${user_config.anthropic_api_key}",
        BUDGET_PRICES="${user_config.prices}",
        BUDGET_USD="${user_config.budget_usd}",
    )

    assert not settings.claude_endpoint.has_credential
    assert (settings.budget_prices, settings.budget_usd) == (None, None)


@pytest.mark.parametrize(
    ("variables", "has_credential", "credential"),
    [
        ({}, False, "ANTHROPIC_API_KEY"),
        ({"ANTHROPIC_API_KEY": "k"}, True, "ANTHROPIC_API_KEY"),
        ({"ANTHROPIC_AUTH_TOKEN": "t"}, True, "ANTHROPIC_AUTH_TOKEN"),
        ({"ANTHROPIC_API_KEY": "k", "ANTHROPIC_AUTH_TOKEN": "t"}, True, "ANTHROPIC_API_KEY"),
        (
            {"ANTHROPIC_API_KEY": "k", "ANTHROPIC_AUTH_TOKEN": "t", "ANTHROPIC_BASE_URL": "https://g.example"},
            True,
            "ANTHROPIC_AUTH_TOKEN",
        ),
        ({"ANTHROPIC_CUSTOM_HEADERS": "X-Team: research"}, False, "ANTHROPIC_API_KEY"),
        ({"ANTHROPIC_CUSTOM_HEADERS": "x-api-key: k"}, True, "ANTHROPIC_CUSTOM_HEADERS"),
    ],
)
def test_who_sends_is_known_from_either_variable(
    environment: pytest.MonkeyPatch, variables: dict[str, str], has_credential: bool, credential: str
) -> None:
    """The name of the variable that counts stands in every sentence about it."""
    endpoint = read(environment, **variables).claude_endpoint

    assert (endpoint.has_credential, endpoint.credential) == (has_credential, credential)
    assert "'k'" not in repr(endpoint)
    assert "'t'" not in repr(endpoint)


@pytest.mark.parametrize(
    ("host", "gets_both"),
    [("api.anthropic.com", False), ("eu.anthropic.com", False), ("anthropic.com.example", True), ("127.0.0.1", True)],
)
def test_anthropics_own_api_gets_a_key_in_one_header(
    environment: pytest.MonkeyPatch, host: str, gets_both: bool
) -> None:
    """As its own SDK sends it; the second header is for those who know only that."""
    endpoint = read(environment, ANTHROPIC_API_KEY="k", ANTHROPIC_BASE_URL=f"https://{host}").claude_endpoint

    assert endpoint.sent_headers == ["Authorization: Bearer", "x-api-key"][: 1 + gets_both]
