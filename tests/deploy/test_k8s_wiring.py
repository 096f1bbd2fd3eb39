"""Names that must fit together.

Clients and Services, variables and settings, images and the Dockerfile, mounts and volumes.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import yaml
from pydantic import ValidationError

from tests.support.k8s_network import edges
from tests.support.k8s_rig import (
    FOLDERS,
    K8S,
    Container,
    Object,
    container,
    containers,
    find,
    of_kind,
    render,
    selects,
    workloads,
)
from tests.support.k8s_settings import environment_of, settings_of, unknown_variables
from tests.support.paths import ROOT
from varl.services.rollout.settings import RolloutServiceSettings
from varl.studies.demo_settings import DemoSettings, demo_recipe
from varl.trainer.recipe.config import Recipe
from varl.trajectories.queue import RunQueue

TARGETS = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(params=FOLDERS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return render(request.param)


# Images.


def strange_images(objects: Sequence[Object]) -> list[str]:
    compose = (ROOT / "docker-compose.yml").read_text()
    return [str(one) for one in containers(objects) if not _is_built(one) and f"{one.spec['image']}}}" not in compose]


def _is_built(one: Container) -> bool:
    name, tag = one.image
    return name.startswith("varl-") and name.removeprefix("varl-") in TARGETS and tag in (VERSION, f"{VERSION}-cuda")


def test_every_image_is_one_that_the_dockerfile_builds(objects: list[Object]) -> None:
    assert strange_images(objects) == []
    for image in ("varl-oct:0.1.0", "varl-ocr:9.9.9", "ocr:0.1.0", "redis:6"):
        container(objects, "ocr").spec["image"] = image
        assert strange_images(objects) == ["Deployment ocr/ocr"], image


# Settings.


def test_every_variable_is_read_and_every_process_takes_its_settings(objects: list[Object]) -> None:
    for one in containers(objects):
        assert unknown_variables(one, objects) == set(), one
        settings = settings_of(one, objects)
        assert settings is not None or one.spec["name"] in (
            "redis",
            "wait-for-redis",
            "tensorboard",
            "fetch",
            "check-weights",
        ), one
        assert getattr(settings, "host", "0.0.0.0") == "0.0.0.0", f"{one}: a pod's address is not the loopback"


def test_a_container_opens_the_ports_of_its_settings(objects: list[Object]) -> None:
    for name in ("ocr", "hpsv3", "gateway", "rollout"):
        settings = settings_of(container(objects, name), objects)
        ports = {
            port: getattr(settings, f"{port}_port")
            for port in ("http", "grpc", "metrics")
            if getattr(settings, f"{port}_port", None) is not None
        }
        assert container(objects, name).ports() == ports


@pytest.mark.parametrize(
    ("name", "entry"),
    [("VARL_OCR_WORKER", "2"), ("VARL_ROLLOUT_SAMPLING__TEMPRATURE", "1"), ("VARL_TRAINER_RUN__UPDATE", "3")],
)
def test_a_misspelt_variable_is_found(name: str, entry: str) -> None:
    objects = render("base")
    one = container(objects, name.split("_")[1].lower())
    one.spec["env"].append({"name": name, "value": entry})
    assert unknown_variables(one, objects) == {name}


def test_a_value_that_the_process_would_refuse_is_found() -> None:
    objects = render("base")
    one = container(objects, "ocr")
    one.spec["env"].append({"name": "VARL_OCR_WORKERS", "value": "many"})
    with pytest.raises(ValidationError, match="workers"):
        settings_of(one, objects)


# The run: trainer and workers must mean the same one.


def test_trainer_and_workers_mean_the_same_run(objects: list[Object]) -> None:
    recipe, worker = _recipe(objects), settings_of(container(objects, "rollout"), objects)
    assert isinstance(worker, RolloutServiceSettings)
    assert worker.run_id == recipe.run.name
    assert {reward.name for reward in recipe.rollout.rewards} <= worker.reward.keys()
    assert worker.model_dir == Path("/app") / recipe.model.dir
    assert _mount(container(objects, "trainer"), "/runs") == _mount(container(objects, "rollout"), "/runs") != ""
    assert recipe.run.dir == Path("/runs")
    assert worker.redis_url.get_secret_value() == container(objects, "trainer").environment(objects)["REDIS_URL"]


def _recipe(objects: Sequence[Object]) -> Recipe:
    one = container(objects, "trainer")
    settings = settings_of(one, objects)
    assert isinstance(settings, DemoSettings)
    with environment_of(one, objects):
        return demo_recipe(settings)


def _mount(one: Container, path: str) -> str:
    (name,) = [mount["name"] for mount in one.spec["volumeMounts"] if mount["mountPath"] == path]
    (volume,) = [volume for volume in one.workload.pod["volumes"] if volume["name"] == name]
    claim: str = volume["persistentVolumeClaim"]["claimName"]
    return claim


def test_keda_reads_the_stream_that_the_run_uses(redis_client: redis.Redis) -> None:
    objects = render("overlays/autoscale")
    run = find(objects, "ConfigMap", "varl")["data"]["run-id"]
    RunQueue(redis_client, run, "looking")
    (trigger,) = find(objects, "ScaledObject", "rollout")["spec"]["triggers"]
    assert redis_client.delete(trigger["metadata"]["stream"]) == 1
    redis_client.delete(f"varl:{run}:trajectories")
    assert trigger["metadata"]["address"] == "redis.varl.svc:6379"


# Clients and Services.


def targets(objects: Sequence[Object]) -> Iterator[tuple[str, str, int]]:
    """(workload, host, port) of every address among the variables."""
    for one in containers(objects):
        for name, value in one.environment(objects).items():
            addresses = json.loads(value).values() if name.endswith("_REWARD") else [value]
            for address in addresses:
                url = urlsplit(address.replace("dns:///", "dns://"))
                if url.scheme in ("dns", "redis") and url.hostname and url.port:
                    yield one.workload.name, url.hostname, url.port


def lost_targets(objects: Sequence[Object]) -> list[str]:
    """Addresses that no Service answers for, that no pod listens on, or that the network does not let through."""
    allowed = edges(objects)
    return [
        f"{source} -> {host}:{port}"
        for source, host, port in targets(objects)
        if not _arrives(objects, allowed, source, host, port)
    ]


def _arrives(objects: Sequence[Object], allowed: set[tuple[str, str, int]], source: str, host: str, port: int) -> bool:
    services = [one["spec"] for one in of_kind(objects, "Service") if one["metadata"]["name"] == host]
    return any(
        (source, name, number) in allowed for service in services for name, number in endpoints(objects, service, port)
    )


def endpoints(objects: Sequence[Object], service: Object, port: int) -> list[tuple[str, int]]:
    """(workload, container port) behind one port of a Service."""
    wanted = [entry["targetPort"] for entry in service["ports"] if entry["port"] == port]
    behind = [one for one in workloads(objects) if selects({"matchLabels": service["selector"]}, one.labels)]
    return [
        (one.name, number)
        for one in behind
        for c in one.containers()
        for name, number in c.ports().items()
        if {name, number} & set(wanted)
    ]


def test_every_client_finds_its_service(objects: list[Object]) -> None:
    assert {(source, host) for source, host, _ in targets(objects)} == {
        ("rollout", "redis"),
        ("rollout", "ocr-grpc"),
        ("rollout", "hpsv3-grpc"),
        ("gateway", "ocr-grpc"),
        ("gateway", "hpsv3-grpc"),
        ("trainer", "redis"),
    }
    assert lost_targets(objects) == []


def test_a_lost_client_is_found() -> None:
    for kind, name in (("Service", "ocr-grpc"), ("NetworkPolicy", "scoring")):
        objects = render("base")
        objects.remove(find(objects, kind, name))
        assert "rollout -> ocr-grpc:50051" in lost_targets(objects)
    objects = render("base")
    find(objects, "Service", "ocr-grpc")["spec"]["ports"][0]["port"] = 50052
    assert "gateway -> ocr-grpc:50051" in lost_targets(objects)


def test_every_service_has_a_pod_behind_each_port(objects: list[Object]) -> None:
    for service in of_kind(objects, "Service"):
        for port in service["spec"]["ports"]:
            if service["metadata"]["name"] != "trainer":  # its port is torchrun's
                assert endpoints(objects, service["spec"], port["port"]), service["metadata"]["name"]
    grpc = [one for one in of_kind(objects, "Service") if one["metadata"]["name"].endswith("-grpc")]
    assert len(grpc) == 3
    assert all(one["spec"]["clusterIP"] == "None" for one in grpc), "gRPC balances between pods, which it must see"


# References.


def dangling(objects: Sequence[Object]) -> list[str]:
    """Faults in the wiring of the manifests.

    Mounts without a volume, volumes without a source, variables that name files that nothing mounts, selectors without
    a match.
    """
    return [fault for one in workloads(objects) for fault in _dangling(one.containers(), objects)]


def _dangling(group: Sequence[Container], objects: Sequence[Object]) -> Iterator[str]:
    workload = group[0].workload
    claims = {one["metadata"]["name"] for one in workload.spec.get("volumeClaimTemplates", [])}
    volumes = {volume["name"] for volume in workload.pod["volumes"]} | claims
    mounted = {mount["name"] for one in group for mount in one.spec["volumeMounts"]}
    yield from (f"{workload}: {name} is mounted and absent, or present and not mounted" for name in volumes ^ mounted)
    yield from (f"{workload}: {name}" for volume in workload.pod["volumes"] for name in _missing(volume, objects))
    if workload.kind in ("Deployment", "StatefulSet") and not selects(workload.spec["selector"], workload.labels):
        yield f"{workload}: selector"
    yield from (f"{one}: {path}" for one in group for path in _unmounted(one, objects))


def _missing(volume: Object, objects: Sequence[Object]) -> Iterator[str]:
    template = yaml.safe_load((K8S / "templates" / "secret.yaml").read_text())
    if "secret" in volume:
        known = template["stringData"] if volume["secret"]["secretName"] == template["metadata"]["name"] else {}
        yield from (
            item["key"]
            for item in volume["secret"].get("items", [{"key": name} for name in known])
            if item["key"] not in known
        )
        yield from [] if known else [volume["secret"]["secretName"]]
    for kind, source, key in (
        ("ConfigMap", "configMap", "name"),
        ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
    ):
        wanted = volume.get(source, {}).get(key)
        if wanted and wanted not in {one["metadata"]["name"] for one in of_kind(objects, kind)}:
            yield wanted


def _unmounted(one: Container, objects: Sequence[Object]) -> list[str]:
    """Absolute paths among the variables that lie neither in the image nor on a mount."""
    mounts = [Path(mount["mountPath"]) for mount in one.spec["volumeMounts"]] + [Path("/app")]
    paths = [Path(value) for value in one.environment(objects).values() if value.startswith("/")]
    return [str(path) for path in paths if not any(path.is_relative_to(mount) for mount in mounts)]


def test_nothing_dangles(objects: list[Object]) -> None:
    assert dangling(objects) == []


@pytest.mark.parametrize(
    "kind_and_name",
    [("ConfigMap", "redis"), ("PersistentVolumeClaim", "runs")],
    ids=["ConfigMap", "PersistentVolumeClaim"],
)
def test_a_missing_object_is_found(kind_and_name: tuple[str, str]) -> None:
    objects = render("base")
    objects.remove(find(objects, *kind_and_name))
    assert dangling(objects)


def test_a_dangling_name_is_found() -> None:
    changes: tuple[Callable[[Object], object], ...] = (
        lambda pod: pod["volumes"].pop(),
        lambda pod: pod["containers"][0]["volumeMounts"].pop(),
        lambda pod: pod["volumes"][0]["secret"].update(secretName="other"),
        lambda pod: pod["volumes"][0]["secret"]["items"][0].update(key="token"),
        lambda pod: pod["containers"][0]["env"].append({"name": "VARL_OCR_MODEL_CACHE", "value": "/nowhere"}),
    )
    for change in changes:
        objects = render("base")
        change(find(objects, "Deployment", "ocr")["spec"]["template"]["spec"])
        assert dangling(objects), change
