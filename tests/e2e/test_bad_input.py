"""Bad input gets one clear sentence that names the field and the remedy, and holds nothing."""

from collections.abc import Callable

import anyio
import pytest
from mcp import Client

from hosting import Environment, call, ledger_balance, refused

pytestmark = pytest.mark.anyio

RESERVE = [
    ({"max_usd": 1}, "'max_usd'"),
    ({"usd": 0.1, "Amount": 5}, "'Amount'"),
    ({}, "exactly one way"),
    ({"usd": 0.1, "amount": 5}, "exactly one way"),
    ({"usd": 0.1, "model": "claude-sonnet-4-6"}, "exactly one way"),
    ({"usd": -0.01}, "usd: must not be negative"),
    ({"usd": "-1"}, "usd: must not be negative"),
    ({"usd": True}, "usd: "),
    ({"usd": "1,5"}, "usd: "),
    ({"usd": "\uff11"}, "usd: "),
    ({"usd": 0.000000001}, "usd: is finer than one microcent"),
    ({"usd": "99999999999999"}, "usd: is too large"),
    ({"usd": "1e2"}, "usd: "),
    ({"usd": [1]}, "usd: "),
    ({"amount": -1}, "amount: "),
    ({"amount": 1.5}, "amount: "),
    ({"amount": 5.0}, "amount: "),
    ({"amount": "5"}, "amount: "),
    ({"amount": True}, "amount: "),
    ({"amount": 2**63}, "amount: "),
    ({"amount": 10**30}, "amount: "),
    ({"amount": 5, "unit": "EUR"}, "unit must be one of"),
    ({"usd": 1, "unit": "TOKENS"}, "unit goes with amount"),
    ({"model": "claude-sonnet-4-6"}, "input_tokens"),
    ({"model": "claude-sonet-4-6", "input_tokens": 1, "max_output_tokens": 1}, "claude-sonnet-4-6"),
    ({"model": "claude-sonnet-4-6", "input_tokens": 10**18, "max_output_tokens": 1}, ""),
    ({"usd": 0.1, "ttl_seconds": 0}, "ttl_seconds: "),
    ({"usd": 0.1, "ttl_seconds": 90_000}, "ttl_seconds: "),
    ({"usd": 0.1, "ttl_seconds": "60"}, "ttl_seconds: "),
    ({"usd": 0.1, "overage_policy": "SURE"}, "overage_policy: "),
    ({"usd": 0.1, "dry_run": "yes"}, "dry_run: "),
    ({"usd": 0.1, "subject": {"tenant": "other"}}, "subject.tenant"),
    ({"usd": 0.1, "subject": {"agent": "a/b"}}, "subject.agent"),
    ({"usd": 0.1, "tags": ["x" * 65]}, "tags.0"),
    ({"usd": 0.1, "tags": ["x"] * 11}, "tags"),
    ({"usd": 0.1, "action_kind": ""}, "action_kind"),
    ({"usd": 0.1, "action_kind": " "}, "action"),
    ({"usd": 0.1, "idempotency_key": "k" * 257}, "idempotency_key"),
    ({"amount": 5, "unit": "TOKENS"}, "UNIT_MISMATCH"),
    ({"usd": 1, "options": {"cache": "1h"}}, "options go with model"),
    ({"model": "claude-sonnet-5-5", "input_tokens": 1, "max_output_tokens": 1, "options": {"batch": "yes"}}, "batch"),
    (
        {"model": "claude-opus-5-5", "input_tokens": 1, "max_output_tokens": 1, "options": {"mcp_servers": [{}]}},
        "say with usd how much to hold",
    ),
]

COMMIT = [
    ({"usd": 0.1}, "reservation_id"),
    ({"reservation_id": "r-unknown", "usd": 0.1}, "r-unknown"),
    ({"reservation_id": "r-unknown"}, "exactly one way"),
    ({"reservation_id": "r-unknown", "model": "claude-sonnet-4-6"}, "usage"),
    ({"reservation_id": "r-unknown", "usage": {"input_tokens": 1, "output_tokens": 1}}, "model"),
    ({"reservation_id": "r-unknown", "model": "claude-sonnet-4-6", "usage": {"input_tokens": 1}}, "output_tokens"),
    (
        {
            "reservation_id": "r-unknown",
            "model": "claude-sonnet-4-6",
            "usage": {"input_tokens": -1, "output_tokens": 1},
        },
        "input_tokens",
    ),
    ({"reservation_id": "r-unknown", "model": "x", "usage": {"input_tokens": 1, "output_tokens": 1}}, "UNKNOWN_MODEL"),
    ({"reservation_id": "r-unknown", "usd": 1, "latency_ms": -5}, "latency_ms"),
    ({"reservation_id": "r-unknown", "usd": 1, "metadata": "text"}, "metadata"),
]

ESTIMATE = [
    ({}, "exactly one way"),
    ({"prompt": "a", "input_tokens": 5}, "exactly one way"),
    ({"messages": []}, "messages must not be empty"),
    ({"messages": [{"role": "alien", "content": "x"}]}, "messages.0 needs a role"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant"}]}, "messages.1 needs a role"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages.0 must be the user's"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content must be text or a list"),
    ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "messages.0.content must be text or a list"),
    ({"prompt": "a", "model": "claude-sonet-5-5"}, 'nearest listed id is "claude-sonnet-5-5"'),
    ({"prompt": "a", "model": "sonnet"}, 'an alias, whose model changes; the nearest listed id is "claude-sonnet-5-5"'),
    ({"prompt": "a", "options": {"cache": "2h"}}, "options.cache must be one of"),
    ({"prompt": "a", "options": {"ttl": "1h"}}, "options.ttl is not known"),
    ({"prompt": "a", "options": {"service_tier": "cheap"}}, "options.service_tier must be one of"),
    ({"prompt": "a", "options": {"speed": "fast"}}, "no price is known for fast mode"),
    (
        {"prompt": "a", "options": {"cache_control": {"type": "ephemeral", "ttl": "1d"}}},
        "options.cache_control must be",
    ),
    ({"prompt": "a", "options": "fast"}, "options"),
    ({"prompt": "a", "system": [{"text": "x"}]}, "system must be text or a list of blocks, each with a type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"ttl": "5m"}}]}]},
        "messages.0.content.0.cache_control must be",
    ),
    ({"input_tokens": -5}, "input_tokens"),
    ({"prompt": "a", "max_output_tokens": 0}, "max_output_tokens"),
    ({"prompt": "a", "turns": 0}, "turns"),
    ({"prompt": "a", "model": "gpt-9"}, "UNKNOWN_MODEL"),
    ({"prompt": "a", "model": "claude-sonnet-4-6", "models": ["claude-sonnet-4-5"]}, "not both"),
]

DELEGATE = [
    ({}, "task"),
    ({"task": ""}, "task"),
    ({"task": "x", "max_turns": 0}, "max_turns"),
    ({"task": "x", "budget_usd": -1}, "budget_usd: must not be negative"),
    ({"resume": "d-1"}, "there is no delegation 'd-1'"),
    ({"task": "x", "fallback_models": ["claude-heiku"]}, "no price is known for model"),
    ({"task": "x", "output_schema": {"type": "array"}}, "output_schema"),
    ({"task": "x", "context": "x" * 5_000_000}, "context: must have at most 1000000 characters"),
    ({"task": "x"}, "ANTHROPIC_API_KEY is not set"),
    ({"task": "x", "max_spend": 1}, "'max_spend'"),
]


@pytest.mark.parametrize(
    ("tool", "cases"),
    [
        ("reserve_budget", RESERVE),
        ("commit_usage", COMMIT),
        ("estimate_cost", ESTIMATE),
        ("delegate_to_claude", DELEGATE),
        (
            "delegation_status",
            [({"delegation_id": ""}, "delegation_id"), ({"delegation_id": "d"}, "there is no delegation 'd'")],
        ),
        ("list_delegations", [({"status": "done"}, "status"), ({"limit": 0}, "limit"), ({"cursor": "x"}, "cursor")]),
        ("reserve_bugdet", [({"usd": 1}, "there is no tool")]),
    ],
)
async def test_bad_input_gets_one_clear_sentence_and_holds_nothing(
    host: Callable[..., Client], environment: Environment, tool: str, cases: list[tuple[dict[str, object], str]]
) -> None:
    """What is wrong, where, what to do; the server goes on serving, and the ledger is as it was."""
    with anyio.fail_after(60):
        async with host() as client:
            for arguments, names in cases:
                sentence = await refused(client, tool, **arguments)
                assert names.lower() in sentence.lower(), (arguments, sentence)
                code, _, rest = sentence.partition(": ")
                assert code.isupper(), sentence
                assert rest.rstrip().endswith((".", ")")), sentence
            left = await call(client, "estimate_cost", input_tokens=1)

    assert left["remaining"]["usd"] == "1.00"
    balance = ledger_balance(environment)
    assert (balance["reserved"], balance["spent"]) == (0, 0)


async def test_a_secret_never_reaches_an_answer(host: Callable[..., Client], environment: Environment) -> None:
    """An unreachable API must not echo the key it was called with."""
    environment |= {"ANTHROPIC_API_KEY": "sk-ant-canary-0001", "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}

    with anyio.fail_after(60):
        async with host() as client:
            result = await client.call_tool("delegate_to_claude", {"task": "Hello"})

    assert "canary" not in result.model_dump_json()
    assert result.structured_content is not None
    assert result.structured_content["status"] == "failed"
    balance = ledger_balance(environment)
    assert (balance["reserved"], balance["spent"]) == (0, 0)
