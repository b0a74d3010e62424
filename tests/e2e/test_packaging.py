"""The ways in which the program is handed out agree with the program."""

import importlib.util
import json
import re
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from budget_server.config.settings import Settings
from budget_server.mcp_server.server import TOOLS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VARIABLES = {name.upper() for name in Settings.model_fields}

Build = Callable[[Path], list[str]]


def read(name: str) -> dict[str, Any]:
    """Read one of the project's JSON files."""
    document: dict[str, Any] = json.loads((ROOT / name).read_text(encoding="utf-8"))
    return document


@pytest.fixture
def build() -> Build:
    """Give what builds the bundle; it is a script, and no part of the packages."""
    spec = importlib.util.spec_from_file_location("bundle_build", ROOT / "bundle" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    builder: Build = module.build
    return builder


def test_the_bundle_starts_this_version_with_settings_that_exist() -> None:
    """MCPB manifest 0.4: what a person is asked for becomes the environment of the command."""
    manifest = read("bundle/manifest.json")
    config = manifest["server"]["mcp_config"]

    assert manifest["name"] == PROJECT["name"]
    assert manifest["version"] == PROJECT["version"]
    assert manifest["compatibility"]["runtimes"]["python"] == PROJECT["requires-python"]
    assert config["args"][-1] in PROJECT["scripts"]
    assert (ROOT / manifest["server"]["entry_point"]).is_file()
    assert config["env"].keys() <= VARIABLES
    assert set(config["env"].values()) == {f"${{user_config.{name}}}" for name in manifest["user_config"]}
    assert manifest["user_config"]["anthropic_api_key"]["sensitive"] is True
    assert [tool["name"] for tool in manifest["tools"]] == [tool.name for tool in TOOLS]


def test_the_bundle_holds_the_sources_and_nothing_else(build: Build, tmp_path: Path) -> None:
    """What uv needs to install the project, the same bytes every time; no caches, no tests, no secrets."""
    build(tmp_path / "one.mcpb")
    build(tmp_path / "two.mcpb")

    with zipfile.ZipFile(tmp_path / "one.mcpb") as archive:
        names = archive.namelist()
    assert (tmp_path / "one.mcpb").read_bytes() == (tmp_path / "two.mcpb").read_bytes()
    assert {name.split("/")[0] for name in names} == {
        "manifest.json", "pyproject.toml", "README.md", "LICENSE", "server", "tools"
    }  # fmt: skip
    assert not [name for name in names if "__pycache__" in name]
    for script in PROJECT["scripts"].values():
        assert f"server/{script.partition(':')[0].replace('.', '/')}.py" in names


def test_the_registrys_file_names_this_version_and_settings_that_exist() -> None:
    """MCP registry, server.json: a version published twice with other content is refused there."""
    server = read("server.json")
    (package,) = server["packages"]

    assert server["version"] == package["version"] == PROJECT["version"]
    assert package["identifier"] == PROJECT["name"]
    assert package["identifier"] in PROJECT["scripts"]  # uvx runs the command of the package's own name
    assert len(server["description"]) <= 100
    assert {variable["name"] for variable in package["environmentVariables"]} <= VARIABLES
    assert f"mcp-name: {server['name']}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_containers_copy_what_they_need_and_set_what_exists() -> None:
    """Dockerfile, compose.yaml: their files are let through, their settings are settings."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    let_through = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    copied = {name for line in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()}
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    ours = compose.partition("\n  budget:\n")[2].partition("\nvolumes:")[0]

    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)
    assert set(re.findall(r"ENV .*?(BUDGET_\w+)=", dockerfile)) <= VARIABLES
    assert set(re.findall(r"^      ([A-Z_]+):", ours, re.MULTILINE)) <= VARIABLES
    assert json.loads(re.findall(r"^ENTRYPOINT (.+)$", dockerfile, re.MULTILINE)[0])[0] in PROJECT["scripts"]
