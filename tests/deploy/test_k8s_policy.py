from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.support.k8s_drain import never_evicted, tied_to_the_node
from tests.support.k8s_policy import Check, bounded, disruptable, gpus, probed, stops_in_time, tokenless, unprivileged
from tests.support.k8s_rig import FOLDERS, Object, container, containers, find, of_kind, render, workloads

CHECKS: list[Check] = [unprivileged, tokenless, bounded, probed, stops_in_time, disruptable, gpus]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("check", CHECKS)
def test_no_pod_breaks_the_policy(folder: str, check: Check) -> None:
    assert check(render(folder)) == []


def test_the_gpu_overlay_asks_for_gpus() -> None:
    asking = {
        str(one) for one in containers(render("overlays/gpu")) if "nvidia.com/gpu" in one.spec["resources"]["limits"]
    }
    assert asking == {"Deployment hpsv3/hpsv3", "Deployment rollout/rollout", "Job trainer/trainer"}
    assert not any("nvidia.com/gpu" in one.spec["resources"]["limits"] for one in containers(render("base")))


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_drain_of_the_node_with_all_pods_ends(folder: str) -> None:
    objects = render(folder)
    assert never_evicted(objects) == []
    tied = {"base": 4, "overlays/kueue": 4, "overlays/gpu": 1, "overlays/autoscale": 1}[folder]  # Redis has its volume
    assert len([one for one in workloads(objects) if tied_to_the_node(one, objects)]) == tied


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_trainer_is_tried_again_where_that_may_mend_it_and_told_to_stop_uses_up_no_attempt(folder: str) -> None:
    objects = render(folder)
    (job,) = [
        one["spec"] if one["kind"] == "Job" else one["spec"]["replicatedJobs"][0]["template"]["spec"]
        for one in of_kind(objects, "Job", "JobSet")
        if one["metadata"]["name"] == "trainer"
    ]
    actions = {
        status: rule["action"]
        for rule in job["podFailurePolicy"]["rules"]
        for status in rule.get("onExitCodes", {}).get("values", [])
    }
    assert actions == {2: "FailJob", 3: "FailJob", 128 + signal.SIGTERM: "Ignore"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_second_apply_finds_lists_as_the_server_keeps_them(folder: str) -> None:
    """A claim template is part of a list, which kubectl compares as a whole with what the server has made of it."""
    for one in of_kind(render(folder), "StatefulSet"):
        for claim in one["spec"]["volumeClaimTemplates"]:
            assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
            assert claim["spec"]["volumeMode"] == "Filesystem" and claim["status"] == {"phase": "Pending"}


def test_pods_on_a_volume_of_one_node_share_it() -> None:
    for folder in ("base", "overlays/kueue"):
        objects = render(folder)
        assert find(objects, "PersistentVolumeClaim", "runs")["spec"]["accessModes"] == ["ReadWriteOnce"]
        assert _apart(objects) == []
        find(objects, "Deployment", "rollout")["spec"]["template"]["spec"].pop("affinity")
        assert _apart(objects) == ["Deployment rollout"]
    for folder in ("overlays/gpu", "overlays/autoscale"):
        assert find(render(folder), "PersistentVolumeClaim", "runs")["spec"]["accessModes"] == ["ReadWriteMany"]
        assert len(_apart(render(folder))) == 3, "where the volume is shared, nothing may tie the pods to one node"


def _apart(objects: list[Object]) -> list[str]:
    """Workloads on the volume of the run that may land on another node than the rest."""
    using = {
        str(one.workload): one.workload
        for one in containers(objects)
        if any(
            volume.get("persistentVolumeClaim", {}).get("claimName") == "runs" for volume in one.workload.pod["volumes"]
        )
    }
    together = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"varl/volume": "runs"}},
    }
    wanted = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [together]}}
    return [
        name
        for name, one in using.items()
        if one.pod.get("affinity") != wanted or one.labels.get("varl/volume") != "runs"
    ]


def _pod(objects: list[Object], kind: str = "Deployment", name: str = "ocr") -> Object:
    spec: Object = find(objects, kind, name)["spec"]["template"]["spec"]
    return spec


Break = Callable[[list[Object]], object]
BREAKS: list[tuple[str, Check, str, Break]] = [
    ("base", unprivileged, "non_root", lambda o: _pod(o)["securityContext"].update(runAsUser=0)),
    ("base", unprivileged, "non_root", lambda o: _pod(o)["containers"][0]["securityContext"].update(runAsUser=0)),
    ("base", unprivileged, "seccomp", lambda o: _pod(o)["securityContext"].pop("seccompProfile")),
    (
        "base",
        unprivileged,
        "no_escalation",
        lambda o: _pod(o)["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
    ),
    (
        "base",
        unprivileged,
        "read_only_root",
        lambda o: _pod(o, "Job", "trainer")["initContainers"][0]["securityContext"].clear(),
    ),
    (
        "base",
        unprivileged,
        "no_capabilities",
        lambda o: _pod(o, "StatefulSet", "redis")["containers"][0]["securityContext"].pop("capabilities"),
    ),
    ("overlays/kueue", unprivileged, "no_host", lambda o: _jobset(o).update(hostNetwork=True)),
    (
        "base",
        unprivileged,
        "no_host_volumes",
        lambda o: _pod(o)["volumes"].append({"name": "n", "hostPath": {"path": "/"}}),
    ),
    ("base", tokenless, "own_account", lambda o: _pod(o).pop("serviceAccountName")),
    (
        "base",
        tokenless,
        "account_without_token",
        lambda o: find(o, "ServiceAccount", "ocr").pop("automountServiceAccountToken"),
    ),
    ("base", tokenless, "pod_without_token", lambda o: _pod(o).update(automountServiceAccountToken=True)),
    ("base", tokenless, "no_service_links", lambda o: _pod(o).pop("enableServiceLinks")),
    ("base", bounded, "requests", lambda o: _pod(o)["containers"][0]["resources"]["requests"].pop("cpu")),
    ("base", bounded, "memory_limit", lambda o: _pod(o)["containers"][0]["resources"].pop("limits")),
    ("base", bounded, "pinned_image", lambda o: _pod(o)["containers"][0].update(image="varl-ocr")),
    ("base", bounded, "scratch_has_a_size", lambda o: _pod(o)["volumes"].append({"name": "n", "emptyDir": {}})),
    (
        "overlays/gpu",
        bounded,
        "gpu_in_limits_alone",
        lambda o: _asks(o)["resources"]["requests"].update({"nvidia.com/gpu": "1"}),
    ),
    ("base", probed, "no liveness probe", lambda o: _pod(o)["containers"][0].pop("livenessProbe")),
    ("base", probed, "asks port 1", lambda o: _pod(o)["containers"][0]["readinessProbe"].update(httpGet={"port": 1})),
    (
        "base",
        probed,
        "startup_takes_five_minutes",
        lambda o: _pod(o)["containers"][0]["startupProbe"].update(failureThreshold=3),
    ),
    (
        "base",
        probed,
        "liveness_is_not_readiness",
        lambda o: _pod(o)["containers"][0]["livenessProbe"]["httpGet"].update(path="/readyz"),
    ),
    ("base", stops_in_time, "sleeps_first", lambda o: _pod(o)["containers"][0].pop("lifecycle")),
    ("base", stops_in_time, "has_time_to_drain", lambda o: _pod(o).update(terminationGracePeriodSeconds=30)),
    (
        "base",
        stops_in_time,
        "has_time_to_drain",
        lambda o: _pod(o, name="rollout").update(terminationGracePeriodSeconds=60),
    ),
    ("base", disruptable, "one_budget", lambda o: o.remove(find(o, "PodDisruptionBudget", "ocr"))),
    (
        "base",
        disruptable,
        "drain_ends: not for StatefulSet redis: 1 pods",
        lambda o: find(o, "PodDisruptionBudget", "redis")["spec"].update(maxUnavailable=0),
    ),
    (
        "base",
        disruptable,
        "drain_ends: not for Deployment rollout: 2 pods",
        lambda o: find(o, "PodDisruptionBudget", "rollout")["spec"].update(maxUnavailable=1),
    ),
    (
        "base",
        disruptable,
        "drain_ends: not for Deployment ocr: 3 pods",
        lambda o: find(o, "PodDisruptionBudget", "ocr")["spec"].update(maxUnavailable="0%"),
    ),
    (
        "overlays/autoscale",
        disruptable,
        "one_at_a_time",
        lambda o: find(o, "PodDisruptionBudget", "rollout")["spec"].update(maxUnavailable="100%"),
    ),
    (
        "base",
        disruptable,
        "broken_pods_go",
        lambda o: find(o, "PodDisruptionBudget", "ocr")["spec"].pop("unhealthyPodEvictionPolicy"),
    ),
    ("base", disruptable, "spread", lambda o: _pod(o).pop("topologySpreadConstraints")),
    ("overlays/gpu", gpus, "tolerates", lambda o: _pod(o, name="hpsv3").pop("tolerations")),
    ("overlays/gpu", gpus, "chooses_node", lambda o: _pod(o, name="hpsv3").pop("affinity")),
    ("overlays/gpu", gpus, "shared_memory", lambda o: _asks(o)["volumeMounts"].pop(0)),
    ("overlays/gpu", gpus, "no_second_gpu", lambda o: find(o, "Deployment", "rollout")["spec"].pop("strategy")),
]


def _jobset(objects: list[Object]) -> Object:
    spec: Object = find(objects, "JobSet", "trainer")["spec"]["replicatedJobs"][0]["template"]["spec"]["template"][
        "spec"
    ]
    return spec


def _asks(objects: list[Object]) -> Object:
    return container(objects, "rollout").spec


@pytest.mark.parametrize(
    ("folder", "check", "fault", "breaks"), BREAKS, ids=[f"{row[2]}-{row[0]}-{n}" for n, row in enumerate(BREAKS)]
)
def test_a_breach_is_found(folder: str, check: Check, fault: str, breaks: Break) -> None:
    objects = render(folder)
    breaks(objects)
    assert any(fault in found for found in check(objects))
