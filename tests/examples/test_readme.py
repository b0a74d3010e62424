"""What examples/README.md tells people to type, typed."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from budget_server.demo.scripted_claude.__main__ import DEFAULT_PORT

ROOT = Path(__file__).parents[2]
INSTALL, *BLOCKS = re.findall(
    r"```sh\n(.*?)```", (ROOT / "examples" / "README.md").read_text(encoding="utf-8"), re.DOTALL
)
SECONDS = 120


def free_ports(count: int) -> list[str]:
    """Find ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [str(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def environment(home: Path) -> dict[str, str]:
    """Give an activated environment and nothing else of the caller's own."""
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home), "TMPDIR": str(home)}


def test_all_of_its_commands_do_what_it_says(tmp_path: Path) -> None:
    """From the budget to the end of both servers, in one shell; only the ports are others."""
    assert INSTALL == "python3 -m venv .venv\n. .venv/bin/activate\npip install .\n"  # what `.ci/run` does
    authority_port, claude_port = free_ports(2)
    script = "".join(BLOCKS)
    for old, new in (
        ("budget-mcp authority &", f"budget-mcp authority --port {authority_port} &"),
        ("scripted_claude &", f"scripted_claude --port {claude_port} &"),
        (":7878", f":{authority_port}"),
        (f":{DEFAULT_PORT}", f":{claude_port}"),
    ):
        assert old in script
        script = script.replace(old, new)

    shell = subprocess.Popen(
        ["bash", "-c", script],  # noqa: S607 - the one that people have
        cwd=ROOT,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        # Both servers hold the pipes, so this also waits until its last line has ended them.
        stdout, stderr = shell.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        stdout, stderr = shell.communicate()

    shown = stdout + stderr
    assert shell.returncode == 0, shown
    assert '"status":"ok"' in stdout, shown
    assert f"A scripted Claude on http://127.0.0.1:{claude_port}: no model answers" in stderr
    assert stdout.count("(Scripted, not a model.) Three chains and two inner tubes cost $98.50 together.") == 1, shown
    assert re.search(r"Stopped: \$[0-9.]+ could not be reserved for turn 3 \(BUDGET_EXCEEDED\)", stdout), shown
    assert "Charged $0.00027800 of $0.00634600 reserved." in stdout, shown
    assert re.search(r"ACTIVE +\$0\.02 +\$0\.005802 +\$0\.00 ", stdout), shown
    assert "Traceback" not in shown


def test_the_scripted_claude_says_when_its_port_is_taken(tmp_path: Path) -> None:
    """One sentence with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "budget_server.demo.scripted_claude", "answer", "--port", port],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert f"cannot listen on port {port}" in sentence
    assert "--port" in sentence
