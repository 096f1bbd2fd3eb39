"""A Compose project of its own name on a real engine.

Commands by the docker CLI, everything looked at by the docker SDK.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import docker
from docker.models.containers import Container

from tests.support.paths import ROOT
from varl.launch.ports import reserve_port

T = TypeVar("T")


def engine() -> docker.DockerClient | str:
    """A client of the engine that DOCKER_HOST or the default socket names, or why there is none with Compose."""
    try:
        client = docker.from_env(timeout=60)
        client.ping()
    except docker.errors.DockerException as error:
        return f"no Docker engine answers: {error}"
    plugin = subprocess.run(["docker", "compose", "version", "--short"], capture_output=True, text=True, check=False)
    return client if plugin.returncode == 0 else "the docker command has no Compose"


@dataclass
class Project:
    """One Compose project; ``settings`` are the variables of docker-compose.yml."""

    client: docker.DockerClient
    name: str
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ports = ("GATEWAY_PORT", "OCR_GRPC_PORT", "HPSV3_GRPC_PORT", "TENSORBOARD_PORT")
        self.settings = {port: str(reserve_port()) for port in ports} | self.settings
        if self.client.images.list("local/wheels"):
            self.settings.setdefault("WHEELS", "local/wheels")

    def compose(self, *arguments: str, timeout_s: float = 1500) -> str:
        """Output of docker compose with these arguments; raises AssertionError with it where it fails."""
        command = ["docker", "compose", "-p", self.name, "--progress", "plain", *arguments]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **self.settings},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def labels(self) -> dict[str, str | list[str] | bool]:
        """Filter for what belongs to the project."""
        return {"label": f"com.docker.compose.project={self.name}"}

    def containers(self, service: str | None = None) -> list[Container]:
        found: list[Container] = self.client.containers.list(all=True, filters=self.labels())
        return [one for one in found if service in (None, one.labels["com.docker.compose.service"])]

    def container(self, service: str) -> Container:
        (one,) = self.containers(service)
        return one

    def state(self, service: str) -> Mapping[str, object]:
        state: Mapping[str, object] = self.container(service).attrs["State"]
        return state

    def healthy(self, service: str) -> bool:
        states = [one.attrs["State"] for one in self.containers(service)]
        return bool(states) and all(state.get("Health", {}).get("Status") == "healthy" for state in states)

    def crash(self, container: Container) -> None:
        """SIGKILL for what runs under the container's init, as the kernel does it when memory is short.

        Restart policies apply.
        """
        code, output = run_in(container, "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")
        assert code in (0, 137), output  # 137: the exec itself goes down with the container

    def read(self, service: str, path: str) -> bytes:
        """A file out of a container, running or not."""
        chunks, _ = self.container(service).get_archive(path)
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            member = archive.extractfile(archive.getmembers()[0])
            assert member is not None
            return member.read()

    def logs(self, service: str) -> str:
        return "\n".join(one.logs().decode(errors="replace") for one in self.containers(service))


def run_in(container: Container, *command: str) -> tuple[int, str]:
    """Exit status and output of a command in a running container."""
    result = container.exec_run(list(command))
    assert isinstance(result.output, bytes)
    assert result.exit_code is not None
    return result.exit_code, result.output.decode()


def wait_for(what: str, found: Callable[[], T | None], timeout_s: float, explain: Callable[[], str] = str) -> T:
    """The first true answer of ``found``, asked once a second."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(1)
    raise AssertionError(f"{what} did not come about within {timeout_s:g} s\n{explain()[-4000:]}")
