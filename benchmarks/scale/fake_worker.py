"""``python -m benchmarks.scale.fake_worker``: rollout workers that sleep instead of generating.

The queue and the messages are real. Light on purpose (no torch): eight of these processes, of up to eight workers each,
stand for sixty-four pods.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

from varl.trajectories.codec import decode_trajectory
from varl.trajectories.queue import RunQueue, connect
from varl.v1 import trajectory_pb2

BLOCK_MS, IDLE_MS = 500, 60_000  # varl.services.rollout's


def main() -> None:
    """Work until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--run-id", required=True)
    parser.add_argument(
        "--template", type=Path, required=True, help="file with the group that is published for every job"
    )
    parser.add_argument("--seconds", type=float, required=True, help="that a group takes")
    parser.add_argument("--workers", type=int, required=True, help="in all processes together")
    parser.add_argument("--mine", type=int, nargs="+", required=True, help="which of them this process is")
    given = parser.parse_args()
    template = given.template.read_bytes()
    for index in given.mine:
        stagger = given.seconds * index / given.workers
        threading.Thread(target=work, args=(given.url, given.run_id, template, given.seconds, stagger, index)).start()


def work(url: str, run_id: str, template: bytes, seconds: float, stagger: float, index: int) -> None:
    """Take a job, sleep, publish the template as its group, again and again.

    The first time after ``stagger`` seconds.
    """
    name = f"fake-{index}"
    queue, trajectory = RunQueue(connect(url), run_id, name), decode_trajectory(template)
    time.sleep(stagger)
    while True:
        delivery = queue.take_job(BLOCK_MS, IDLE_MS)
        if delivery is not None:
            time.sleep(seconds)
            _answer(trajectory, delivery.message.SerializeToString(), name, seconds)
            queue.publish(delivery, trajectory)


def _answer(trajectory: trajectory_pb2.Trajectory, job: bytes, name: str, seconds: float) -> None:
    trajectory.group.job.ParseFromString(job)
    trajectory.group.worker, trajectory.group.generate_seconds = name, seconds


if __name__ == "__main__":
    main()
