"""What the gRPC server is told."""

from __future__ import annotations

import grpc
import pytest

from varl.services.serving.grpc.server import server_options


@pytest.mark.parametrize(("most", "told"), [(2**20, 2**21), (2**30, 2**31 - 1), (2**40, 2**31 - 1)])
async def test_a_request_may_be_larger_than_a_channel_argument(most: int, told: int) -> None:
    options = server_options(most, 8)
    assert dict(options)["grpc.max_receive_message_length"] == dict(options)["grpc.max_send_message_length"] == told
    server = grpc.aio.server(options=options)
    assert server.add_insecure_port("127.0.0.1:0")
    await server.stop(None)
