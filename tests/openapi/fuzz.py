"""Fuzz the HTTP face from the protocol's own OpenAPI document, with schemathesis.

::

    make openapi DOCUMENT=path/to/cycles-protocol-v0.yaml

Runs the real ``cycles-budget-mcp authority`` over a fresh ledger on a free port, and schemathesis against it: every
operation that is served, good and bad requests, each answer checked against the document's status codes, headers and
schemas. Ends with schemathesis' own exit code.

What the document's prose demands and its schemas do not say is written into a copy of it first (``adapt``), so that
nothing has to be excused afterwards.
"""

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import yaml

SERVER = Path(__file__).parents[2] / ".venv" / "bin" / "cycles-budget-mcp"
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
TENANT = "local"
UNITS = ("USD_MICROCENTS", "TOKENS", "CREDITS", "RISK_POINTS")
AMOUNT = "1000000000"
FUND_EVERY_SECONDS = 1.0
LEVELS = ("tenant", "workspace", "app", "workflow", "agent", "toolset")

NOT_SERVED = ("/v1/evidence/{evidence_id}", "/v1/.well-known/cycles-jwks.json")
"""Signed evidence belongs to another document of the protocol family."""

UNCHECKED = (
    "positive_data_acceptance",  # budgets, states and orders of time refuse what no schema can tell
    "ignored_auth",  # every operation of the document is under a key; ours answers 401, which a test of its own holds
)


def adapt(document: dict[str, Any]) -> dict[str, Any]:
    """Write rules of the document's prose into its schemas."""
    for path in NOT_SERVED:
        document["paths"].pop(path, None)
    schemas = document["components"]["schemas"]
    for name in ("kind", "name"):  # the reference server refuses blank ones
        schemas["Action"]["properties"][name]["pattern"] = r"\S"
    levels = schemas["Subject"]["properties"]
    for level in LEVELS:  # Subject, CHARSET: servers may refuse other values, as the reference server does
        levels[level] |= {"pattern": "^[a-zA-Z0-9_.-]+$", "minLength": 1}
    levels["tenant"] |= {"enum": [TENANT]}  # TENANCY: any other is 403, and tests nothing else
    for method in ("get", "post"):
        for path in document["paths"].values():
            parameters = path.get(method, {}).get("parameters", [])
            # IDEMPOTENCY: the header must match the body, which no generator can know
            parameters[:] = [each for each in parameters if not str(each.get("$ref", "")).endswith("KeyHeader")]
            for parameter in parameters:
                if parameter.get("schema", {}).get("format") == "date-time":
                    # TIME-RANGE FILTERS: a blank bound counts as unset
                    parameter["schema"] = {"anyOf": [parameter["schema"], {"type": "string", "pattern": r"^\s*$"}]}
                if parameter.get("name") == "tenant":
                    parameter["schema"] = {"type": "string", "enum": [TENANT]}
    return document


def prepare(environment: dict[str, str]) -> str:
    """Set budgets in every unit and give an API key's secret."""
    for unit in UNITS:
        set_budget(environment, "allocate", unit)
    created = subprocess.run(
        [SERVER, "authority", "key", "create"], env=environment, check=True, capture_output=True, text=True
    )
    return created.stdout.strip()


def set_budget(environment: dict[str, str], command: str, unit: str) -> None:
    """Allocate or fund, as a person would; a fund also ends the state of being over the limit."""
    arguments = ["budget", command, AMOUNT, "--unit", unit]
    subprocess.run([SERVER, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)


def keep_funded(environment: dict[str, str], is_over: threading.Event) -> None:
    """Fund one unit after the other: a single generated amount may be more than all there is."""
    for unit in itertools.cycle(UNITS):
        if is_over.wait(FUND_EVERY_SECONDS):
            return
        set_budget(environment, "fund", unit)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description="Fuzz the HTTP face from the protocol's OpenAPI document.")
    parser.add_argument("document", type=Path, help="cycles-protocol-v0.yaml")
    parser.add_argument("--max-examples", type=int, default=50, help="test cases for each operation (default 50)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same requests (default 1)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "BUDGET_DATA_DIR": str(Path(directory, "data")), "CYCLES_BASE_URL": ""}
        adapted = Path(directory, "document.yaml")
        document = adapt(yaml.safe_load(arguments.document.read_text(encoding="utf-8")))
        adapted.write_text(yaml.safe_dump(document), encoding="utf-8")
        secret = prepare(environment)
        server = subprocess.Popen(
            [SERVER, "authority", "--port", "0"], env=environment, stderr=subprocess.PIPE, text=True
        )
        try:
            assert server.stderr is not None
            announced = re.search(r"http://\S+", server.stderr.readline())
            assert announced, "the server says where it listens"
            command: list[str | Path] = [
                SCHEMATHESIS, "run", adapted, "--url", announced[0], "--header", f"X-Cycles-API-Key: {secret}",
                "--max-examples", str(arguments.max_examples), "--seed", str(arguments.seed),
                "--exclude-checks", ",".join(UNCHECKED), "--continue-on-failure", "--warnings", "off",
            ]  # fmt: skip
            is_over = threading.Event()
            funder = threading.Thread(target=keep_funded, args=(environment, is_over))
            funder.start()
            try:
                fuzzed = subprocess.run(command, cwd=directory, check=False)
            finally:
                is_over.set()
                funder.join()
            sound = subprocess.run([SERVER, "check"], env=environment, check=False)
        finally:
            server.terminate()
            server.wait(30)
    return fuzzed.returncode or sound.returncode


if __name__ == "__main__":
    sys.exit(main())
