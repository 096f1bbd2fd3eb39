"""gRPC requests, several in flight on one channel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

from varl.v1 import reward_pb2, reward_pb2_grpc


def request(image: bytes, prompt: str = "a") -> reward_pb2.ScoreRequest:
    """One sample."""
    return reward_pb2.ScoreRequest(samples=[reward_pb2.Sample(id="0", prompt=prompt, image=image)])


async def closed_loop(
    port: int, requests: Sequence[reward_pb2.ScoreRequest], count: int, clients: int, token: str = ""
) -> None:
    """``count`` requests, turn about from ``requests``, each client with one in flight.

    Every sample must get a score.
    """
    numbers = iter(range(count))
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = reward_pb2_grpc.RewardServiceStub(channel)

        async def client() -> None:
            for number in numbers:
                answer = await stub.Score(requests[number % len(requests)], metadata=metadata)
                if not answer.results[0].HasField("score"):
                    raise SystemExit(f"the server answered {answer.results[0]}")

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
