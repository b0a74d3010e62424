"""Resuming: a delegation that stopped goes on where it was, in any process, and never does a thing twice."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.types import CallToolResult

from budget_server.demo.scripted_claude import Failure, ToolCall, Turn
from hosting import text_of
from tools.delegation.harness import (
    LOOK,
    PATIENCE_SECONDS,
    TOOLS,
    Bench,
    OpenBench,
    a_door,
    background,
    beside,
    happens,
    last_words,
    looks,
    open_bench,
    structured,
    tool_results,
)

pytestmark = pytest.mark.anyio

DAY_MS = 86_400_000


async def resume(b: Bench, stopped: dict[str, Any], **arguments: object) -> dict[str, Any]:
    """Resume a delegation; the call itself must succeed."""
    return structured(await b.call("delegate_to_claude", resume=stopped["delegation_id"], **arguments))


async def not_resumed(b: Bench, delegation_id: str, **arguments: object) -> str:
    """Resume what cannot be, and give the one sentence that says why."""
    return await b.refused(**{"task": "", "resume": delegation_id, **arguments})


def messages(b: Bench, number: int) -> list[dict[str, Any]]:
    """The messages of the n-th request."""
    found: list[dict[str, Any]] = b.claude.message_requests[number - 1].body["messages"]
    return found


# -- after each kind of stop --


async def test_after_its_turns_ended_it_goes_on_with_more_of_them(bench: OpenBench) -> None:
    """Design, 3: a stop loses no work: the endpoint sees the conversation as it was, and what was said since."""
    b = await bench([Turn(text="One.", tool_calls=(LOOK,)), Turn(text="So far."), Turn(text="All of it.")])
    stopped = await b.delegate(tools=TOOLS, max_turns=2, system="Be brief.")

    resumed = await resume(b, stopped, max_turns=5)

    assert (stopped["status"], resumed["status"], resumed["text"]) == ("max_turns", "completed", "All of it.")
    assert resumed["delegation_id"] == stopped["delegation_id"]
    assert resumed["turns"][:2] == stopped["turns"]
    assert [turn["number"] for turn in resumed["turns"]] == [1, 2, 3]
    assert messages(b, 3)[: len(messages(b, 2))] == messages(b, 2)
    said, told = messages(b, 3)[len(messages(b, 2)) :]
    assert said == {"role": "assistant", "content": [{"type": "text", "text": "So far."}]}
    assert told == {"role": "user", "content": "You may go on with the task: you have at most 3 more turns."}
    assert "tool_choice" not in b.claude.message_requests[2].body
    assert "at most 5 turns" in str(b.claude.message_requests[2].body["system"])


async def test_without_more_turns_it_says_so_and_sends_nothing(bench: OpenBench) -> None:
    """A resume that changes nothing must not tell the sub-agent that it may go on."""
    b = await bench([Turn(text="So far."), Turn(text="All of it.")])
    stopped = await b.delegate(tools=TOOLS, max_turns=1)

    same = await resume(b, stopped)
    fewer = await resume(b, stopped, max_turns=1)
    sent = b.sent
    more = await resume(b, stopped, max_turns=3)

    assert (same["status"], fewer["status"], sent) == ("max_turns", "max_turns", 1)
    assert "larger max_turns" in same["hint"]
    assert more["text"] == "All of it."
    assert last_words(b.claude.message_requests[1]) == "You may go on with the task: you have at most 2 more turns."


async def test_after_the_budget_ended_it_goes_on_once_there_is_more(bench: OpenBench) -> None:
    """Design, 3: an operator funds the budget, and the host resumes by id."""
    b = await bench(looks, usd="0.05")
    stopped = await b.delegate(tools=TOOLS, max_turns=40)
    sent = b.sent
    await b.fund("0.05")

    resumed = await resume(b, stopped)

    assert (stopped["status"], resumed["status"]) == ("budget_exhausted", "budget_exhausted")
    assert b.sent > sent
    assert resumed["text"] == f"Look {b.sent}."
    assert resumed["spent"]["amount"] == sum(turn["charged"]["amount"] for turn in resumed["turns"]) <= 10_000_000


async def test_budget_usd_counts_the_whole_life_and_may_be_raised(bench: OpenBench) -> None:
    """A limit that began anew at each resume would be none."""
    b = await bench(looks)
    stopped = await b.delegate(tools=TOOLS, max_turns=100, budget_usd="0.05")
    sent = b.sent

    spent = stopped["spent"]["usd"]
    lowered = await resume(b, stopped, budget_usd=spent)
    sent_at_the_same_limit = b.sent
    raised = await resume(b, stopped, budget_usd="0.10")

    assert (lowered["status"], sent_at_the_same_limit) == ("budget_exhausted", sent)
    assert f"budget_usd (${spent})" in lowered["hint"]
    assert b.sent > sent
    assert stopped["spent"]["amount"] < raised["spent"]["amount"] <= 10_000_000


async def test_after_a_cancel_the_turn_that_was_out_is_asked_again(bench: OpenBench) -> None:
    """What was cancelled had no answer; it was charged at its bound, which stays."""
    b = await bench([Turn(text="Never.", hold=anyio.Event()), Turn(text="Done.")])
    running = await b.delegate(wait_seconds=0)
    await b.held(1)
    stopped = await b.status(running["delegation_id"], cancel=True)

    resumed = await resume(b, stopped)

    assert (stopped["status"], resumed["status"], resumed["text"]) == ("cancelled", "completed", "Done.")
    assert messages(b, 2) == messages(b, 1)
    assert resumed["turns"][0]["actual_source"] == "bound"
    assert "not read to its end" in resumed["turns"][0]["charged_because"]
    assert resumed["spent"]["amount"] > stopped["spent"]["amount"] > 0


async def test_after_a_wrong_key_it_goes_on_in_a_server_with_the_right_one(tmp_path: Path) -> None:
    """A person mends the key and restarts the host: the work before is not lost."""
    first: list[Turn | Failure] = [
        Turn(text="One.", tool_calls=(LOOK,)),
        Failure(status=401, message="invalid x-api-key"),
    ]
    async with open_bench(tmp_path, first) as b:
        stopped = await b.delegate(tools=TOOLS)
        before = messages(b, 2)
    async with open_bench(tmp_path, [Turn(text="Done.")]) as b:
        resumed = await resume(b, stopped)

        assert messages(b, 1) == before
    assert (stopped["status"], stopped["resumable"], resumed["text"]) == ("failed", True, "Done.")
    assert "401" in stopped["hint"]
    assert [turn.get("charged") is None for turn in resumed["turns"]] == [False, True, False]


async def test_calls_that_were_cut_off_are_answered_as_such_and_not_made_again(bench: OpenBench) -> None:
    """They may have taken effect: whether to repeat them is for the sub-agent to judge, who reads so."""
    script: list[Turn] = []
    b = await bench(script)
    async with a_door() as (port, knocked):
        calls = (ToolCall("shed__count"), ToolCall("shed__hang", {"port": port}))
        script += [Turn(text="I wait.", tool_calls=calls), Turn(tool_calls=(LOOK,)), Turn(text="Done.")]
        running = await b.delegate(wait_seconds=0, tools=["shed__*"])
        await happens(knocked)
        stopped = await b.status(running["delegation_id"], cancel=True)
    resumed = await resume(b, stopped)

    finished, cut_off = tool_results(b.claude.message_requests[1])
    (after,) = tool_results(b.claude.message_requests[2])
    assert (stopped["status"], resumed["status"]) == ("cancelled", "completed")
    assert finished["content"] == [{"type": "text", "text": "call 1"}]
    assert cut_off["is_error"]
    assert "cut off" in cut_off["content"][0]["text"]
    assert "whether it took effect is not known" in cut_off["content"][0]["text"]
    assert after["content"] == [{"type": "text", "text": "call 2"}]


# -- what a resume may say --


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task", "Another."),
        ("context", "Another."),
        ("system", "Another."),
        ("model", "claude-opus-5-5"),
        ("fallback_models", ["claude-haiku-5-5"]),
        ("tools", ["shed__meet"]),
        ("output_schema", {"type": "object"}),
        ("max_output_tokens", 5_000),
        ("subject", {"agent": "another"}),
        ("subject", {"dimensions": {"a": "b"}}),
    ],
)
async def test_another_task_is_refused_by_the_name_of_the_argument(bench: OpenBench, name: str, value: object) -> None:
    """A resume goes on with what was delegated; anything else would be dropped in silence."""
    b = await bench([Turn(text="So far.")])
    stopped = await b.delegate(tools=TOOLS, max_turns=1)

    refusal = await not_resumed(b, stopped["delegation_id"], **{"max_turns": 2, name: value})

    assert refusal.startswith(f"INVALID_ARGUMENT: {name} is another")
    assert "leave it out" in refusal
    assert (await b.status(stopped["delegation_id"]), b.sent) == ({**stopped, "idempotency_key": ""}, 1)


async def test_saying_the_same_again_is_fine(bench: OpenBench) -> None:
    """A host's model repeats its call with resume added: that is what it should do."""
    b = await bench([Turn(text='{"a": 1}'), Turn(text='{"a": 2}')])
    arguments: dict[str, Any] = {
        "task": "Do it.",
        "context": "Material.",
        "system": "Be brief.",
        "model": "claude-opus-5-5",
        "fallback_models": ["claude-haiku-5-5"],
        "max_output_tokens": 2_000,
        "tools": TOOLS,
        "output_schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
        "subject": {"agent": "reader", "dimensions": {"a": "b"}},
    }
    stopped = await b.delegate(**arguments, max_turns=1)

    resumed = await resume(b, stopped, **arguments, max_turns=3)

    assert (stopped["status"], resumed["status"]) == ("max_turns", "completed")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ([Turn(text="Done.")], "is completed: delegate a new task instead"),
        ([Turn(text="No.", stop_reason="refusal")], "was refused by the model"),
        ([Turn(text="Never.", hold=anyio.Event())], "is running: wait for it with delegation_status"),
    ],
    ids=["completed", "refused", "running"],
)
async def test_what_has_nothing_left_to_do_is_one_sentence(bench: OpenBench, script: list[Turn], says: str) -> None:
    """It names what to do instead, and nothing is sent."""
    b = await bench(script)
    delegation = await b.delegate(wait_seconds=0 if "running" in says else 45)
    await b.request(1)

    refusal = await not_resumed(b, delegation["delegation_id"])

    assert refusal.startswith("NOT_RESUMABLE: ")
    assert says in refusal
    assert b.sent == 1


async def test_an_unknown_id_is_one_sentence(bench: OpenBench) -> None:
    """Another tenant's delegation is as unknown as one that never was."""
    b = await bench([Turn(text="So far.")])
    stopped = await b.delegate(tools=TOOLS, max_turns=1)

    assert (await not_resumed(b, "d-unknown")).startswith("NOT_FOUND: ")
    async with beside(b, cycles_tenant="another") as other:
        assert (await not_resumed(other, stopped["delegation_id"])).startswith("NOT_FOUND: ")


# -- idempotency, and other processes --


async def test_repeating_the_key_of_a_resume_joins_it(bench: OpenBench) -> None:
    """A host repeats a call that it got no answer to: it goes on once."""
    go_on = anyio.Event()
    b = await bench([Turn(text="So far."), Turn(text="All of it.", hold=go_on)])
    stopped = await b.delegate(tools=TOOLS, max_turns=1)
    arguments: dict[str, Any] = {"max_turns": 2, "idempotency_key": "again"}

    async with background(lambda: resume(b, stopped, **arguments)) as first:
        await b.held(2)
        async with background(lambda: resume(b, stopped, **arguments)) as second:
            go_on.set()
    third = await resume(b, stopped, **arguments)
    mismatch = await not_resumed(b, stopped["delegation_id"], max_turns=3, idempotency_key="again")

    assert [first[0], second[0], third] == [third] * 3
    assert (third["text"], third["idempotency_key"], b.sent) == ("All of it.", "again", 2)
    assert mismatch.startswith("IDEMPOTENCY_MISMATCH: ")


async def test_a_repeated_call_after_a_restart_gets_the_stored_result(tmp_path: Path) -> None:
    """Design: ids are made before the first attempt and stored; a repeat changes nothing, whoever answers it."""
    async with open_bench(tmp_path, [Turn(text="I look.", tool_calls=(LOOK,)), Turn(text="Done.")]) as b:
        first = await b.delegate(tools=TOOLS, idempotency_key="k-1")
    async with open_bench(tmp_path, []) as b:
        again = await b.delegate(tools=TOOLS, idempotency_key="k-1")

        assert b.claude.requests == []
    assert again == first


async def test_a_second_server_resumes_what_the_first_one_left(bench: OpenBench) -> None:
    """Every host starts its own server; the delegations belong to the data directory."""
    b = await bench([Turn(text="So far."), Turn(text="All of it.")])
    stopped = await b.delegate(tools=TOOLS, max_turns=1)

    async with beside(b) as other:
        resumed = await resume(other, stopped, max_turns=3)

    assert (resumed["status"], resumed["text"]) == ("completed", "All of it.")
    assert await b.status(stopped["delegation_id"]) == {**resumed, "idempotency_key": ""}
    assert messages(b, 2)[: len(messages(b, 1))] == messages(b, 1)


async def test_a_second_server_shows_waits_for_and_cancels_what_the_first_one_runs(bench: OpenBench) -> None:
    """delegation_status works wherever it is asked; only the owner stops, and what was out is settled by it."""
    b = await bench([Turn(text="I look.", tool_calls=(LOOK,)), Turn(text="Never.", hold=anyio.Event())])
    running = await b.delegate(wait_seconds=0, tools=TOOLS)
    await b.held(2)

    async with beside(b) as other:
        seen = await other.status(running["delegation_id"])
        refusal = await not_resumed(other, running["delegation_id"])
        async with background(lambda: b.status(running["delegation_id"], wait_seconds=PATIENCE_SECONDS)) as here:
            cancelled = await other.status(running["delegation_id"], cancel=True, wait_seconds=PATIENCE_SECONDS)

    assert (seen["status"], seen["text"], len(seen["turns"])) == ("running", "I look.", 1)
    assert "turn 2, in another process" in seen["hint"]
    assert "is running" in refusal
    assert (cancelled["status"], here[0]["status"]) == ("cancelled", "cancelled")
    assert cancelled["turns"] == here[0]["turns"]
    assert cancelled["turns"][1]["actual_source"] == "bound"


async def test_a_repeated_key_joins_what_another_server_runs(bench: OpenBench) -> None:
    """The same call from two hosts is one delegation."""
    go_on = anyio.Event()
    b = await bench([Turn(text="Done.", hold=go_on)])

    async with (
        beside(b) as other,
        background(lambda: b.delegate(idempotency_key="k-1")) as here,
    ):
        await b.held(1)
        async with background(lambda: other.delegate(idempotency_key="k-1")) as there:
            go_on.set()

    assert here[0]["text"] == there[0]["text"] == "Done."
    assert here[0]["delegation_id"] == there[0]["delegation_id"]
    assert b.sent == 1


# -- finding them again --


async def listed(b: Bench, **arguments: object) -> dict[str, Any]:
    """List delegations; the call itself must succeed."""
    return structured(await b.call("list_delegations", **arguments))


async def test_delegations_are_listed_page_by_page_the_newest_first(bench: OpenBench) -> None:
    """list_delegations: an id that was lost is found again, with what it was about, in the result and the text."""
    b = await bench([Turn(text="Done.")] * 4 + [Turn(text="So far.")])
    made = [await b.delegate(task=f"Task {number}.\n{'x' * 300}") for number in range(4)]
    made.append(await b.delegate(tools=TOOLS, max_turns=1, task="The last one."))
    ids = [each["delegation_id"] for each in reversed(made)]

    pages: list[dict[str, Any]] = []
    cursor = ""
    while not pages or cursor:
        pages.append(await listed(b, limit=2, cursor=cursor))
        cursor = pages[-1]["next_cursor"]
    shown: CallToolResult = await b.call("list_delegations", limit=1)

    rows = [row for page in pages for row in page["delegations"]]
    assert [len(page["delegations"]) for page in pages] == [2, 2, 1]
    assert [row["delegation_id"] for row in rows] == ids
    assert [(row["status"], row["resumable"]) for row in rows] == [("max_turns", True)] + [("completed", False)] * 4
    assert rows[1]["task"].startswith("Task 3. xxx")
    assert len(rows[1]["task"]) == 200
    assert [row["spent"] for row in rows] == [each["spent"] for each in reversed(made)]
    assert f"{ids[0]} max_turns (resumable)" in text_of(shown)
    assert "The last one." in text_of(shown)
    assert "More with cursor" in text_of(shown)


async def test_a_list_can_be_of_one_status_and_is_of_one_tenant(bench: OpenBench) -> None:
    """What runs or can be resumed is found without reading the rest, and nobody sees another's."""
    b = await bench([Turn(text="Done."), Turn(text="So far."), Turn(text="Never.", hold=anyio.Event())])
    made = [await b.delegate(), await b.delegate(tools=TOOLS, max_turns=1), await b.delegate(wait_seconds=0)]
    await b.held(3)

    by_status = {status: await listed(b, status=status) for status in ("completed", "max_turns", "running")}
    async with beside(b, cycles_tenant="another") as other:
        elsewhere = await other.call("list_delegations")
        hidden = await other.call("delegation_status", delegation_id=made[0]["delegation_id"])
        uncancelled = await other.call("delegation_status", delegation_id=made[2]["delegation_id"], cancel=True)

    assert [[row["delegation_id"] for row in page["delegations"]] for page in by_status.values()] == [
        [each["delegation_id"]] for each in made
    ]
    assert (elsewhere.structured_content or {})["delegations"] == []
    assert text_of(elsewhere) == "There are none."
    assert text_of(hidden).startswith("NOT_FOUND: ")
    assert text_of(uncancelled).startswith("NOT_FOUND: ")
    assert (await listed(b, status="running"))["delegations"] != []


async def test_what_stopped_long_ago_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    """BUDGET_KEEP_DAYS: conversations are not kept for ever; what its money was, the ledger still says."""
    async with open_bench(tmp_path, [Turn(text="Done.")] * 2) as b:
        old, recent = await b.delegate(task="Old."), await b.delegate(task="Recent.")
        await age(b, old["delegation_id"], days=8)
        await age(b, recent["delegation_id"], days=6)
    async with open_bench(tmp_path, [Turn(text="Done.")], budget_keep_days=7) as b:
        b.outside_microcents += old["spent"]["amount"]
        new = await b.delegate(task="New.")
        with anyio.fail_after(PATIENCE_SECONDS):
            while len(found := await b.kept()) > 2:
                await anyio.lowlevel.checkpoint()
        forgotten = await b.call("delegation_status", delegation_id=old["delegation_id"])

    assert [each.delegation_id for each in found] == [recent["delegation_id"], new["delegation_id"]]
    assert text_of(forgotten).startswith("NOT_FOUND: ")


async def age(b: Bench, delegation_id: str, *, days: int) -> None:
    """Let so many days pass for a delegation that stopped."""
    query = "UPDATE delegations SET updated_at_ms = updated_at_ms - ?, created_at_ms = created_at_ms - ?"
    store: Any = b.services.delegation_store
    by = (days * DAY_MS, days * DAY_MS, delegation_id)
    await store._file.run(lambda each: each._db.execute(f"{query} WHERE delegation_id = ?", by).fetchall())
