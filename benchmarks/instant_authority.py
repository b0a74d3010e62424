"""A budget authority that grants every reservation at once, to measure what happens around its answer.

It keeps nothing and checks nothing. It prints its port and serves until its standard input ends.
"""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO
from uuid import uuid4

TTL_MS = 3_600_000


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection until the client leaves it."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            body = json.loads(await reader.readexactly(int(length[1]) if length else 0) or b"{}")
            answer = json.dumps(_granted(body)).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(answer), answer)
            )
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        writer.close()  # either side has ended


def _granted(request: dict[str, object]) -> dict[str, object]:
    """Grant what was asked for, with all that an authority says of it (Cycles v0, ReservationCreateResponse)."""
    estimate = request.get("estimate", {"unit": "USD_MICROCENTS", "amount": 0})
    balance = {"scope": "tenant:bench", "scope_path": "tenant:bench", "remaining": estimate, "reserved": estimate}
    return {
        "decision": "ALLOW",
        "reservation_id": uuid4().hex,
        "affected_scopes": ["tenant:bench"],
        "scope_path": "tenant:bench",
        "expires_at_ms": time.time_ns() // 1_000_000 + TTL_MS,
        "reserved": estimate,
        "balances": [balance],
    }


@contextmanager
def instant_authority() -> Iterator[str]:
    """Run one in a process of its own, and give its address."""
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{pipe(process.stdout).readline().strip()}"
        process.communicate()
    finally:
        process.kill()
        process.communicate()


def pipe(end: IO[str] | None) -> IO[str]:
    """Give a process's pipe, which is there."""
    if end is None:
        raise RuntimeError("A process was started without pipes.")
    return end


async def main() -> None:
    """Serve until standard input ends."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
