"""A Starlette route with one fixed answer, on the server that the HTTP face runs on. Started by ``http_face.py``.

Given the path of a bare ledger, it first reserves by one bare transaction.
"""

import json
import sys
from pathlib import Path
from uuid import uuid4

import uvicorn
from benchmarks.bare_ledger import BareLedger
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from budget_tools.core.ids import time_ordered_id

ANSWER = json.dumps({"decision": "ALLOW", "reservation_id": "0" * 36, "affected_scopes": ["tenant:bench"]}).encode()


port, *paths = sys.argv[1:]
ledger = BareLedger(Path(paths[0])) if paths else None


async def answer(request: Request) -> Response:
    """Read what was asked, and give the answer."""
    await request.body()
    if ledger is not None:
        ledger.reserve(time_ordered_id(), uuid4().hex)
    return Response(ANSWER, media_type="application/json")


if __name__ == "__main__":
    app = Starlette(routes=[Route("/v1/reservations", answer, methods=["POST"])])
    uvicorn.run(app, port=int(port), log_level="warning", access_log=False, server_header=False)
