"""Images: whether their bytes are what the request says, and within the API's limits.

Source: "Vision" (formats, sizes in pixels and in bytes, and the smaller size of requests with many images).
"""

import base64
import binascii
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from budget_server.demo.scripted_claude.wire import blocks_of

MAX_PIXELS = 8_000
"""Longest edge of an image."""
MANY_IMAGES = 20
"""Most images of a request whose edges may be as long as `MAX_PIXELS`."""
MAX_PIXELS_OF_MANY = 2_000
"""Longest edge of an image in a request with more images than `MANY_IMAGES`."""
MAX_BASE64_BYTES = 5 * 1024 * 1024
"""Longest base64 text of an image."""
MAX_IMAGES = 600
"""Most images of a request."""

_MEDIA_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def find_image_problems(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield images that the API cannot read or finds too large."""
    images = list(_find_images(body))
    if len(images) > MAX_IMAGES:
        yield f"messages: at most {MAX_IMAGES} images may be sent in one request."
    longest_edge = MAX_PIXELS_OF_MANY if len(images) > MANY_IMAGES else MAX_PIXELS
    for where, image in images:
        source = image.get("source")
        if not isinstance(source, dict) or source.get("type") not in ("base64", "url", "file"):
            yield f"{where}.source.type: must be base64, url or file."
        elif source["type"] == "base64":
            yield from _find_bytes_problems(source, f"{where}.source", longest_edge)


def _find_images(body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the images of a conversation, those in the results of tools included, and where each is."""
    for index, message in enumerate(body["messages"]):
        for number, block in enumerate(blocks_of(message)):
            where = f"messages.{index}.content.{number}"
            if block.get("type") == "image":
                yield f"{where}.image", block
            elif block.get("type") == "tool_result" and isinstance(block.get("content"), list):
                for position, part in enumerate(block["content"]):
                    if part.get("type") == "image":
                        yield f"{where}.tool_result.content.{position}.image", part


def _find_bytes_problems(source: Mapping[str, Any], where: str, longest_edge: int) -> Iterator[str]:
    media_type, data = source.get("media_type"), source.get("data")
    if media_type not in _MEDIA_TYPES:
        yield f"{where}.media_type: must be {', '.join(_MEDIA_TYPES[:-1])} or {_MEDIA_TYPES[-1]}."
    if not isinstance(data, str) or not data:
        yield f"{where}.data: base64 is needed."
        return
    if len(data) > MAX_BASE64_BYTES:
        yield f"{where}.data: the image exceeds 5 MB: {len(data)} > {MAX_BASE64_BYTES} bytes of base64."
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        yield f"{where}.data: is not valid base64."
        return
    actual_type, size = read_image_header(raw)
    if actual_type is None or size is None:
        yield f"{where}.data: could not process the image."
    elif actual_type != media_type:
        yield f"{where}.media_type: the image was said to be {media_type}, and is {actual_type}."
    elif max(size) > longest_edge:
        yield f"{where}.data: an edge of {max(size)} pixels exceeds the allowed {longest_edge}."


def read_image_header(raw: bytes) -> tuple[str | None, tuple[int, int] | None]:
    """Return the media type of an image and its width and height in pixels; ``None`` for what cannot be read."""
    try:
        if raw.startswith(b"\x89PNG\r\n\x1a\n") and raw[12:16] == b"IHDR":
            return "image/png", struct.unpack(">II", raw[16:24])
        if raw.startswith((b"GIF87a", b"GIF89a")):
            return "image/gif", struct.unpack("<HH", raw[6:10])
        if raw.startswith(b"RIFF") and raw[8:12] == b"WEBP":
            return "image/webp", _read_webp_size(raw)
        if raw.startswith(b"\xff\xd8\xff"):
            return "image/jpeg", _read_jpeg_size(raw)
    except (struct.error, IndexError):
        pass
    return None, None


def _read_webp_size(raw: bytes) -> tuple[int, int] | None:
    match raw[12:16]:
        case b"VP8X":
            return int.from_bytes(raw[24:27], "little") + 1, int.from_bytes(raw[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(raw[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack("<HH", raw[26:30])
            return width & 0x3FFF, height & 0x3FFF
        case _:
            return None


def _read_jpeg_size(raw: bytes) -> tuple[int, int] | None:
    """Walk the segments of a JPEG to the one that has its size."""
    position = 2
    while raw[position] == 0xFF:
        marker = raw[position + 1]
        if marker in _JPEG_SIZE_MARKERS:
            height, width = struct.unpack(">HH", raw[position + 5 : position + 9])
            return width, height
        position += 2 + int.from_bytes(raw[position + 2 : position + 4], "big")
    return None
