"""The OCR reward on LitServe, one worker, as its documentation would have it: Base64 in JSON, one image a request."""

# mypy: disable-error-code="import-untyped,import-not-found"
# The tests' environment has none of what the other servers are made of.

from __future__ import annotations

import base64

import litserve

from benchmarks.serving.peers import flags
from benchmarks.serving.peers.ocr_model import OCRModel


class OCR(litserve.LitAPI):  # type: ignore[misc] # LitServe has no types
    def setup(self, device: str) -> None:
        self._model = OCRModel()

    def decode_request(self, request: dict[str, str]) -> tuple[str, bytes]:
        return request["prompt"], base64.b64decode(request["image"])

    def predict(self, inputs: tuple[str, bytes]) -> float:
        return self._model(*inputs)

    def encode_response(self, output: float) -> dict[str, float]:
        return {"value": output}


def main() -> None:
    """Serve until killed."""
    arguments = flags()
    server = litserve.LitServer(OCR(max_batch_size=arguments.batch), accelerator="cpu", timeout=300)
    server.run(host="127.0.0.1", port=arguments.http_port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
