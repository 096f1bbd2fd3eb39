from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from tests.support.k8s_rig import FOLDERS, K8S, Object, find, kubectl, of_kind, render
from tests.support.k8s_schemas import VERSIONS, schema_fault


def _identity(one: Object) -> tuple[str, str]:
    return one["kind"], one["metadata"]["name"]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_to_the_letter(folder: str, version: str) -> None:
    faults = {_identity(one): fault for one in render(folder) if (fault := schema_fault(one, version))}
    assert not faults


def test_apply_takes_what_the_base_renders() -> None:
    # It reads a folder as "apply -f" does: files of this level alone, by their endings, links followed.
    printed = kubectl("annotate", "--local", "--recursive=false", "--filename", "k8s", "door=apply", "--output", "yaml")
    applied = list(yaml.safe_load_all(printed))
    for one in applied:
        del one["metadata"]["annotations"]
    assert sorted(applied, key=_identity) == sorted(render("base"), key=_identity)
    assert _identity(applied[0]) == ("Namespace", "varl"), "the namespace has to be there before what is in it"


def test_the_door_has_core_kinds_alone() -> None:
    own = {"v1", "apps/v1", "batch/v1", "policy/v1", "networking.k8s.io/v1"}
    assert {one["apiVersion"] for one in render("base")} == own


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_object_is_left_out_of_the_namespace_or_named_twice(folder: str) -> None:
    objects = render(folder)
    assert {one["metadata"].get("namespace") for one in objects if one["kind"] != "Namespace"} == {"varl"}
    assert len({_identity(one) for one in objects}) == len(objects)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_password_is_among_the_manifests(folder: str) -> None:
    assert not of_kind(render(folder), "Secret")
    template = yaml.safe_load((K8S / "templates" / "secret.yaml").read_text())
    assert not any(template["stringData"].values())
    assert all(schema_fault(template, version) is None for version in VERSIONS)


def _unknown_field(objects: list[Object]) -> Object:
    one = find(objects, "Deployment", "ocr")
    one["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    return one


def _wrong_type(objects: list[Object]) -> Object:
    one = find(objects, "Service", "gateway")
    one["spec"]["ports"][0]["port"] = "http"
    return one


def _unknown_kind(objects: list[Object]) -> Object:
    return {**find(objects, "ConfigMap", "varl"), "apiVersion": "example.test/v1", "kind": "Widget"}


@pytest.mark.parametrize("broken", [_unknown_field, _wrong_type, _unknown_kind])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_fault_is_found(broken: Callable[[list[Object]], Object], version: str) -> None:
    assert schema_fault(broken(render("base")), version)


@pytest.mark.parametrize(
    ("folder", "kind", "name", "field"),
    [
        ("overlays/kueue", "JobSet", "trainer", "network"),
        ("overlays/autoscale", "ScaledObject", "rollout", "scaleTargetRef"),
    ],
)
def test_a_fault_in_a_custom_kind_is_found(folder: str, kind: str, name: str, field: str) -> None:
    one = find(render(folder), kind, name)
    one["spec"][field]["surplus"] = "x"
    assert schema_fault(one, VERSIONS[0])
