"""Images that the real Messages API cannot read, or finds too large, are refused by the scripted Claude too."""

import base64
import struct
from collections.abc import Callable
from typing import Any

import anthropic
import pytest

from budget_server.demo.scripted_claude import Turn
from server.scripted_claude.asking import CALL, RESULT, conversation, create

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("in_time")]


def png(width: int, height: int) -> bytes:
    """Make the beginning of a PNG, which has its size."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + bytes(9)


def gif(width: int, height: int) -> bytes:
    """Make the beginning of a GIF."""
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(9)


def jpeg(width: int, height: int) -> bytes:
    """Make the beginning of a JPEG whose size comes after a segment of another kind."""
    size = b"\xff\xc2" + struct.pack(">HBHH", 11, 8, height, width) + bytes(4)
    return b"\xff\xd8" + b"\xff\xe0" + struct.pack(">H", 16) + bytes(14) + size


def webp(width: int, height: int) -> bytes:
    """Make the beginning of a WebP, lossless."""
    return b"RIFF" + bytes(4) + b"WEBPVP8L" + bytes(5) + struct.pack("<I", (width - 1) | (height - 1) << 14)


def webp_of_frames(width: int, height: int) -> bytes:
    """Make the beginning of a WebP in its extended form."""
    edges = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + edges


def webp_of_film(width: int, height: int) -> bytes:
    """Make the beginning of a WebP, lossy."""
    return b"RIFF" + bytes(4) + b"WEBPVP8 " + bytes(10) + struct.pack("<HH", width, height)


def block(raw: bytes, media_type: str = "image/png") -> dict[str, Any]:
    """Make a content block of an image."""
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": media_type, "data": base64.b64encode(raw).decode()},
    }


FORMATS: list[tuple[Callable[[int, int], bytes], str]] = [
    (png, "image/png"),
    (gif, "image/gif"),
    (jpeg, "image/jpeg"),
    (webp, "image/webp"),
    (webp_of_frames, "image/webp"),
    (webp_of_film, "image/webp"),
]
SMALL = block(png(10, 10))


async def refusal(*blocks: dict[str, Any]) -> str:
    """Send images, and give the error that they are refused with."""
    with pytest.raises(anthropic.BadRequestError) as caught:
        await create([Turn(text="Hi")], **conversation([*blocks]))
    return str(caught.value.api_message)


@pytest.mark.parametrize(("make", "media_type"), FORMATS)
async def test_an_image_of_8000_pixels_is_taken_and_a_larger_one_refused(
    make: Callable[[int, int], bytes], media_type: str
) -> None:
    """As "Vision" has it, for the longer edge, in each format."""
    await create([Turn(text="Hi")], **conversation([block(make(8_000, 8_000), media_type)]))

    assert "8001 pixels exceeds the allowed 8000" in await refusal(block(make(8_001, 20), media_type))
    assert "8001 pixels exceeds the allowed 8000" in await refusal(block(make(20, 8_001), media_type))


async def test_among_more_than_twenty_images_2000_pixels_are_the_most() -> None:
    """Counted over the whole conversation, in the results of tools too."""
    large = block(png(2_001, 10))
    result = {**RESULT, "content": [SMALL] * 10}

    await create([Turn(text="Hi")], **conversation("Hi", [CALL], [result, large, *[SMALL] * 9]))
    with pytest.raises(anthropic.BadRequestError, match="2001 pixels exceeds the allowed 2000") as caught:
        await create([Turn(text="Hi")], **conversation("Hi", [CALL], [result, large, *[SMALL] * 10]))

    assert "messages.2.content.1.image" in str(caught.value.api_message)


async def test_an_image_must_be_what_it_is_said_to_be() -> None:
    """The bytes decide, not the name that a server gave them."""
    assert "said to be image/jpeg, and is image/png" in await refusal(block(png(10, 10), "image/jpeg"))
    assert "media_type: must be" in await refusal(block(png(10, 10), "image/svg+xml"))


@pytest.mark.parametrize("raw", [b"<svg/>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF1234WEBPxxxx", b"BM"])
async def test_bytes_that_are_no_image_cannot_be_processed(raw: bytes) -> None:
    """Cut off, of another kind, or of none."""
    assert "could not process the image" in await refusal(block(raw))


async def test_an_image_is_sent_as_base64_of_at_most_five_megabytes() -> None:
    """Counted as it is sent."""
    broken: dict[str, Any] = {**SMALL, "source": {**SMALL["source"], "data": "not base64!"}}
    empty: dict[str, Any] = {**SMALL, "source": {**SMALL["source"], "data": ""}}

    assert "exceeds 5 MB" in await refusal(block(png(10, 10) + bytes(4 * 1024 * 1024)))
    assert "not valid base64" in await refusal(broken)
    assert "base64 is needed" in await refusal(empty)
    assert "source.type: must be" in await refusal({"type": "image", "source": {"type": "bytes"}})


async def test_at_most_600_images_are_sent_in_one_request() -> None:
    """However small."""
    assert "at most 600 images" in await refusal(*[SMALL] * 601)
