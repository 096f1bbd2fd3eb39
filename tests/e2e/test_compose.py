"""docker-compose.yml for real, as a user meets it: build, a reward server, a whole run with killed parts, down.

Run by make e2e-compose.
"""

from __future__ import annotations

import base64
import json
import sys
import uuid
from collections.abc import Iterator

import docker
import httpx
import pytest

from tests.support.compose_rig import Project, engine, run_in, wait_for
from tests.support.ocr_builders import png, render

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
OURS = ("ocr", "hpsv3", "gateway", "rollout", "trainer", "tensorboard")
UPDATES = 6
STREAM_LENGTHS = """
import json
from pathlib import Path
from varl.trajectories.access import RedisAccess
client = RedisAccess("redis://redis:6379/0", Path("/run/secrets/varl/redis_password")).connect()
print(json.dumps({key.decode(): client.xlen(key) for key in client.scan_iter(_type="stream")}))
"""


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    client = engine()
    if isinstance(client, str):
        pytest.skip(client)
    settings = {"VARL_DEMO_UPDATES": str(UPDATES), "VARL_DEMO_PROMPTS": "16"}
    made = Project(client, f"varl-e2e-{uuid.uuid4().hex[:8]}", settings)
    try:
        made.compose("build")
        yield made
    finally:
        made.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")


def test_images_are_lean_and_run_as_nobody(project: Project) -> None:
    for target in OURS:
        image = project.client.images.get(f"varl-{target}:0.1.0")
        config = image.attrs["Config"]
        assert config["User"] == "10001:10001"
        assert config["Labels"]["org.opencontainers.image.version"] == "0.1.0"
        look = "for tool in gcc cc make git; do command -v $tool; done; ls -d /root/.cache/pip 2>/dev/null; id -u"
        output = project.client.containers.run(
            image, ["-c", look], entrypoint="sh", remove=True, network_mode="none"
        ).decode()
        assert output.split() == ["10001"]
        sys.stdout.write(f"{target}: {image.attrs['Size'] / 1e6:.0f} MB\n")


def test_one_service_brings_up_what_it_needs_and_scores_from_the_host(project: Project) -> None:
    project.compose("up", "--detach", "--wait", "gateway")
    assert {one.labels["com.docker.compose.service"] for one in project.containers()} == {
        "prepare",
        "ocr",
        "hpsv3",
        "gateway",
    }
    url = f"http://127.0.0.1:{project.settings['GATEWAY_PORT']}"
    good = {
        "id": "good",
        "prompt": "a sign that says 'BREAD'",
        "image": base64.b64encode(png(render(["BREAD"]))).decode(),
    }
    bad = {"id": "bad", "prompt": "a sign that says 'BREAD'", "image": base64.b64encode(b"no picture").decode()}
    answer = httpx.post(f"{url}/v1/score", json={"samples": [good, bad]}, timeout=60)
    assert answer.status_code == 200, answer.text
    rewards = answer.json()["rewards"]
    assert rewards.keys() == {"ocr", "hpsv3"}
    read, failed = rewards["ocr"]["results"]
    assert read["value"] > 1.5
    assert [word["text"] for word in read["words"]] == ["BREAD"]
    assert failed["error"]["code"] == "bad_image"
    assert "value" not in failed


def test_services_behind_want_the_token(project: Project) -> None:
    probe = "import urllib.request as r; r.urlopen('http://ocr:8080/v1/info')"
    code, output = run_in(project.container("gateway"), "python", "-c", probe)
    assert code == 1
    assert "401" in output


def test_nothing_can_be_written_outside_of_its_volumes(project: Project) -> None:
    for service in ("ocr", "gateway", "hpsv3"):
        code, output = run_in(project.container(service), "sh", "-c", "touch /app/x")
        assert code != 0
        assert "Read-only" in output
        host = project.container(service).attrs["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert host["Memory"] > 0


def test_a_run_goes_through_whatever_is_killed(project: Project) -> None:
    project.compose("up", "--detach", "--scale", "rollout=2")
    wait_for("the second update", lambda: len(updates(project)) >= 2, 600, lambda: project.logs("trainer"))
    project.crash(project.containers("rollout")[0])
    project.crash(project.container("ocr"))
    wait_for("another update", lambda: len(updates(project)) >= 3, 600, lambda: project.logs("rollout"))
    project.crash(project.container("trainer"))
    project.container("redis").restart()
    wait_for("the end of the run", lambda: finished(project), 1200, lambda: project.logs("trainer"))
    assert [row["update"] for row in updates(project)] == list(
        range(UPDATES + 1)
    )  # the last row is the look at the end
    assert b"<html" in project.read("trainer", "/runs/compose/report.html")
    assert project.container("trainer").attrs["RestartCount"] >= 1
    wait_for("health", lambda: project.healthy("ocr") and project.healthy("rollout"), 120, lambda: project.logs("ocr"))
    assert json.loads(project.read("trainer", "/runs/compose/eval.json")).keys() == {
        "before", "after", "difference", "samplers"
    }  # fmt: skip


def test_no_entry_is_left_in_redis(project: Project) -> None:
    code, output = run_in(project.containers("rollout")[0], "python", "-c", STREAM_LENGTHS)
    assert code == 0, output
    lengths = json.loads(output)
    assert lengths
    assert set(lengths.values()) == {0}, lengths


def test_the_curves_are_to_be_seen(project: Project) -> None:
    runs = httpx.get(f"http://127.0.0.1:{project.settings['TENSORBOARD_PORT']}/data/runs", timeout=30)
    assert any(run.startswith("compose") for run in runs.json())


def test_no_client_was_sent_away_for_pinging(project: Project) -> None:
    assert "too_many_pings" not in project.logs("rollout") + project.logs("gateway")


def test_down_leaves_nothing(project: Project) -> None:
    project.compose("down", "--volumes", "--remove-orphans")
    client, mine = project.client, project.labels()
    assert client.containers.list(all=True, filters=mine) == []
    assert client.networks.list(filters=mine) == []
    assert client.volumes.list(filters=mine) == []


def updates(project: Project) -> list[dict[str, float]]:
    """Rows of the run's metrics; none before there are any."""
    try:
        content = project.read("trainer", "/runs/compose/metrics.jsonl")
    except docker.errors.NotFound:
        return []
    lines = content.decode().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def finished(project: Project) -> bool:
    state = project.state("trainer")
    return state["Status"] == "exited" and state["ExitCode"] == 0
