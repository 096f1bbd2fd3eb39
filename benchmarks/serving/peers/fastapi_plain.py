"""A FastAPI handler with nothing around it.

The least that an HTTP JSON request costs in this stack, safety left out.
"""

from __future__ import annotations

import base64

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving.payload import decode
from benchmarks.serving.peers import flags

app = FastAPI()


class Body(BaseModel):
    prompt: str
    image: str = ""


class Answer(BaseModel):
    value: float


@app.post("/predict")
async def predict(body: Body) -> Answer:
    """Answer 0; an image is decoded here, on the event loop."""
    if body.image:
        decode(base64.b64decode(body.image))
    return Answer(value=0.0)


@app.get("/health")
async def health() -> None:
    """The server answers."""


def main() -> None:
    """Serve until killed."""
    uvicorn.run(app, host="127.0.0.1", port=flags().http_port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
