"""Profiles: gateways, servers and SDKs that speak the Messages API in their own way, by name.

Users set ``ANTHROPIC_BASE_URL`` to such endpoints, and each of these shapes was reported in public by people who lost
answers or money to it. A profile changes how an answer looks to the client, never what it costs: bills stay with the
endpoint (`ScriptedClaude.bills`). "-like" names the kind of endpoint that the reports are about; versions of it without
that fault exist.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from budget_server.demo.scripted_claude.script import Answer, Failure, Turn
from budget_server.demo.scripted_claude.sse import PLAIN_FRAMING, Framing
from budget_server.demo.scripted_claude.transformations import (
    Transformation,
    add_iterations,
    add_usage,
    break_tool_json,
    drop,
    drop_cache_counts,
    drop_input,
    drop_model,
    drop_usage,
    lose_text,
    null_cache_counts,
    null_usage,
    send_blocks_whole,
    split_final_event,
    stop_with,
    use_one_tool_id,
    zero_input,
    zero_usage,
)

START, DELTA = "message_start", "message_delta"


def count_truly(tokens: int) -> Mapping[str, Any]:
    """Answer a request that counts tokens as the API does."""
    return {"input_tokens": tokens}


def no_count_route(_tokens: int) -> Failure:
    """Have no route that counts tokens."""
    return Failure(status=404, message="There is no such route.")


def take_any_credential(_headers: Mapping[str, str]) -> None:
    """Let everybody in whom the API lets in."""


def take_api_key_only(headers: Mapping[str, str]) -> Failure | None:
    """Let in who sends ``x-api-key``; the SDK sends ``authorization`` unless it is told otherwise."""
    return None if "x-api-key" in headers else Failure(status=401, message="x-api-key: the header is needed.")


def never(_body: Mapping[str, Any], _number: int) -> None:
    """Put nothing in the way of a request."""


def first_of_two(answer: Answer) -> "Interruption":
    """Put an answer in the way of every second request, beginning with the first."""
    return lambda _body, number: answer if number % 2 else None


def all_but(part_of_model: str, answer: Answer) -> "Interruption":
    """Put an answer in the way of every model but those whose ids have this part."""
    return lambda body, _number: None if part_of_model in str(body.get("model")) else answer


CountRoute = Callable[[int], Mapping[str, Any] | Failure]
"""What is answered to a request that counts tokens, given the true count."""

Interruption = Callable[[Mapping[str, Any], int], Answer | None]
"""What stands in the way of a request for a message, given its body and its number (1, 2, …): nothing is billed."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How an endpoint differs from the real API.

    Attributes:
        does: one sentence, what it does.
        sources: where that was reported, as ``owner/repository#number`` or the name of a page.
        transformations: what becomes of the events of an answer.
        framing: how events are written.
        answers_json: whether it answers with one JSON object where a stream was asked for.
        count: what it answers to a request that counts tokens.
        admit: whom it refuses beside those that the API refuses.
        interrupt: what stands in the way of a request for a message.
        serves: the model that answers, whichever was asked for; billed at its own prices.
        ignores_max_tokens: whether answers may be longer than was allowed; billed as long as they are.
    """

    does: str
    sources: tuple[str, ...]
    transformations: tuple[Transformation, ...] = ()
    framing: Framing = PLAIN_FRAMING
    answers_json: bool = False
    count: CountRoute = count_truly
    admit: Callable[[Mapping[str, str]], Failure | None] = take_any_credential
    interrupt: Interruption = never
    serves: str = ""
    ignores_max_tokens: bool = False


PLAIN = Profile(does="Answers as the API does.", sources=("Messages API reference",))

_UNDER_200 = Failure(status=200, error_type="permission_error", message="The gateway has no access to that model.")

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        # -- usage that is missing, or that cannot be ------------------------------------------------------------------
        "probos-like": Profile(
            does="Reports 0 tokens in and out for every answer.",
            sources=("seangalliher/ProbOS#1078",),
            transformations=(zero_usage(START), zero_usage(DELTA)),
        ),
        "ollama-like": Profile(
            does="Reports a prompt of 0 tokens, no cache, and has no route that counts tokens.",
            sources=("ollama/ollama#13934", "ollama/ollama#17130"),
            transformations=(
                zero_usage(START), zero_input(DELTA), drop_cache_counts(START), drop_cache_counts(DELTA),
            ),
            count=no_count_route,
        ),
        "grok2api-like": Profile(
            does="Reports a prompt of 0 tokens in message_start and no prompt at all in message_delta.",
            sources=("chenyme/grok2api#612", "router-for-me/CLIProxyAPI#747"),
            transformations=(zero_usage(START), drop_input(DELTA)),
        ),
        "vercel-ai-gateway-like": Profile(
            does="Reports 0 tokens in message_start and the true counts in message_delta.",
            sources=("vercel/ai#17326", "zai-org/GLM-5#139"),
            transformations=(zero_usage(START),),
        ),
        "envoy-ai-gateway-like": Profile(
            does="Reports the true prompt in message_start and a prompt of 0 tokens in message_delta.",
            sources=("envoyproxy/ai-gateway#1631",),
            transformations=(zero_input(DELTA),),
        ),
        "swift-anthropic-like": Profile(
            does="Reports an output of 0 tokens in message_delta although text came.",
            sources=("jamesrochabrun/SwiftAnthropic#31",),
            transformations=(zero_usage(DELTA, ("output_tokens",)),),
        ),
        "pi-like": Profile(
            does="Reports null where usage belongs.",
            sources=("earendil-works/pi#6567",),
            transformations=(null_usage,),
        ),
        "no-usage": Profile(
            does="Reports no usage anywhere.",
            sources=("earendil-works/pi#6567",),
            transformations=(drop_usage,),
        ),
        "new-api-like": Profile(
            does="Sends no message_delta, and so neither a stop reason nor the final usage.",
            sources=("QuantumNous/new-api#4760",),
            transformations=(drop(DELTA),),
        ),
        # -- usage that is true and looks odd --------------------------------------------------------------------------
        "litellm-like": Profile(
            does="Ends tool calls with end_turn, and repeats the usage as the one entry of iterations.",
            sources=("BerriAI/litellm#34692", "BerriAI/litellm#27067"),
            transformations=(stop_with("end_turn"), add_iterations),
        ),
        "litellm-null-text-like": Profile(
            does="Opens text without text, sends null for a piece of it, and names no model.",
            sources=("BerriAI/litellm#28067",),
            transformations=(lose_text, drop_model),
        ),
        "two-deltas": Profile(
            does="Sends a second message_delta with the usage and without a stop reason.",
            sources=("anthropics/anthropic-sdk-python#1940",),
            transformations=(split_final_event,),
        ),
        "vllm-like": Profile(
            does="Reports null for the cache, and ends the stream with data that is [DONE].",
            sources=("vllm-project/vllm#37510", "vllm-project/vllm#40912"),
            transformations=(null_cache_counts(START), null_cache_counts(DELTA)),
            framing=Framing(tail=b"data: [DONE]\n\n"),
        ),
        "openrouter-like": Profile(
            does="Sends comments between events, and an event named data at the end.",
            sources=("OpenRouter documentation, Streaming",),
            framing=Framing(comment="OPENROUTER PROCESSING", tail=b"event: data\ndata: [DONE]\n\n"),
        ),
        "openrouter-cost-like": Profile(
            does="Reports a cost of its own beside the tokens.",
            sources=("OpenRouter documentation, Usage accounting",),
            transformations=(add_usage(DELTA, {"cost": 0.5}),),
        ),
        # -- streams of another form -----------------------------------------------------------------------------------
        "copilot-like": Profile(
            does="Ends the stream with data that is [DONE] in place of message_stop.",
            sources=("huggingface/tau#692",),
            transformations=(drop("message_stop"),),
            framing=Framing(tail=b"data: [DONE]\n\n"),
        ),
        "agentic-api-like": Profile(
            does="Sends data without the lines that name the events.",
            sources=("vllm-project/agentic-api#168",),
            framing=Framing(has_names=False),
        ),
        "sse-starlette-like": Profile(
            does="Ends lines with a carriage return and a line feed, and sends comments as pings.",
            sources=("hey-api/hey-api#3054", "envoyproxy/ai-gateway#2463"),
            framing=Framing(line_end="\r\n", comment="ping - 2026-12-01 00:00:00"),
        ),
        "opencode-zen-like": Profile(
            does="Sends three bytes at a time, which cuts lines and characters.",
            sources=("anomalyco/opencode#39694", "musistudio/claude-code-router#1672"),
            framing=Framing(piece_bytes=3),
        ),
        "claude-relay-like": Profile(
            does="Compresses streams with gzip.",
            sources=("Wei-Shaw/claude-relay-service#1027", "envoyproxy/ai-gateway#1927"),
            framing=Framing(is_compressed=True),
        ),
        "whole-blocks": Profile(
            does="Sends the text of each block whole, in the event that opens it.",
            sources=("earendil-works/pi#7283", "langchain-ai/langchain#38442"),
            transformations=(send_blocks_whole,),
        ),
        "lore-like": Profile(
            does="Answers with one JSON object where a stream was asked for.",
            sources=("BYK/loreai#1212",),
            answers_json=True,
        ),
        # -- errors ----------------------------------------------------------------------------------------------------
        "codegraff-like": Profile(
            does="Answers every second request with an error in JSON under status 200.",
            sources=("justrach/codegraff#748",),
            interrupt=first_of_two(_UNDER_200),
        ),
        "html-under-200": Profile(
            does="Answers every second request with a page of HTML under status 200.",
            sources=("justrach/codegraff#748",),
            interrupt=first_of_two(Failure(status=200, html=True)),
        ),
        "overloaded-stream": Profile(
            does="Begins every second stream with an error event that says overloaded.",
            sources=("anthropics/anthropic-sdk-python#1472", "tailcallhq/forgecode#2595"),
            interrupt=first_of_two(Turn(fault="error_event_first")),
        ),
        "overloaded-model": Profile(
            does="Answers 529 for ever for every model but the haiku ones.",
            sources=("BerriAI/litellm#41379",),
            interrupt=all_but("haiku", Failure(status=529, retry_after_seconds=0)),
        ),
        "x-api-key-only": Profile(
            does="Takes x-api-key, and refuses keys in the authorization header.",
            sources=("QwenLM/qwen-code#4323",),
            admit=take_api_key_only,
        ),
        # -- counted tokens --------------------------------------------------------------------------------------------
        "lm-studio-like": Profile(
            does="Answers a request that counts tokens with an error under status 200.",
            sources=("lmstudio-ai/lmstudio-bug-tracker#2055",),
            count=lambda _tokens: {"error": "Unexpected endpoint or method. Returning 200 anyway."},
        ),
        "zero-count": Profile(
            does="Counts 0 tokens for every prompt.",
            sources=("anthropics/claude-code#12208",),
            count=lambda _tokens: count_truly(0),
        ),
        "shunt-like": Profile(
            does="Counts 48 tokens for every prompt, and bills what it has.",
            sources=("pleaseai/shunt#89",),
            count=lambda _tokens: count_truly(48),
        ),
        # -- answers that are not what was asked for -------------------------------------------------------------------
        "bifrost-like": Profile(
            does="Answers with claude-opus-5-5 whichever model was asked for, and ends tool calls with end_turn.",
            sources=("maximhq/bifrost#5387", "maximhq/bifrost#6123", "earendil-works/pi#8285"),
            transformations=(stop_with("end_turn"),),
            serves="claude-opus-5-5",
        ),
        "endless-answers": Profile(
            does="Lets answers be longer than max_tokens.",
            sources=("vercel/ai#9546",),
            ignores_max_tokens=True,
        ),
        "librechat-like": Profile(
            does="Cuts the last character off what tools are called with, so that it is no JSON.",
            sources=("danny-avila/agents#280",),
            transformations=(break_tool_json,),
        ),
        "hindsight-like": Profile(
            does="Gives all tool calls of an answer one id.",
            sources=("vectorize-io/hindsight#4250",),
            transformations=(use_one_tool_id,),
        ),
    }
)  # fmt: skip
"""Every profile, by its name."""
