"""What every pod here must be: without rights, bounded, asked for its health, and told to stop with time to do so.

Each check returns what it finds wrong, in words; an empty list is a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.support.k8s_drain import never_evicted, tied_to_the_node
from tests.support.k8s_rig import Container, Object, Workload, containers, of_kind, selects, workloads
from tests.support.k8s_settings import settings_of
from varl.services.serving.settings import HttpSettings

Check = Callable[[Sequence[Object]], list[str]]
VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
SPREAD = {"ocr", "hpsv3", "gateway", "rollout"}


def _faults(where: object, **rules: bool) -> list[str]:
    return [f"{where}: {name}" for name, kept in rules.items() if not kept]


def unprivileged(objects: Sequence[Object]) -> list[str]:
    """Nobody is root, may become root, writes to the image or sees the node."""
    return [fault for one in containers(objects) for fault in _unprivileged(one)]


def _unprivileged(one: Container) -> list[str]:
    pod, own = one.workload.pod, one.spec.get("securityContext", {})
    shared = pod.get("securityContext", {})
    return _faults(
        one,
        non_root=shared.get("runAsNonRoot") is True
        and shared.get("runAsUser", 0) >= 10000
        and own.keys().isdisjoint({"runAsUser"}),
        seccomp=shared.get("seccompProfile") == {"type": "RuntimeDefault"} and "seccompProfile" not in own,
        no_escalation=own.get("allowPrivilegeEscalation") is False and not own.get("privileged"),
        read_only_root=own.get("readOnlyRootFilesystem") is True,
        no_capabilities=own.get("capabilities") == {"drop": ["ALL"]},
        no_host=pod.keys().isdisjoint({"hostNetwork", "hostPID", "hostIPC"}),
        no_host_volumes=all(volume.keys() - {"name"} <= VOLUMES for volume in pod.get("volumes", [])),
    )


def tokenless(objects: Sequence[Object]) -> list[str]:
    """Every workload has an account of its own, and no pod gets a token or the addresses of all Services."""
    accounts = {one["metadata"]["name"]: one for one in of_kind(objects, "ServiceAccount")}
    return [fault for one in workloads(objects) for fault in _tokenless(one, accounts)]


def _tokenless(one: Workload, accounts: dict[str, Object]) -> list[str]:
    account = accounts.get(one.pod.get("serviceAccountName", ""), {})
    return _faults(
        one,
        own_account=one.pod.get("serviceAccountName") == one.name,
        account_without_token=account.get("automountServiceAccountToken") is False,
        pod_without_token=one.pod.get("automountServiceAccountToken") is False,
        no_service_links=one.pod.get("enableServiceLinks") is False,
    )


def bounded(objects: Sequence[Object]) -> list[str]:
    """Requests, a memory limit, and a size for every volume in memory or on the node; GPUs are limits alone."""
    faults = [fault for one in containers(objects) for fault in _bounded(one)]
    pods = [
        (one, volume["emptyDir"])
        for one in workloads(objects)
        for volume in one.pod.get("volumes", [])
        if "emptyDir" in volume
    ]
    return faults + [
        fault for one, scratch in pods for fault in _faults(one, scratch_has_a_size="sizeLimit" in scratch)
    ]


def _bounded(one: Container) -> list[str]:
    resources = one.spec.get("resources", {})
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    return _faults(
        one,
        requests={"cpu", "memory"} <= requests.keys(),
        memory_limit="memory" in limits,
        gpu_in_limits_alone="nvidia.com/gpu" not in requests,
        pinned_image=one.image[1] not in ("", "latest") and one.spec.get("imagePullPolicy") == "IfNotPresent",
    )


def probed(objects: Sequence[Object]) -> list[str]:
    """What serves has all three probes, on ports that it has; what runs to an end ends by itself and has none."""
    return [fault for one in containers(objects) if one.workload.serves and not one.init for fault in _probed(one)]


def _probed(one: Container) -> list[str]:
    probes: dict[str, Object] = {
        name: one.spec.get(f"{name}Probe") or {} for name in ("startup", "readiness", "liveness")
    }
    lacking = [f"{one}: no {name} probe" for name, probe in probes.items() if not probe]
    ports = one.ports()
    strangers = [
        f"{one}: {name} probe asks port {port}"
        for name, probe in probes.items()
        for port in _asked(probe)
        if not _has(ports, port)
    ]
    startup = probes["startup"]
    patient = startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3) >= 300
    alike = probes["liveness"].get("httpGet") == probes["readiness"].get("httpGet", "none")
    return lacking + strangers + _faults(one, startup_takes_five_minutes=patient, liveness_is_not_readiness=not alike)


def _asked(probe: Object) -> list[int | str]:
    return [handler["port"] for kind in ("httpGet", "grpc", "tcpSocket") if (handler := probe.get(kind))]


def _has(ports: dict[str, int], port: int | str) -> bool:
    return port in ports or port in ports.values()


def stops_in_time(objects: Sequence[Object]) -> list[str]:
    """Each of our servers leaves its Services before it stops, and has the time to drain that its settings need."""
    serving = [one for one in containers(objects) if one.workload.name in SPREAD and not one.init]
    return [fault for one in serving for fault in _stops_in_time(one, objects)]


def _stops_in_time(one: Container, objects: Sequence[Object]) -> list[str]:
    command = one.spec.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    slept = int(command[1])
    allowed = one.workload.pod.get("terminationGracePeriodSeconds", 30)
    return _faults(one, sleeps_first=slept >= 5, has_time_to_drain=allowed > slept + drain_seconds(one, objects))


def drain_seconds(one: Container, objects: Sequence[Object]) -> float:
    """How long the process may go on after SIGTERM.

    Requests in flight, and for a worker first the jobs in hand.
    """
    settings = settings_of(one, objects)
    assert settings is not None
    grace: float = getattr(settings, "grace_seconds")  # noqa: B009
    return grace if isinstance(settings, HttpSettings) else 2 * grace


def disruptable(objects: Sequence[Object]) -> list[str]:
    """Nodes can be drained, one pod of a kind at a time where another node may take it, and replicas are spread."""
    stuck = [f"drain_ends: not for {pods}" for pods in never_evicted(objects)]
    watched = [one for one in workloads(objects) if one.name in SPREAD | {"redis"}]
    return stuck + [fault for one in watched for fault in _disruptable(one, objects)]


def _disruptable(one: Workload, objects: Sequence[Object]) -> list[str]:
    budgets = of_kind(objects, "PodDisruptionBudget")
    own = [budget["spec"] for budget in budgets if selects(budget["spec"]["selector"], one.labels)]
    spread = one.pod.get("topologySpreadConstraints", [])
    return _faults(
        one,
        one_budget=len(own) == 1,
        one_at_a_time=tied_to_the_node(one, objects) or all(budget.get("maxUnavailable") == 1 for budget in own),
        broken_pods_go=all(budget.get("unhealthyPodEvictionPolicy") == "AlwaysAllow" for budget in own),
        spread=one.name == "redis" or any(selects(constraint["labelSelector"], one.labels) for constraint in spread),
    )


def gpus(objects: Sequence[Object]) -> list[str]:
    """Whatever requests a GPU tolerates its taint, picks its node by GPU labels and has shared memory.

    It is replaced, not doubled.
    """
    asking = [one for one in containers(objects) if "nvidia.com/gpu" in one.spec["resources"]["limits"]]
    return [fault for one in asking for fault in _gpu(one)]


def _gpu(one: Container) -> list[str]:
    pod = one.workload.pod
    memory = {volume["name"] for volume in pod["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"}
    terms = pod.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    keys = [expression["key"] for term in terms.get("nodeSelectorTerms", []) for expression in term["matchExpressions"]]
    surge = one.workload.spec.get("strategy", {}).get("rollingUpdate", {}).get("maxSurge")
    return _faults(
        one,
        tolerates=any(toleration["key"] == "nvidia.com/gpu" for toleration in pod.get("tolerations", [])),
        chooses_node=bool(keys) and all(key.startswith("nvidia.com/gpu.") for key in keys),
        shared_memory=any(
            mount["mountPath"] == "/dev/shm" and mount["name"] in memory for mount in one.spec["volumeMounts"]
        ),
        no_second_gpu=not one.workload.serves or surge == 0,
    )
