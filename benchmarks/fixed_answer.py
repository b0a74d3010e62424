"""A Starlette route with one fixed answer, on the server that the HTTP face runs on. Started by ``http_face.py``."""

import json
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ANSWER = json.dumps({"decision": "ALLOW", "reservation_id": "0" * 36, "affected_scopes": ["tenant:bench"]}).encode()


async def answer(request: Request) -> Response:
    """Read what was asked, and give the answer."""
    await request.body()
    return Response(ANSWER, media_type="application/json")


if __name__ == "__main__":
    app = Starlette(routes=[Route("/v1/reservations", answer, methods=["POST"])])
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False, server_header=False)
