"""Strict validation of rendered objects.

An unknown field is a fault, and so is a kind that nobody here has a schema for.
Kinds of Kubernetes by the schemas of its releases (kubernetes-validate), others by the models that their projects'
client libraries have.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import cloudcoil.models.keda.v1alpha1 as keda
import jsonschema_rs
import kubernetes_validate
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet
from pydantic import BaseModel

from tests.support.k8s_rig import Object

# What the generated models call an object although its JSON is a plain value.
PLAIN: Mapping[str, Object] = {
    "IoK8sApimachineryPkgApiResourceQuantity": {"type": ["string", "number"]},
    "IoK8sApimachineryPkgUtilIntstrIntOrString": {"type": ["string", "integer"]},
}
VERSIONS = ("1.29", "1.37")  # the oldest that the manifests are for, and the newest there was
CUSTOM: Mapping[tuple[str, str], type[BaseModel]] = {
    ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject,
    ("keda.sh/v1alpha1", "TriggerAuthentication"): keda.TriggerAuthentication,
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): JobsetV1alpha2JobSet,
}


def schema_fault(one: Object, version: str) -> str | None:
    """What is wrong with an object for a release of Kubernetes, or None."""
    kind = (str(one["apiVersion"]), str(one["kind"]))
    if kind in CUSTOM:
        error = next(iter(_validator(CUSTOM[kind]).iter_errors(one)), None)
        return str(error) if error else None
    try:
        kubernetes_validate.validate(one, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        return f"no schema for {kind}"
    return None


@cache
def _validator(model: type[BaseModel]) -> jsonschema_rs.Validator:
    schema = _closed(model.model_json_schema(by_alias=True))
    plain = {name: value for name, value in PLAIN.items() if name in schema["$defs"]}
    return jsonschema_rs.validator_for(schema | {"$defs": schema["$defs"] | plain})


def _closed(schema: Any) -> Any:  # noqa: ANN401
    """The schema with every object closed to properties that it does not name."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    return (
        closed | {"additionalProperties": False}
        if isinstance(schema.get("properties"), dict) and "type" in schema
        else closed
    )
