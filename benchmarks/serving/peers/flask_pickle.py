"""The OCR reward as flow_grpo's reward servers are built.

A Flask app under a gunicorn sync worker, pickles both ways.
"""

# mypy: disable-error-code="import-untyped,import-not-found"
# The tests' environment has none of what the other servers are made of.

from __future__ import annotations

import pickle

import flask
from gunicorn.app.base import BaseApplication

from benchmarks.serving.peers import flags
from benchmarks.serving.peers.ocr_model import OCRModel


def build() -> flask.Flask:
    """The app; the model is loaded by the worker that serves it."""
    app, model = flask.Flask(__name__), OCRModel()

    def score() -> flask.Response:
        # A pickle, because that is the protocol this imitates. It comes from the benchmark itself over the loopback;
        # anywhere else anyone who reaches the port could run code here.
        request = pickle.loads(flask.request.get_data())
        outputs = [model(prompt, image) for prompt, image in zip(request["prompts"], request["images"], strict=True)]
        return flask.Response(pickle.dumps({"outputs": outputs}), content_type="application/octet-stream")

    app.add_url_rule("/", view_func=score, methods=["POST"])
    app.add_url_rule("/health", view_func=lambda: "ok", endpoint="health")
    return app


class Gunicorn(BaseApplication):  # type: ignore[misc] # gunicorn has no types
    def __init__(self, port: int) -> None:
        self._port = port
        super().__init__()

    def load_config(self) -> None:
        for name, value in {
            "bind": f"127.0.0.1:{self._port}",
            "workers": 1,
            "timeout": 600,
            "loglevel": "warning",
        }.items():
            self.cfg.set(name, value)

    def load(self) -> flask.Flask:
        return build()


def main() -> None:
    """Serve until killed."""
    Gunicorn(flags().http_port).run()


if __name__ == "__main__":
    main()
