"""A scripted Claude to run beside a program that would call the real one: no key, no model, no bill.

::

    python -m budget_server.demo.scripted_claude --port 8484 --profile litellm-like

It says where it listens and serves until interrupted.
"""

import difflib
import signal
import sys
from typing import Annotated

import anyio
import typer

from budget_server.demo.scripted_claude.endpoint import ScriptedClaude
from budget_server.demo.scripted_claude.profiles import PROFILES
from budget_server.demo.scripted_claude.script import Script
from budget_server.demo.scripted_claude.scripts import SCRIPTS, ScriptName

DEFAULT_PORT = 8484
SCRIPTED_KEY = "scripted-needs-no-key"
"""Key for clients, which insist on one; the endpoint takes any."""


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _list_profiles(wanted: bool) -> None:
    """Print the profiles, one a line with what it does and where that was reported."""
    if wanted:
        width = max(map(len, PROFILES))
        for name, profile in PROFILES.items():
            sys.stdout.write(f"{name:{width}}  {profile.does} ({', '.join(profile.sources)})\n")
        raise typer.Exit


@app.command()
def main(
    script: Annotated[
        ScriptName,
        typer.Argument(
            help="answer: always the same sentence. first-tool: calls the first tool that is offered, once, with "
            "made-up arguments, and answers with what it returned. tools: plays examples/tool_loop.py, and is "
            "first-tool for everybody else."
        ),
    ] = ScriptName.TOOLS,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65_535)] = DEFAULT_PORT,
    profile: Annotated[
        str, typer.Option(metavar="NAME", help="Answer as this gateway would; without one, as the API does.")
    ] = "",
    _list: Annotated[
        bool,
        typer.Option(
            "--list-profiles", callback=_list_profiles, is_eager=True, help="Say what can be played, and exit."
        ),
    ] = False,
) -> None:
    """Serve a scripted stand-in for the Claude API on loopback, until interrupted.

    It takes any key and refuses what the real API refuses. Point a program at it with ANTHROPIC_BASE_URL, as it says
    when it starts: this server, Claude Code, or anything else that speaks the Messages API.
    """
    if profile and profile not in PROFILES:
        near = difflib.get_close_matches(profile, PROFILES, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        sys.stderr.write(f"scripted_claude: there is no profile {profile}.{hint} --list-profiles names them all.\n")
        raise typer.Exit(2)
    try:
        anyio.run(_serve, SCRIPTS[script], port, profile)
    except OSError as exc:
        sys.stderr.write(f"scripted_claude: cannot listen on port {port} ({exc.strerror}): choose another --port.\n")
        raise typer.Exit(2) from None


async def _serve(script: Script, port: int, profile: str) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with ScriptedClaude(script, port=port, profile=profile or None) as endpoint:
            said = f"A scripted Claude on {endpoint.base_url}: no model answers, and nothing is billed."
            if profile:
                said += f" It plays {profile}: {PROFILES[profile].does}"
            variables = f"ANTHROPIC_BASE_URL={endpoint.base_url} ANTHROPIC_API_KEY={SCRIPTED_KEY}"
            sys.stderr.write(f"{said} To use it:\nexport {variables}\n")
            sys.stderr.flush()
            async for _ in signals:
                return


if __name__ == "__main__":
    app(prog_name="scripted_claude")
