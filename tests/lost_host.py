"""A host that delegates and waits, to be killed meanwhile: transport, URL, mode and token are its arguments."""

import sys

import anyio

from hosting import call
from networking import host_of


async def main(transport: str, url: str, mode: str, token: str) -> None:
    """Delegate, and wait for the answer."""
    async with host_of(transport, url, mode, token) as client:
        await call(client, "delegate_to_claude", task="Wait.", wait_seconds=3_600)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4])
