"""An S3 server on the loopback, for the client that trainers and workers use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from varl.launch.ports import reserve_port


@pytest.fixture
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedMotoServer]:
    """What s3:// URLs name until the test ends; a test may stop it before, and start another on its port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=reserve_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint: dict[str, Any] = {"endpoint_url": f"http://{host}:{port}", "key": "tests", "secret": "tests"}
    endpoint |= {
        "config_kwargs": {"retries": {"max_attempts": 0}}
    }  # s3fs tries again by itself; both together wait half a minute
    monkeypatch.setitem(fsspec.config.conf, "s3", endpoint)
    yield server
    server.stop()
