"""The overlay with a trainer of several pods: how many they are, where they meet, and what each of them starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.k8s_network import edges
from tests.support.k8s_policy import Check, bounded, gpus, tokenless, unprivileged
from tests.support.k8s_rig import Object, container, find, render
from tests.support.k8s_settings import environment_of
from varl.trainer.recipe.config import parse_command

PORT = 29500


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return render("overlays/ranks")


@pytest.fixture(scope="module")
def words(objects: list[Object]) -> list[str]:
    return container(objects, "trainer").command(objects)


def test_the_number_of_pods_stands_in_one_place(objects: list[Object], words: list[str]) -> None:
    job = find(objects, "Job", "trainer")["spec"]
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"] == 2
    assert f"--nnodes={job['completions']}" in words and isinstance(job["parallelism"], int)
    assert "backoffLimit" not in job  # all pods fail together, and each has tries of its own


def test_the_pods_meet_at_the_first_one_by_the_headless_service(objects: list[Object], words: list[str]) -> None:
    service, job = find(objects, "Service", "trainer")["spec"], find(objects, "Job", "trainer")
    template = job["spec"]["template"]
    assert service["clusterIP"] == "None" and service["publishNotReadyAddresses"]
    assert [port["port"] for port in service["ports"]] == [PORT]
    assert service["selector"].items() <= template["metadata"]["labels"].items()
    assert f"--rdzv-endpoint={job['metadata']['name']}-0.{template['spec']['subdomain']}:{PORT}" in words
    assert ("trainer", "trainer", PORT) in edges(objects)
    assert ("trainer", "trainer", PORT) not in edges(render("base"))


@pytest.mark.parametrize("check", [unprivileged, tokenless, bounded, gpus])
def test_no_pod_of_it_breaks_the_policy(objects: list[Object], check: Check) -> None:
    assert check(objects) == []


def test_each_pod_starts_the_trainer_on_the_run_of_the_workers(objects: list[Object], words: list[str]) -> None:
    launcher, program = words[: words.index("-m", 3)], words[words.index("-m", 3) + 1 :]
    assert launcher[:3] == ["python", "-m", "torch.distributed.run"] and program[0] == "varl.trainer"
    with environment_of(container(objects, "trainer"), objects):
        command = parse_command(program[1:])
    recipe, worker = command.settings(), container(objects, "rollout").environment(objects)
    assert (recipe.run.name, recipe.run.dir) == (worker["VARL_ROLLOUT_RUN_ID"], Path("/runs"))
    assert (command.resume, command.local_services, recipe.run.device) == ("auto", False, "cuda")
