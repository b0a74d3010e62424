"""A downstream MCP server for the tests: tools that wait for each other, never end, crash, or say too much.

It speaks the protocol by hand and imports next to nothing, so that it starts in the time of an interpreter. Options:
``--mute`` reads and never answers, ``--gone`` ends at once, ``--bare`` has no tools, ``--tools JSON`` lists these,
``--once FILE`` starts only if the file is not there yet, and makes it, ``--beside DIRECTORY`` lists its tools only once
another shed of this option has started.
"""

import base64
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A PNG of one pixel."""
POSTER = base64.b64encode(base64.b64decode(PICTURE) + bytes(60_000)).decode()
"""The same in many bytes."""

Content = list[dict[str, Any]]


def _text(text: str) -> Content:
    return [{"type": "text", "text": text}]


def _image(data: str, mime_type: str) -> Content:
    return [{"type": "image", "data": data, "mimeType": mime_type}]


class ObjectionError(Exception):
    """An error of the protocol: its code and its message."""


class Shed:
    """The tools: each gives content at once, or ``None`` to answer later or never."""

    def __init__(self, answer: Callable[[Any, dict[str, Any]], None]) -> None:
        self._answer = answer
        self._meta: dict[str, Any] = {}
        self._cancelled: list[Any] = []
        self._met: list[Any] = []
        self._calls = 0
        self._sockets: list[socket.socket] = []

    def meet(self, call_id: Any, _arguments: dict[str, Any]) -> Content | None:
        """Answer once two calls are here at the same time."""
        self._met.append(call_id)
        if len(self._met) < 2:
            return None
        for each in reversed(self._met):
            self._answer(each, {"content": _text("met")})
        self._met.clear()
        return None

    def hang(self, _id: Any, arguments: dict[str, Any]) -> None:
        """Knock at a port of this machine, and never answer."""
        self._sockets.append(socket.create_connection(("127.0.0.1", arguments["port"])))

    def crash(self, _id: Any, _arguments: dict[str, Any]) -> None:
        """End the server's process."""
        os._exit(3)

    def retire(self, call_id: Any, _arguments: dict[str, Any]) -> None:
        """Answer, and end the server's process."""
        self._answer(call_id, {"content": _text("farewell")})
        os._exit(0)

    def count(self, _id: Any, _arguments: dict[str, Any]) -> Content:
        """Tell how often this was called since the server started."""
        self._calls += 1
        return _text(f"call {self._calls}")

    def ramble(self, _id: Any, arguments: dict[str, Any]) -> Content:
        """Say a lot."""
        return _text("x" * int(arguments["length"]))

    def picture(self, _id: Any, _arguments: dict[str, Any]) -> Content:
        """Show a small picture."""
        return _image(PICTURE, "image/png")

    def poster(self, _id: Any, _arguments: dict[str, Any]) -> Content:
        """Show a picture of many bytes."""
        return _image(POSTER, "image/png")

    def drawing(self, _id: Any, _arguments: dict[str, Any]) -> Content:
        """Show a picture of a kind that Claude cannot see."""
        return _image("PHN2Zy8+", "image/svg+xml")

    def note(self, _id: Any, _arguments: dict[str, Any]) -> Content:
        """Hand a document over as an embedded resource."""
        return [{"type": "resource", "resource": {"uri": "note://1", "mimeType": "text/plain", "text": "A note."}}]

    def silence(self, _id: Any, _arguments: dict[str, Any]) -> Content:
        """Say nothing, in one block."""
        return _text("")

    def say(self, call_id: Any, arguments: dict[str, Any]) -> None:
        """Give any result, word for word."""
        self._answer(call_id, arguments)

    def object(self, _id: Any, arguments: dict[str, Any]) -> None:
        """Answer with an error of the protocol."""
        raise ObjectionError(arguments["code"], "The shed objects.")

    def meta(self, _id: Any, _arguments: dict[str, Any]) -> Content:
        """Tell what came beside the arguments."""
        return _text(json.dumps(self._meta))

    def cancelled(self, _id: Any, _arguments: dict[str, Any]) -> Content:
        """Tell how many calls were cancelled."""
        return _text(f"{len(self._cancelled)} cancelled")

    def environment(self, _id: Any, arguments: dict[str, Any]) -> Content:
        """Tell what variables hold, and the arguments and the directory that it was started with."""
        told = {name: os.environ.get(name) for name in arguments["names"]}
        return _text(json.dumps([told, sys.argv[1:], str(Path.cwd())]))

    def complain(self, call_id: Any, _arguments: dict[str, Any]) -> None:
        """Fail, with a reason."""
        self._answer(call_id, {"content": _text("The shed is closed on Mondays."), "isError": True})


NAMES = [name for name in vars(Shed) if not name.startswith("_")]


def tools(cursor: str | None) -> dict[str, Any]:
    """List the tools on two pages."""
    half = len(NAMES) // 2
    page = NAMES[half:] if cursor else NAMES[:half]
    listed = [{"name": name, "description": f"{name}.", "inputSchema": {"type": "object"}} for name in page]
    return {"tools": listed} if cursor else {"tools": listed, "nextCursor": "2"}


def serve(listed: list[dict[str, Any]] | None, *, is_ready: Callable[[], bool]) -> None:
    """Answer requests on standard input until it closes; ``listed`` replaces the list of tools."""

    def send(message: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()

    shed = Shed(lambda call_id, result: send({"id": call_id, "result": result}))
    for line in sys.stdin:
        request = json.loads(line)
        call_id, method, params = request.get("id"), request["method"], request.get("params") or {}
        if call_id is None:
            if method == "notifications/cancelled":
                shed._cancelled.append(params)
            continue
        if method == "initialize":
            information = {"name": "shed", "version": "1"}
            version = params["protocolVersion"]
            send(
                {
                    "id": call_id,
                    "result": {
                        "protocolVersion": version,
                        "capabilities": {"tools": {}},
                        "serverInfo": information,
                    },
                }
            )
        elif method == "tools/list":
            while not is_ready():
                time.sleep(0.01)  # the other process has no other way to tell this one
            send({"id": call_id, "result": tools(params.get("cursor")) if listed is None else {"tools": listed}})
        elif method == "tools/call":
            shed._meta = params.get("_meta") or {}
            try:
                content = getattr(shed, params["name"])(call_id, params.get("arguments") or {})
            except ObjectionError as objection:
                code, message = objection.args
                send({"id": call_id, "error": {"code": code, "message": message}})
                continue
            if content is not None:
                send({"id": call_id, "result": {"content": content}})
        else:
            send({"id": call_id, "error": {"code": -32601, "message": f"no {method}"}})


def main(options: list[str]) -> None:
    """Run as the options say."""
    if "--once" in options:
        marker = Path(options[options.index("--once") + 1])
        if marker.exists():
            return
        marker.touch()
    listed: list[dict[str, Any]] | None = [] if "--bare" in options else None
    if "--tools" in options:
        listed = json.loads(options[options.index("--tools") + 1])
    beside = None
    if "--beside" in options:
        beside = Path(options[options.index("--beside") + 1])
        (beside / f"started-{os.getpid()}").touch()
    if "--mute" in options:
        sys.stdin.read()
    elif "--gone" not in options:
        serve(listed, is_ready=lambda: beside is None or len(list(beside.glob("started-*"))) > 1)


if __name__ == "__main__":
    main(sys.argv[1:])
