"""docs/scale.md against the functions behind it.

The search for the mix is compared with brute force, and the fake workers run on a real queue.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from benchmarks.scale import assumptions as given
from benchmarks.scale import demand, document, limits, mix, simulation, traffic
from benchmarks.scale.measured import Results, line
from benchmarks.scale.tables import markdown
from varl.policy.base import cells
from varl.trajectories.codec import decode_trajectory, encode_trajectory
from varl.trajectories.queue import RunQueue, connect
from varl.trajectories.tokens import unpack
from varl.v1 import trajectory_pb2

pytest_plugins = ["tests.support.fixtures_redis"]
NEEDS = {kind: demand.demand(kind, given.H100, given.PLANNED) for kind in ("prefix", "suffix")}


@pytest.fixture(scope="module")
def results() -> Results:
    return Results.read()


def test_every_table_of_the_document_is_what_the_script_computes(results: Results) -> None:
    computed = document.computed(results)
    assert document.present(document.PATH.read_text(encoding="utf-8")) == computed


def test_a_table_that_differs_is_found() -> None:
    text = "<!-- table: run -->\n| a |\n| --- |\n| 1 |\n<!-- end -->\n\n<!-- table: model -->\n| b |\n<!-- end -->"
    assert document.present(text) == {"run": "| a |\n| --- |\n| 1 |", "model": "| b |"}
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"


@pytest.mark.parametrize("kind", traffic.TASKS)
def test_messages_are_real_and_of_the_papers_size(kind: str) -> None:
    counts = cells(given.NEXTFLOW_7B.grids)
    data = encode_trajectory(traffic.trajectory_of(traffic.job_of_kind(kind)))
    group = decode_trajectory(data).group
    trained = {"prefix": 900, "suffix": 9184, "full": 10_084}[kind]
    assert [len(unpack(candidate.tokens, group.bits_per_site)) for candidate in group.candidates] == [
        trained
    ] * given.GROUP
    assert len(unpack(group.prefix_tokens, group.bits_per_site)) == (900 if kind == "suffix" else 0)
    assert sum(counts) == 10_084
    assert len(data) == traffic.trajectory_bytes(kind)


def test_the_settings_are_the_papers_recipe() -> None:
    recipe = traffic.recipe()
    rollout, objective = recipe.rollout, recipe.objective
    assert (rollout.prompts_per_update, rollout.group_size, rollout.continuations) == (
        given.PROMPTS,
        given.GROUP,
        given.CONTINUATIONS,
    )
    assert (objective.split_scale, objective.prefix_per_suffix) == (given.SPLIT_SCALE, given.PREFIX_PER_SUFFIX)
    assert [traffic.TASKS[kind].images for kind in ("prefix", "suffix", "full")] == [32, 16, 16]


@pytest.mark.parametrize(("prompts", "hpsv3", "overlap"), list(product((3, 16), (True, False), (True, False))))
def test_no_mix_beats_the_one_that_is_found(prompts: int, hpsv3: bool, overlap: bool) -> None:
    cluster = mix.Cluster(11, prompts, hpsv3=hpsv3, overlap=overlap)
    found = mix.best_mix(cluster)
    least, rewards = demand.least_trainers(given.H100), range(1, 11) if hpsv3 else range(1)
    every = [
        mix.Mix(r, s, t) for r, s, t in product(range(1, 12), rewards, range(least, 12)) if r + s + t <= cluster.gpus
    ]

    def length(candidate: mix.Mix) -> float:
        if overlap:
            return mix.overlapped_seconds(NEEDS, prompts, candidate)
        return mix.mean_phases(NEEDS, prompts, candidate).total

    assert found.seconds == pytest.approx(min(map(length, every)))
    assert found.mix.gpus + found.idle == cluster.gpus
    assert found.groups_per_second == pytest.approx(prompts / found.seconds)
    assert 0 < found.utilisation <= 1


def test_too_small_a_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="4 GPUs are too few"):
        mix.best_mix(mix.Cluster(4, 16))
    assert mix.best_mix(mix.Cluster(5, 16)).mix == mix.Mix(1, 1, 3)


def test_groups_come_in_whole_waves_and_candidates_in_whole_passes() -> None:
    need = replace(NEEDS["prefix"], draw=8.0, decode=2.0, hpsv3=1.0, candidate=0.5)
    assert mix.phases(need, 16, mix.Mix(8, 1, 256)).rollout == 20
    assert mix.phases(need, 16, mix.Mix(7, 1, 256)).rollout == 30  # the third wave has two groups
    assert mix.phases(need, 16, mix.Mix(16, 1, 256)).rollout == 16  # HPSv3 is the slower
    assert mix.phases(need, 16, mix.Mix(16, 0, 256)).rollout == 10  # none is asked
    assert mix.phases(need, 16, mix.Mix(16, 1, 255)).update == 1.0  # one rank has two of the 256
    assert mix.phases(need, 16, mix.Mix(16, 1, 256)).update == 0.5


def test_weights_are_read_once_a_node_until_the_store_is_the_limit() -> None:
    size = traffic.weight_bytes()
    one = size / given.STORE_WRITE + size / given.NODE_READ
    assert mix.distribution_seconds(1) == mix.distribution_seconds(8) == pytest.approx(one)
    nodes = 100
    assert mix.distribution_seconds(8 * nodes) == pytest.approx(
        size / given.STORE_WRITE + nodes * size / given.STORE_READ
    )


def test_polls_fill_a_core_at_the_number_of_workers_that_is_found(results: Results) -> None:
    workers = limits.polls_gpus(results) * limits.growing_forecast().mix.rollout / limits.LARGE
    few, many = (limits.poll_us(results, jobs) for jobs in (limits.FEW, limits.MANY))
    a_poll = few + (workers / 2 - limits.FEW) * (many - few) / (limits.MANY - limits.FEW)
    assert workers / 2 * limits.POLLS_A_SECOND * a_poll == pytest.approx(1e6)


def test_the_smallest_cluster_that_draws_an_update_at_once() -> None:
    found = limits.fixed_prompts_gpus()
    assert mix.best_mix(mix.Cluster(found, given.PROMPTS)).mix.rollout == given.PROMPTS
    assert mix.best_mix(mix.Cluster(found - 1, given.PROMPTS)).mix.rollout < given.PROMPTS


def test_results_are_looked_up_by_all_their_keys() -> None:
    rows = [line("redis", "prefix", 1, "us"), line("redis", "prefix", 2, "MB"), line("stream", "prefix", 3, "us", 4)]
    found = Results({}, {}, rows)
    assert found.value("redis", "prefix", "MB") == 2
    assert found.curve("stream", "prefix", "us") == {4: 3}
    assert found.cases("redis") == ["prefix"]
    with pytest.raises(LookupError, match="0 rows"):
        found.value("redis", "suffix", "MB")


@pytest.mark.parametrize("kind", ["prefix", "suffix"])
def test_fake_workers_answer_every_job_with_a_group_of_real_size(redis_server: str, run_id: str, kind: str) -> None:
    queue = RunQueue(connect(redis_server), run_id, "trainer")
    jobs = [traffic.job_of_kind(kind, index, run_id) for index in range(6)]
    groups = list[trajectory_pb2.Group]()
    with simulation.fake_workers(redis_server, run_id, simulation.Load(kind, 0.01, 3)):
        queue.submit(jobs)
        while len(groups) < len(jobs):
            groups += [got.message.group for got in queue.receive(len(jobs), 1000)]
    assert sorted((group.job for group in groups), key=lambda job: job.job_id) == jobs
    template = traffic.trajectory_of(jobs[0]).group
    assert all(list(group.candidates) == list(template.candidates) for group in groups)
    assert {group.worker for group in groups} <= {"fake-0", "fake-1", "fake-2"}


def test_a_simulation_gives_a_rate_for_each_case(redis_server: str) -> None:
    load = simulation.Load("prefix", 0.02, 2)
    rows = [*simulation.stream(redis_server, load, 0.5), *simulation.updates(redis_server, load, 4, 1)]
    assert [row["unit"] for row in rows] == ["groups/s", "MB/s", "cores, redis", "cores, whole machine", "groups/s"]
    assert all(float(row["value"]) > 0 for row in rows)
    assert float(rows[1]["value"]) == pytest.approx(float(rows[0]["value"]) * traffic.trajectory_bytes("prefix") / 1e6)
