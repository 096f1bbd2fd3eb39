"""The settings that a container's process would start with.

The manifests' variables and arguments are read through the real classes.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from unittest import mock

from pydantic import BaseModel
from pydantic_settings import BaseSettings, CliApp

from tests.support.k8s_rig import Container, Object
from varl.services.gateway.settings import GatewaySettings
from varl.services.hpsv3.settings import HPSv3Settings
from varl.services.ocr.settings import OCRSettings
from varl.services.rollout.settings import RolloutServiceSettings
from varl.studies.demo_settings import DemoSettings
from varl.trainer.recipe.config import Command

SETTINGS: Mapping[str, tuple[type[BaseSettings], ...]] = {
    "varl.services.ocr": (OCRSettings,),
    "varl.services.hpsv3": (HPSv3Settings,),
    "varl.services.gateway": (GatewaySettings,),
    "varl.services.rollout": (RolloutServiceSettings,),
    "varl.studies.demo": (DemoSettings, Command),
}
OTHERS = {
    "REDIS_URL",
    "RUN_ID",
    "HF_HUB_OFFLINE",
    "HF_HOME",
}  # read by varl.launch.private_redis, by an argument, by huggingface_hub


def module_of(one: Container, objects: Sequence[Object]) -> str | None:
    """The module of a container that runs "python -m MODULE", else None.

    Raises AssertionError where there is no such module.
    """
    command = one.command(objects)
    if command[:2] != ["python", "-m"] or one.image[0] == "varl-tensorboard":
        return None
    assert importlib.util.find_spec(command[2]), f"{one}: no module {command[2]}"
    return command[2]


def settings_of(one: Container, objects: Sequence[Object]) -> BaseSettings | None:
    """The settings of a container's process, None for one that has none.

    Raises as the process itself would refuse them.
    """
    module = module_of(one, objects)
    if module is None:
        return None
    with environment_of(one, objects):
        return CliApp.run(SETTINGS[module][0], cli_args=one.command(objects)[3:])


@contextmanager
def environment_of(one: Container, objects: Sequence[Object]) -> Iterator[None]:
    """The container's variables in place of those of this process."""
    with mock.patch.dict(os.environ, one.environment(objects), clear=True):
        yield


def unknown_variables(one: Container, objects: Sequence[Object]) -> set[str]:
    """Variables that nothing in the container reads."""
    module = module_of(one, objects)
    known = {
        name
        for cls in SETTINGS.get(module or "", ())
        for name in variables(cls, str(cls.model_config.get("env_prefix", "")))
    }
    return one.environment(objects).keys() - known - OTHERS


def variables(cls: type[BaseModel], prefix: str) -> Iterator[str]:
    """Names of the variables that set a model's fields, those of its tables included."""
    for name, field in cls.model_fields.items():
        yield f"{prefix}{name.upper()}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from variables(field.annotation, f"{prefix}{name.upper()}__")
