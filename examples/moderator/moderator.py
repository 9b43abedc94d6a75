"""A tiny external moderator: what docs/moderation.md asks of one, and nothing more.

    uvicorn --app-dir examples/moderator moderator:app --port 8500

It scores by counting words. Put your model where `score` is. For rehearsals of an outage, the
environment variable MODERATOR_MODE makes it `slow`, `broken` (status 500) or `garbage`.
"""

from __future__ import annotations

import asyncio
import os
import re

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

WORDS = {
    "TOXICITY": {"hate", "stupid", "disgusting", "pathetic", "idiot", "worthless"},
    "THREAT": {"kill", "hurt", "destroy", "regret"},
}


def score(attribute: str, text: str) -> float:
    """Return how much of *attribute* is in *text*, from 0 to 1."""
    found = sum(word in WORDS.get(attribute, set()) for word in re.findall(r"\w+", text.lower()))
    return min(1.0, found * 0.45)


async def analyze(request: Request) -> Response:
    mode = getattr(request.app.state, "mode", "") or os.environ.get("MODERATOR_MODE", "")
    if mode == "slow":
        await asyncio.sleep(30)
    if mode == "broken":
        return PlainTextResponse("out of order", status_code=500)
    if mode == "garbage":
        return PlainTextResponse("<html>this is not the answer you are looking for</html>")
    body = await request.json()
    text = body["comment"]["text"]
    scores = {
        attribute: {"summaryScore": {"value": score(attribute, text), "type": "PROBABILITY"}}
        for attribute in body["requestedAttributes"]
    }
    return JSONResponse({"attributeScores": scores})


def create_app(mode: str = "") -> Starlette:
    """Build the application; `app.state.mode` may be changed while it runs."""
    application = Starlette(routes=[Route("/v1/analyze", analyze, methods=["POST"])])
    application.state.mode = mode
    return application


app = create_app()
