"""Steady load: clients over HTTP and gRPC that send a bad image now and then, and jobs kept in the stream by demand."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Coroutine
from itertools import count

import httpx
import numpy as np

from chaos.soak_rig import RUN_ID, SoakRig
from varl.services.rollout.images import encode_png
from varl.services.serving.grpc.client import RewardClient, RewardRejected, RewardUnavailable
from varl.tiny.render import render
from varl.tiny.words import all_words
from varl.trajectories.codec import job_of
from varl.trajectories.job_checks import SCHEMA
from varl.trajectories.queue import RunQueue, connect
from varl.v1 import reward_pb2, rollout_pb2

PAUSE_S = 0.05  # between an answer and the next request of a client
BAD_EVERY = 5  # requests, of which one has a bad image
JOBS = 2  # kept asked for
IMAGES = 4  # of a request
Picture = tuple[str, bytes]


class Load:
    """Clients on one event loop; ``counts`` says what came back, by client and outcome."""

    def __init__(self, rig: SoakRig) -> None:
        self._rig = rig
        self._good = pictures(32)
        whole = self._good[0][1]
        self._bad = [b"no image", whole[: len(whole) // 2], b""]
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Ask until cancelled. Raises what breaks a client; refusals and failures are counted instead."""
        grpc = [self._over_grpc(name, port) for name, port in self._rig.grpc_ports.items()]
        clients: list[Coroutine[None, None, None]] = [self._over_http(), *grpc, self._jobs()]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client)

    def _pictures(self, number: int) -> list[Picture]:
        chosen = [self._good[(number * IMAGES + index) % len(self._good)] for index in range(IMAGES)]
        return (
            [*chosen, ("a sign", self._bad[number // BAD_EVERY % len(self._bad)])]
            if number % BAD_EVERY == 0
            else chosen
        )

    async def _over_http(self) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._rig.gateway_port}", timeout=120) as client:
            for number in count():
                samples = [
                    {"id": str(index), "prompt": prompt, "image": base64.b64encode(image).decode()}
                    for index, (prompt, image) in enumerate(self._pictures(number))
                ]
                answer = await client.post("/v1/score", json={"samples": samples})
                self.counts[f"http: status {answer.status_code}"] += 1
                await asyncio.sleep(PAUSE_S)

    async def _over_grpc(self, name: str, port: int) -> None:
        async with RewardClient(f"127.0.0.1:{port}", 120) as client:
            for number in count():
                samples = [
                    reward_pb2.Sample(id=str(index), prompt=prompt, image=image)
                    for index, (prompt, image) in enumerate(self._pictures(number))
                ]
                try:
                    answer = await client.score(samples)
                    self.counts.update(f"grpc {name}: {result.WhichOneof('outcome')}" for result in answer.results)
                except (RewardUnavailable, RewardRejected) as error:
                    self.counts[f"grpc {name}: {type(error).__name__}"] += 1
                await asyncio.sleep(PAUSE_S)

    async def _jobs(self) -> None:
        queue = RunQueue(connect(f"redis://127.0.0.1:{self._rig.redis_port}"), RUN_ID, "soak-trainer")
        asked, number = set[str](), count()
        while True:
            jobs = [make_job(next(number), self._good[0][0]) for _ in range(JOBS - len(asked))]
            await asyncio.to_thread(queue.submit, jobs)
            asked |= {job.job_id for job in jobs}
            for delivery in await asyncio.to_thread(queue.receive, JOBS, 500):
                asked.discard(job_of(delivery.message).job_id)
                self.counts[f"rollout: {delivery.message.WhichOneof('outcome')}"] += 1
                await asyncio.to_thread(queue.acknowledge, [delivery.entry_id])


def make_job(number: int, prompt: str) -> rollout_pb2.RolloutJob:
    """A group of four whole images on the base model's weights, scored by both rewards."""
    return rollout_pb2.RolloutJob(
        run_id=RUN_ID,
        job_id=f"soak/{number}",
        group=number,
        prompt=prompt,
        target_words=["SOAK"],
        stage=rollout_pb2.STAGE_FULL,
        group_size=4,
        continuations=1,
        seed=number,
        sampling=rollout_pb2.Sampling(temperature=1.0, top_p=1.0),
        rewards=["ocr", "hpsv3"],
        schema=SCHEMA,
        log_probs=rollout_pb2.LOG_PROBS_PLAIN,
    )


def pictures(number: int) -> list[Picture]:
    """Prompts and PNG files of one or two rendered words, the same on every call."""
    rng = np.random.default_rng(0)
    drawn = [tuple(map(str, rng.choice(all_words(), 1 + index % 2))) for index in range(number)]
    return [(f"a sign that says '{' '.join(words)}'", encode_png(render(words, rng).image)) for words in drawn]
