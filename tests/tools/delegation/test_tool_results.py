"""What Claude reads of a tool's result: nothing that the Messages API refuses, nothing twice, and not too much."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from budget_tools.subagent_tools.results import (
    MAX_IMAGE_CHARACTERS,
    MAX_IMAGES,
    MAX_IMAGES_CHARACTERS,
    MAX_RESULT_CHARACTERS,
    MAX_TEXT_BLOCKS,
)
from tools.delegation.harness import shed
from tools.delegation.remote import open_toolbox
from tools.delegation.tool_shed import PICTURE

pytestmark = pytest.mark.anyio

PNG = base64.b64decode(PICTURE)


async def read(directory: Path, *content: dict[str, Any], **result: Any) -> list[Any]:
    """Have a server give a result, and give what Claude reads: texts as they are, pictures by their media type."""
    async with open_toolbox(directory, {"shed": shed()}) as box:
        tool = (await box.open(["shed__say"]))["shed__say"]
        outcome = await tool.call({"content": list(content), **result})
    assert outcome.was_called
    assert not outcome.is_error
    assert all(block["type"] in ("text", "image") for block in outcome.content)
    return [block["text"] if block["type"] == "text" else block["source"]["media_type"] for block in outcome.content]


def text(said: str) -> dict[str, Any]:
    """A text content."""
    return {"type": "text", "text": said}


def image(data: str | bytes, mime_type: str = "image/png") -> dict[str, Any]:
    """An image content."""
    encoded = base64.b64encode(data).decode() if isinstance(data, bytes) else data
    return {"type": "image", "data": encoded, "mimeType": mime_type}


async def test_many_texts_are_limited_together(tmp_path: Path) -> None:
    """A limit for each text alone would let any number of them through, paid for on every later turn."""
    half = MAX_RESULT_CHARACTERS // 2

    first, second = await read(tmp_path, text("a" * half), text("b" * (half + 1)), text("c" * half))

    assert first == "a" * half
    assert second == "b" * half + f"\n(cut: {3 * half + 1} characters in all)"


async def test_a_cut_between_two_texts_is_told_too(tmp_path: Path) -> None:
    """What is cut says so, also where the first text fits exactly."""
    (only,) = await read(tmp_path, text("a" * MAX_RESULT_CHARACTERS), text("b"))

    assert only.endswith(f"a\n(cut: {MAX_RESULT_CHARACTERS + 1} characters in all)")


async def test_a_result_of_just_the_limit_is_not_cut(tmp_path: Path) -> None:
    """The limit itself is allowed."""
    assert await read(tmp_path, text("a" * MAX_RESULT_CHARACTERS)) == ["a" * MAX_RESULT_CHARACTERS]


async def test_very_many_texts_become_one(tmp_path: Path) -> None:
    """Each block costs tokens beside its text."""
    texts = [str(number) for number in range(MAX_TEXT_BLOCKS + 1)]

    assert await read(tmp_path, *map(text, texts), image(PNG)) == ["\n".join(texts), "image/png"]


async def test_images_are_limited_in_number_and_altogether(tmp_path: Path) -> None:
    """Messages API: requests of 32 MB, and smaller images where there are more than twenty."""
    many = await read(tmp_path, *[image(PNG)] * (MAX_IMAGES + 3), text("after"))
    large = MAX_IMAGE_CHARACTERS * 3 // 4 - 3
    fitting = MAX_IMAGES_CHARACTERS // MAX_IMAGE_CHARACTERS
    heavy = await read(tmp_path, *[image(PNG + bytes(large - len(PNG)))] * (fitting + 1))

    assert many == ["image/png"] * MAX_IMAGES + ["after", f"(3 more images left out: {MAX_IMAGES + 3} in all)"]
    assert heavy == ["image/png"] * fitting + [f"(1 more images left out: {fitting + 1} in all)"]


async def test_an_image_that_is_too_large_is_only_mentioned(tmp_path: Path) -> None:
    """Messages API: a larger one would refuse the whole conversation."""
    (line,) = await read(tmp_path, image(PNG + bytes(MAX_IMAGE_CHARACTERS)))

    assert line == f"(image, image/png, {MAX_IMAGE_CHARACTERS + len(PNG)} bytes: too large to be passed on)"


@pytest.mark.parametrize(
    ("data", "mime_type", "becomes"),
    [
        (PNG, "image/png", "image/png"),
        (b"\xff\xd8\xff\xe0JFIF", "image/jpeg", "image/jpeg"),
        (b"\xff\xd8\xff\xe0JFIF", "image/jpg", "image/jpeg"),
        (b"GIF89a...", "image/gif", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp", "image/webp"),
        (PNG, "image/jpeg", "image/png"),
        (f"{PICTURE[:40]}\n{PICTURE[40:]}", "image/png", "image/png"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "image/webp", "(image, image/webp, 16 bytes: not a picture"),
        (b"<html>", "image/png", "(image, image/png, 6 bytes: not a picture"),
        (b"", "image/png", "(image, image/png, 0 bytes: not a picture"),
        (PICTURE[:-1], "image/png", "(image, image/png, 70 bytes: not a picture"),
        (f"{PICTURE}é", "image/png", "(image, image/png, "),
        (f"{PICTURE[:40]}!{PICTURE[40:]}", "image/png", "(image, image/png, "),
        ("not base64!", "image/png", "(image, image/png, "),
        (f"data:image/png;base64,{PICTURE}", "image/png", "(image, image/png, "),
    ],
)
async def test_an_image_is_what_its_bytes_say(tmp_path: Path, data: str | bytes, mime_type: str, becomes: str) -> None:
    """Messages API: one that does not decode, or has another type than it says, refuses the whole conversation."""
    (read_as,) = await read(tmp_path, image(data, mime_type))

    assert read_as.startswith(becomes)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            {"type": "audio", "data": "AAAA", "mimeType": "audio/wav"},
            "(audio, audio/wav, 3 bytes: cannot be passed on)",
        ),
        (
            {"type": "resource_link", "uri": "file:///a.pdf", "name": "a.pdf", "mimeType": "text/pdf", "size": 7},
            "(resource link, a.pdf, file:///a.pdf, text/pdf, 7 bytes)",
        ),
        ({"type": "resource_link", "uri": "x://y", "name": "a\nb"}, "(resource link, a b, x://y)"),
        (
            {"type": "resource", "resource": {"uri": "x://z", "mimeType": "application/zip", "blob": "AAA="}},
            "(resource, x://z, application/zip, 2 bytes: cannot be passed on)",
        ),
    ],
)
async def test_what_cannot_be_passed_on_is_one_line(tmp_path: Path, content: dict[str, Any], line: str) -> None:
    """Claude knows what there was, and can ask for it in another way."""
    assert await read(tmp_path, content) == [line]


async def test_a_line_about_something_is_short(tmp_path: Path) -> None:
    """A link may be as long as a server likes."""
    (line,) = await read(tmp_path, {"type": "resource_link", "uri": "x" * 10_000, "name": "n"})

    assert len(line) < 600


async def test_white_space_alone_is_no_text(tmp_path: Path) -> None:
    """Messages API: text must have something in it."""
    resource = {"type": "resource", "resource": {"uri": "x://y", "text": "\t"}}

    assert await read(tmp_path, text(" \n"), resource) == ["(no output)"]


@pytest.mark.parametrize(
    ("texts", "structured", "is_repeated"),
    [
        (['{\n  "b": [1],\n  "a": "ü"\n}'], {"a": "ü", "b": [1]}, True),
        (["hello"], {"result": "hello"}, True),
        (["42"], {"result": 42}, True),
        (["a", "b"], {"result": ["a", "b"]}, True),
        (["one", '{"a": 1}'], {"a": 1}, True),
        (['["a", "b"]'], {"result": ["a", "b"]}, True),
        (["two found"], {"a": 1}, False),
        (["a"], {"result": ["a", "b"]}, False),
        ([], {"a": "ü"}, False),
        ([], {"result": []}, True),
    ],
)
async def test_structured_content_is_passed_on_once(
    tmp_path: Path, texts: list[str], structured: dict[str, Any], is_repeated: bool
) -> None:
    """MCP, tools: servers should repeat it as text; not all do, and then only it has the data."""
    said = await read(tmp_path, *map(text, texts), structuredContent=structured)

    own = [] if is_repeated else [json.dumps(structured, ensure_ascii=False)]
    assert said == ([*texts, *own] or ["(no output)"])
