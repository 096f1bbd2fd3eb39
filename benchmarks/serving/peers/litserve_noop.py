"""LitServe with a model that does nothing, on a prompt and, where there is one, an image."""

# mypy: disable-error-code="import-untyped,import-not-found"
# The tests' environment has none of what the other servers are made of.

from __future__ import annotations

import base64
from typing import Any

import litserve

from benchmarks.serving.payload import decode
from benchmarks.serving.peers import flags


class Noop(litserve.LitAPI):  # type: ignore[misc] # LitServe has no types
    """Answers 0; decoding is its decode_request, which LitServe runs in the worker process."""

    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: dict[str, str]) -> str:
        if "image" in request:
            decode(base64.b64decode(request["image"]))
        return request["prompt"]

    def predict(self, inputs: Any) -> Any:  # noqa: ANN401
        return [0.0] * len(inputs) if isinstance(inputs, list) else 0.0

    def encode_response(self, output: float) -> dict[str, float]:
        return {"value": output}


def main() -> None:
    """Serve until killed."""
    arguments = flags()
    batched = arguments.batch > 1
    api = Noop(max_batch_size=arguments.batch, batch_timeout=0.001 if batched else 0.0)
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=batched)
    server.run(host="127.0.0.1", port=arguments.http_port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
