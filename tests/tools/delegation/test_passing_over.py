"""Fallback models also answer for a model that cannot: overloaded, limited for too long, gone or not found."""

from collections.abc import Mapping
from typing import Any

import pytest

from budget_server.demo.scripted_claude import Failure, Turn
from budget_tools.delegation import choice, turn
from tools.delegation.harness import LOOK, MODEL, TOOLS, Bench, OpenBench, structured
from tools.delegation.raw_endpoint import END, Raw, RawEndpoint, error, sse, start, stop, text

pytestmark = pytest.mark.anyio

OPUS, HAIKU = "claude-opus-5-5", "claude-haiku-5-5"


@pytest.fixture(autouse=True)
def _brief_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off for moments only, and wait for no money of others."""
    monkeypatch.setattr(turn, "FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(choice, "CROWDED_PAUSES_SECONDS", ())


def asked(b: Bench) -> list[str]:
    """The model of every request."""
    return [request.body["model"] for request in b.claude.message_requests]


def away(*models: str, failure: Failure) -> Any:
    """Play an API at which these models fail, and every other one answers."""
    return lambda body, _: failure if body["model"] in models else Turn(text="Done.")


OVERLOADED = Failure(status=529)

OF_THE_MODEL = {
    "overloaded": OVERLOADED,
    "limited for long": Failure(status=429, retry_after_seconds=3_600),
    "limited": Failure(status=429),
    "not found": Failure(status=404, message=f"model: {OPUS}"),
    "not found, in words of its own": Failure(status=404, message="No such thing here."),
    "not found, of another type": Failure(status=404, error_type="invalid_model", message="The model does not exist."),
    "gone": Failure(status=410, message="This model was retired."),
    "not a model there": Failure(status=400, message=f"Invalid model name passed in model={OPUS}"),
    "not for this key": Failure(status=403, message=f"Your key has no access to {OPUS}."),
}

NOT_OF_THE_MODEL = {
    "wrong key": Failure(status=401),
    "no credit": Failure(status=402),
    "forbidden": Failure(status=403),
    "bad request": Failure(status=400),
    "too long": Failure(status=413),
    "no such address": Failure(status=404, message="Not Found"),
    "a gateway's page": Failure(status=404, html=True),
    "spend limit": Failure(status=429, message="Your organization has reached its spend limit."),
    "may have been billed": Failure(status=503),
}


@pytest.mark.parametrize("failure", OF_THE_MODEL.values(), ids=OF_THE_MODEL)
async def test_a_model_that_cannot_answer_is_passed_over(bench: OpenBench, failure: Failure) -> None:
    """The fallback answers, within the same bound; what was reserved for the other is given back, and it is said."""
    b = await bench(away(OPUS, failure=failure))

    result = await b.delegate(model=OPUS, fallback_models=[HAIKU])
    kept = await b.status(result["delegation_id"])

    assert (result["status"], result["text"], asked(b)[-1]) == ("completed", "Done.", HAIKU)
    assert set(asked(b)[:-1]) == {OPUS}
    first, second = result["turns"]
    assert (first["model"], first.get("charged"), second["model"]) == (OPUS, None, HAIKU)
    assert second["charged"] == result["spent"]
    assert [row["status"] for row in await b.reservations()] == ["RELEASED", "COMMITTED"]
    (warning,) = result["warnings"]
    assert warning.startswith(f"{OPUS} was passed over for the next of fallback_models. The Claude API answered ")
    assert str(failure.status) in warning
    assert kept["warnings"] == [warning]


@pytest.mark.parametrize("kind", ["not_found_error", "invalid_request_error", "permission_error", "overloaded_error"])
async def test_a_model_whose_error_comes_under_status_200_is_passed_over(bench: OpenBench, kind: str) -> None:
    """The kind of an error says what its status would."""
    gone = Raw(body=sse(error(kind, f"There is no {MODEL} here.")))
    answer = Raw(body=sse(start(model=HAIKU), text("Done."), stop(), END))
    attempts = turn.MAX_ATTEMPTS if kind == "overloaded_error" else 1
    b = await bench([], endpoint=RawEndpoint(*[gone] * attempts, answer))

    result = await b.delegate(fallback_models=[HAIKU])

    assert (result["status"], result["text"], result["spent"]["amount"]) == ("completed", "Done.", 3_500)
    assert [request.body["model"] for request in b.claude.message_requests] == [*[MODEL] * attempts, HAIKU]


@pytest.mark.parametrize("failure", NOT_OF_THE_MODEL.values(), ids=NOT_OF_THE_MODEL)
async def test_what_another_model_would_not_mend_is_told_at_once(bench: OpenBench, failure: Failure) -> None:
    """A key, an address or a limit of spend is the same for all of them."""
    b = await bench(away(OPUS, HAIKU, failure=failure))

    result = await b.delegate(model=OPUS, fallback_models=[HAIKU])

    assert (result["status"], set(asked(b))) == ("failed", {OPUS})
    assert not any("passed over" in warning for warning in result["warnings"])
    assert str(failure.status) in result["hint"]


async def test_an_api_that_is_not_there_is_not_asked_for_each_model(
    bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is no model's fault."""
    monkeypatch.setattr(turn, "MAX_ATTEMPTS", 1)
    b = await bench([], anthropic_base_url="http://127.0.0.1:1")

    result = await b.delegate(model=OPUS, fallback_models=[HAIKU])

    assert (result["status"], len(result["turns"]), result["turns"][0]["model"]) == ("failed", 1, OPUS)


async def test_each_fallback_is_tried_in_its_order_and_the_last_ones_words_are_the_hint(bench: OpenBench) -> None:
    """Nothing is charged, and a resume begins with the first again."""
    is_back = False

    def script(body: Mapping[str, Any], _number: int) -> Turn | Failure:
        return Turn(text="Done.") if is_back else Failure(status=404, message=f"model: {body['model']}")

    b = await bench(script)

    failed = await b.delegate(model=OPUS, fallback_models=[MODEL, HAIKU])
    is_back = True
    resumed = structured(await b.call("delegate_to_claude", resume=failed["delegation_id"]))

    assert (failed["status"], failed["resumable"], failed["spent"]["amount"]) == ("failed", True, 0)
    assert asked(b) == [OPUS, MODEL, HAIKU, OPUS]
    assert f"model: {HAIKU}" in failed["hint"]
    assert [warning.split()[0] for warning in failed["warnings"]] == [OPUS, MODEL]
    assert (resumed["status"], resumed["text"]) == ("completed", "Done.")


async def test_without_fallbacks_it_fails_in_the_endpoints_words(bench: OpenBench) -> None:
    """The caller chose the model: no other is asked."""
    b = await bench(away(OPUS, failure=OVERLOADED))

    result = await b.delegate(model=OPUS)

    assert (result["status"], set(asked(b)), result["warnings"]) == ("failed", {OPUS}, [])
    assert "529" in result["hint"]


async def test_a_model_that_goes_away_in_the_middle_is_passed_over_there(bench: OpenBench) -> None:
    """The work goes on, told anew if it holds thinking; the model that works is asked from then on."""

    def script(body: Mapping[str, Any], number: int) -> Turn | Failure:
        if body["model"] == OPUS:
            return Turn(thinking="Hm.", text="I look.", tool_calls=(LOOK,)) if number == 1 else OVERLOADED
        return Turn(text="Seen.") if number > turn.MAX_ATTEMPTS + 2 else Turn(text="More.", tool_calls=(LOOK,))

    b = await bench(script)

    result = await b.delegate(model=OPUS, fallback_models=[HAIKU], tools=TOOLS)

    assert (result["status"], result["text"]) == ("completed", "Seen.")
    assert asked(b) == [OPUS] * (1 + turn.MAX_ATTEMPTS) + [HAIKU] * 2
    (rebuilt,) = b.claude.message_requests[-2].body["messages"]
    assert "I look.\n[used shed__count] {}\n[its result] call 1" in rebuilt["content"]
    assert len(result["warnings"]) == 1


@pytest.mark.parametrize("usd", ["1.00", "0.04"], ids=["money enough", "what is held alone"])
async def test_the_last_answer_is_the_fallbacks_if_the_model_is_away_by_then(bench: OpenBench, usd: str) -> None:
    """What was held for the one is there for the other."""

    def script(body: Mapping[str, Any], number: int) -> Turn | Failure:
        if body["model"] == MODEL and number > 1:
            return OVERLOADED
        return Turn(text=f"{body['model']} says.", tool_calls=(LOOK,))

    b = await bench(script, usd=usd)

    result = await b.delegate(model=MODEL, fallback_models=[HAIKU], tools=TOOLS, max_turns=2, max_output_tokens=2_000)

    assert (result["status"], result["text"]) == ("max_turns", f"{HAIKU} says.")
    assert asked(b)[-1] == HAIKU
    assert b.claude.message_requests[-1].body["tool_choice"] == {"type": "none"}


async def test_a_fallback_that_does_not_fit_is_said_beside_what_the_model_said(bench: OpenBench) -> None:
    """Two ways out: more money, or trying again later."""
    b = await bench(away(HAIKU, failure=OVERLOADED), usd="0.005")

    result = await b.delegate(model=HAIKU, fallback_models=[OPUS], max_output_tokens=1_000)

    assert (result["status"], result["resumable"], set(asked(b))) == ("failed", True, {HAIKU})
    assert "529" in result["hint"]
    assert "raise it and resume" in result["hint"]
