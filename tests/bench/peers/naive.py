"""What most would write: Starlette, request.json(), one httpx.AsyncClient, JSONResponse.

python -m tests.bench.peers.naive PORT V2_ADDRESS
"""

import sys
import time
from typing import Any

import httpx
import sniffio  # noqa: F401  # without it httpcore pays a failed import a call, and the comparison would flatter us
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

CODES = {"Invalid API key": "invalid_api_key", "Missing API key": "missing_api_key"}
HEADERS = {
    "deprecation": "@1767225600",
    "sunset": "Wed, 30 Jun 2027 23:59:59 GMT",
    "link": '<https://docs.nox.energy>; rel="deprecation"; type="text/html"',
}
client = httpx.AsyncClient(timeout=60.0)


def failure(status: int, code: str, text: str) -> JSONResponse:
    body = {"success": False, "timestamp": int(time.time()), "error": text, "error_code": code, "message": text}
    return JSONResponse(body, status, HEADERS)


def find_key(request: Request) -> str | None:
    authorization = request.headers.get("authorization", "")
    return request.headers.get("x-api-key") or (authorization[7:] if authorization.startswith("ApiKey ") else None)


async def connect(request: Request) -> JSONResponse:
    key = find_key(request)
    if not key:
        return failure(401, "missing_api_key", "Missing API key")
    asked: dict[str, Any] = await request.json()
    user = asked.get("manufacturer_user_id")
    if not isinstance(user, str):
        return failure(400, "invalid_request", "manufacturer_user_id is required and must be a string")
    reply = await client.post(URL, json={"user_id": user}, headers={"x-api-key": key})
    told: dict[str, Any] = reply.json()
    if reply.is_error:
        text = told["error"]
        return failure(reply.status_code, CODES.get(text, "upstream_error"), text)
    data = {**told, "device_ids": asked.get("device_ids", [])}
    return JSONResponse({"success": True, "timestamp": int(time.time()), "data": data}, 201, HEADERS)


app = Starlette(routes=[Route("/manufacturers/nox", connect, methods=["POST"])])

if __name__ == "__main__":
    URL = f"http://{sys.argv[2]}/v2/manufacturer/device-connections"
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False)
