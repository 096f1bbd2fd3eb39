"""An S3 server on the loopback, for the client that trainers and workers use."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest
from moto.server import ThreadedMotoServer


@pytest.fixture
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedMotoServer]:
    """What s3:// URLs name until the test ends; a test may stop it before."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = {"endpoint_url": f"http://{host}:{port}", "key": "tests", "secret": "tests"}
    monkeypatch.setitem(fsspec.config.conf, "s3", endpoint)
    yield server
    server.stop()
