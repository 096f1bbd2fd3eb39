"""A node drain on rendered manifests: which pods `kubectl drain` could never evict.

All pods of the run are on one node, which takes no new pods. A pod that is evicted comes back elsewhere, unless it is
tied to the pods or the volume of that node: then it stays Pending until the drain is over, and counts as unavailable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.support.k8s_rig import Object, Workload, find, of_kind, selects, workloads

PODS = 3  # of whatever may be scaled


def never_evicted(objects: Sequence[Object]) -> list[str]:
    """Names of the workloads of which a drain leaves pods on the node, each with the number that stays."""
    left = {str(one): _left(one, objects) for one in workloads(objects)}
    return [f"{name}: {count} pods" for name, count in left.items() if count]


def tied_to_the_node(one: Workload, objects: Sequence[Object]) -> bool:
    """Whether its pods have to be where others are, or where a volume is that one node alone can mount."""
    terms = one.pod.get("affinity", {}).get("podAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", [])
    beside = any(term["topologyKey"] == "kubernetes.io/hostname" for term in terms)
    claims = [volume.get("persistentVolumeClaim", {}).get("claimName") for volume in one.pod.get("volumes", [])]
    modes = [
        find(objects, "PersistentVolumeClaim", claim)["spec"]["accessModes"] for claim in claims if claim is not None
    ]
    own = [claim["spec"]["accessModes"] for claim in one.spec.get("volumeClaimTemplates", [])]
    return beside or any(mode[:1] == ["ReadWriteOnce"] for mode in [*modes, *own])


def _left(one: Workload, objects: Sequence[Object]) -> int:
    pods = 1 if one.kind in ("StatefulSet", "Job", "JobSet") else max(one.spec.get("replicas", PODS), PODS)
    budgets = [
        budget["spec"]
        for budget in of_kind(objects, "PodDisruptionBudget")
        if selects(budget["spec"]["selector"], one.labels)
    ]
    tied, gone = tied_to_the_node(one, objects), 0
    while gone < pods and all(_allows(budget, pods, unavailable=gone if tied else 0) for budget in budgets):
        gone += 1
    return pods - gone


def _allows(budget: Object, pods: int, unavailable: int) -> bool:
    """Whether the budget lets one more pod be evicted."""
    if "maxUnavailable" in budget:
        return unavailable < _count(budget["maxUnavailable"], pods)
    return pods - unavailable > _count(budget["minAvailable"], pods)


def _count(value: int | str, pods: int) -> int:
    return value if isinstance(value, int) else math.ceil(int(value.removesuffix("%")) / 100 * pods)
