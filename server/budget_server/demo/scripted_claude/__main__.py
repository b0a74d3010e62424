"""A scripted Claude to run beside a program that would call the real one: no key, no model, no bill.

::

    python -m budget_server.demo.scripted_claude --port 8484

It says where it listens and serves until interrupted. Its scripts remember nothing: what they answer depends on the
conversation that a request carries, so that any number of programs can be run against them, any number of times.
"""

import signal
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import anyio
import typer

from budget_server.demo.scripted_claude import Script, ScriptedClaude, ToolCall, Turn

DEFAULT_PORT = 8484
SCRIPTED_KEY = "scripted-needs-no-key"
"""The client insists on a key; the endpoint takes any."""


class ScriptName(StrEnum):
    """What it can play."""

    ANSWER = "answer"
    TOOLS = "tools"


def answer(_request: Mapping[str, Any], _number: int) -> Turn:
    """Answer whatever is asked."""
    return Turn(text="(Scripted, not a model.) Because what is counted afterwards is spent already.")


_PRICE_OF_CHAIN = ToolCall("part_price", {"part": "chain-11"})
_PRICE_OF_TUBE = ToolCall("part_price", {"part": "tube-700"})
_SHOPPING: Sequence[Turn] = (
    Turn(text="(Scripted, not a model.) I look both prices up.", tool_calls=(_PRICE_OF_CHAIN, _PRICE_OF_TUBE)),
    Turn(
        text="Three of one and two of the other.",
        tool_calls=(
            ToolCall("calculate", {"operation": "multiply", "a": 3, "b": 2890}),
            ToolCall("calculate", {"operation": "multiply", "a": 2, "b": 590}),
        ),
    ),
    Turn(text="Together:", tool_calls=(ToolCall("calculate", {"operation": "add", "a": 8670, "b": 1180}),)),
    Turn(text="(Scripted, not a model.) Three chains and two inner tubes cost $98.50 together."),
)


def tools(request: Mapping[str, Any], number: int) -> Turn:
    """Play the shopping of ``examples/tool_loop.py``; answer a request that does not offer its tools."""
    if not {"part_price", "calculate"} <= {tool.get("name") for tool in request.get("tools", ())}:
        return answer(request, number)
    taken: int = sum(message["role"] == "assistant" for message in request["messages"])
    return _SHOPPING[min(taken, len(_SHOPPING) - 1)]


SCRIPTS: Mapping[ScriptName, Script] = {ScriptName.ANSWER: answer, ScriptName.TOOLS: tools}


def main(
    script: Annotated[
        ScriptName, typer.Argument(help="answer: always the same sentence; tools: for examples/tool_loop.py as well.")
    ] = ScriptName.TOOLS,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65_535)] = DEFAULT_PORT,
) -> None:
    """Serve a scripted stand-in for the Claude API on loopback, until interrupted."""
    try:
        anyio.run(_serve, SCRIPTS[script], port)
    except OSError as exc:
        sys.stderr.write(f"scripted_claude: cannot listen on port {port} ({exc.strerror}): choose another --port.\n")
        raise typer.Exit(2) from None


async def _serve(script: Script, port: int) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with ScriptedClaude(script, port=port) as endpoint:
            sys.stderr.write(
                f"A scripted Claude on {endpoint.base_url}: no model answers, and nothing is billed. To use it:\n"
                f"export ANTHROPIC_BASE_URL={endpoint.base_url} ANTHROPIC_API_KEY={SCRIPTED_KEY}\n"
            )
            sys.stderr.flush()
            async for _ in signals:
                return


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app(prog_name="scripted_claude")
