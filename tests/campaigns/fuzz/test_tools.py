"""Every tool with arguments that fit its schema, that nearly do, and that nobody should send.

Whatever they are: one answer, never an internal error; a refusal is one sentence that shows nothing it should not; and
the budget moves by what a success said, and by nothing else.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from budget_server.mcp_server.server import TOOLS
from campaigns.fuzz.stdio_host import INTERNAL_ERROR, Generation, StdioHost
from campaigns.fuzz.values import ODD, SECRET, arguments

MODELS = ["claude-sonnet-5-5", "claude-sonnet-4-6", "claude-haiku-4-5", "claude-sonet-5-5"]
EXAMPLES = 60
"""Per tool, for both generations together; the profile ``nightly`` has thousands."""

UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")
"""What could forge a line of a log, or colour or turn the text around it."""

MOST_CHARACTERS = 2_000
"""A sentence that echoes megabytes is none."""

_counts = st.integers(0, 5_000)
_usage = st.fixed_dictionaries(
    {"input_tokens": _counts, "output_tokens": _counts},
    optional={
        "cache_read_input_tokens": _counts,
        "cache_creation_input_tokens": _counts,
        "service_tier": st.sampled_from(["standard", "batch", "priority", ""]) | ODD,
        "server_tool_use": ODD,
        "cache_creation": ODD,
        "speed": ODD,
        "inference_geo": ODD,
    },
)
_level = st.sampled_from(["a", "b", "a/b", "", "x" * 129])
_subject = st.dictionaries(st.sampled_from(["workspace", "app", "agent", "toolset"]), _level, max_size=2)
_block = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "document", "tool_use"])}, optional={"text": ODD}
)
_message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]),
        "content": st.text(max_size=20) | st.lists(_block | ODD, max_size=2),
    }
)

LIKELY: Mapping[str, SearchStrategy[Any]] = {
    "model": st.sampled_from(MODELS),
    "models": st.lists(st.sampled_from(MODELS), max_size=3),
    "fallback_models": st.lists(st.sampled_from(MODELS), max_size=2),
    "usd": st.sampled_from(["0.01", 0.05, "0.00000001", 0, "0.10", "1000001"]),
    "budget_usd": st.sampled_from(["0.01", 1, "0.00000001", "0.0001"]),
    "amount": st.integers(0, 100_000),
    "unit": st.sampled_from(["USD_MICROCENTS", "USD_MICROCENTS", "TOKENS", "usd"]),
    "usage": _usage,
    "subject": _subject,
    "messages": st.lists(_message, max_size=3),
    "prompt": st.text(max_size=50),
    "task": st.text(min_size=1, max_size=50),
    "input_tokens": _counts,
    "max_output_tokens": st.integers(1, 2_000),
    "ttl_seconds": st.just(86_400),  # what ran out in the middle would move the budget without a call
    "wait_seconds": st.integers(0, 20),
    "reservation_id": st.sampled_from(["@0", "@1", "@2", "@3"]),
    "delegation_id": st.sampled_from(["@0", "@1"]),
    "resume": st.sampled_from(["", "@0"]),
    "idempotency_key": st.sampled_from(["", "", "key-1", "key-2", "key-3"]),
    "output_schema": st.just({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}),
    "tools": st.sampled_from([[], ["shed__count"], ["*"]]),
}
"""Values that mean something; ``@n`` stands for the n-th last id that was given."""

WAYS: Mapping[str, list[set[str]]] = {
    "estimate_cost": [
        {"input_tokens"},
        {"prompt"},
        {"messages"},
        {"model", "prompt", "tools"},
        {"models", "input_tokens"},
    ],
    "reserve_budget": [{"usd"}, {"amount", "unit"}, {"model", "input_tokens", "max_output_tokens"}],
    "commit_usage": [{"usd"}, {"amount"}, {"model", "usage"}],
    "record_usage": [{"usd"}, {"amount", "unit"}, {"model", "usage"}],
    "delegate_to_claude": [{"task"}, {"resume"}],
}
"""What has to be said together, for a call to get anywhere."""

SCHEMAS = {tool.name: tool.parameters for tool in TOOLS}


class Books:
    """What the successes so far add up to."""

    def __init__(self) -> None:
        self.reservations: list[str] = ["r-none"]
        self.delegations: list[str] = ["d-none"]
        self._held: dict[str, int] = {}
        self._booked: set[str] = set()

    def meant(self, tool: str, given: Mapping[str, object]) -> dict[str, object]:
        """Put ids in the place of what stands for them; let no lease run out meanwhile."""
        ids = {"reservation_id": self.reservations, "delegation_id": self.delegations, "resume": self.delegations}
        meant = {
            name: ids[name][-1 - int(value[1:]) % len(ids[name])]
            if name in ids and isinstance(value, str) and re.fullmatch("@[0-9]", value)
            else value
            for name, value in given.items()
        }
        ttl = meant.get("ttl_seconds", 60)
        is_lease = tool == "reserve_budget" and isinstance(ttl, int) and 0 < ttl <= 86_400
        return {**meant, "ttl_seconds": 86_400} if is_lease and not isinstance(ttl, bool) else meant

    def moved(self, tool: str, arguments_: Mapping[str, object], said: Mapping[str, Any]) -> tuple[int, int]:
        """What a success adds to what is spent and to what is held, in microcents; a repetition adds nothing."""
        if tool == "reserve_budget" and said["decision"] == "ALLOW" and said["reservation_id"] not in ("", *self._held):
            if said["reservation_id"] in self.reservations:
                return 0, 0
            self.reservations.append(said["reservation_id"])
            self._held[said["reservation_id"]] = said["reserved"]["amount"]
            return 0, said["reserved"]["amount"]
        if tool in ("commit_usage", "release_budget"):
            held = self._held.pop(str(arguments_["reservation_id"]), None)
            return (0, 0) if held is None else (said["charged"]["amount"] if "charged" in said else 0, -held)
        if tool == "record_usage" and said["decision"] == "ALLOW" and said["event_id"] not in self._booked:
            self._booked.add(said["event_id"])
            return said["charged"]["amount"], 0
        return 0, 0


@pytest.fixture(scope="module")
def books() -> Books:
    """One account of all that happens to the ledger."""
    return Books()


def standing(host: StdioHost) -> tuple[int, int]:
    """What is spent of the budget, and what is held."""
    (row,) = host.call("check_budget", {})["result"]["structuredContent"]["balances"]
    return row["spent"]["amount"], row["reserved"]["amount"]


def check_sentence(text: str, tool: str) -> None:
    """Assert that a refusal is fit to be shown and logged."""
    assert text
    assert not UNSHOWABLE.search(text), text
    assert len(text) <= MOST_CHARACTERS, f"{len(text)} characters: {text[:200]}"
    for trace in (SECRET, "Traceback", "Error executing", "pydantic", 'File "'):
        assert trace not in text, (tool, text)


@pytest.mark.parametrize("tool", SCHEMAS)
def test_whatever_a_tool_is_given_it_answers_in_order_and_moves_what_it_says(
    hosts: dict[Generation, StdioHost], books: Books, tally: Counter[str], tool: str
) -> None:
    """Input of a model is input of anybody: no argument may stop, mislead or colour anything."""

    @settings(
        max_examples=max(EXAMPLES, settings().max_examples // 2), deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(sorted(hosts)), arguments(SCHEMAS[tool], LIKELY, WAYS.get(tool, [set()])))
    def fuzz(generation: Generation, given_: dict[str, object]) -> None:
        host = hosts[generation]
        if given_.get("reservation_id") == "@0":  # one that nobody has settled
            reserved = {"usd": "0.10", "ttl_seconds": 86_400}
            books.moved(
                "reserve_budget", reserved, host.call("reserve_budget", reserved)["result"]["structuredContent"]
            )
        before = standing(host)
        arguments_ = books.meant(tool, given_)
        answer = host.call(tool, arguments_)
        host.is_alive()
        outcome = "refused" if "error" in answer or answer["result"]["isError"] else "answered"
        tally[f"tools, {tool}, {outcome}"] += 1
        if "error" in answer:
            assert answer["error"]["code"] != INTERNAL_ERROR, answer
            check_sentence(answer["error"]["message"], tool)
            assert standing(host) == before
            return
        result = answer["result"]
        said = result["structuredContent"]
        assert SECRET not in json.dumps(result)
        if result["isError"]:
            check_sentence(result["content"][0]["text"], tool)
            assert standing(host) == before
            return
        if "delegation_id" in said and "status" in said:
            books.delegations.append(said["delegation_id"])
            said = host.call("delegation_status", {"delegation_id": said["delegation_id"], "wait_seconds": 20})
            assert said["result"]["structuredContent"]["status"] != "running"
            return
        spent, held = books.moved(tool, arguments_, said)
        assert standing(host) == (before[0] + spent, before[1] + held)

    fuzz()
