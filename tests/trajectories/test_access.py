"""Passwords and TLS against a real Redis; TLS ends in a proxy of ours, since not every build of Redis speaks it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.certificates import self_signed
from varl.launch.private_redis import private_redis
from varl.trajectories.access import RedisAccess


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis that wants a password, with a user of its own for workers."""
    with private_redis(tmp_path_factory.mktemp("guarded")) as url:
        client = redis.Redis.from_url(url)
        client.acl_setuser("worker", enabled=True, passwords=["+worker's"], keys=["*"], categories=["+@all"])
        client.config_set("requirepass", "sesame")
        yield url


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("sesame\n")
    return path


def test_the_password_comes_from_its_file(guarded: str, password: Path) -> None:
    assert RedisAccess(guarded, password).connect().ping()
    with pytest.raises(redis.exceptions.AuthenticationError):
        RedisAccess(guarded).connect().ping()


def test_a_user_of_the_acl_is_named_in_the_url(guarded: str, tmp_path: Path) -> None:
    path = tmp_path / "workers"
    path.write_text("worker's")
    client = RedisAccess(guarded.replace("unix://", "unix://worker@"), path).connect()
    assert client.acl_whoami() in ("worker", b"worker")


def test_an_empty_password_file_is_an_error(guarded: str, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    with pytest.raises(ValueError, match="empty is empty"):
        RedisAccess(guarded, path).connect()


def test_a_changed_password_is_read_again_and_waited_for(tmp_path: Path) -> None:
    """The server has the new one first, as where a secret reaches a mounted file a minute later."""
    password, eternity = tmp_path / "password", 1e9
    password.write_text("old")
    with private_redis(tmp_path / "redis") as url:
        admin = redis.Redis.from_url(url)
        admin.config_set("requirepass", "old")
        patient = RedisAccess(url, password).connect(patience_s=eternity, let_in=True)
        hasty = RedisAccess(url, password).connect()
        assert patient.ping() and hasty.ping()
        admin.config_set("requirepass", "new")
        admin.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(redis.exceptions.AuthenticationError):
            hasty.ping()
        threading.Timer(0.3, lambda: password.write_text("new")).start()
        assert patient.ping() and hasty.ping()


def test_a_password_file_that_is_gone_is_no_traceback_of_the_disk(guarded: str, password: Path) -> None:
    client = RedisAccess(guarded, password).connect()
    password.unlink()
    with pytest.raises(redis.exceptions.AuthenticationError, match="redis_password_file"):
        client.ping()
    with pytest.raises(OSError, match="password"):
        RedisAccess(guarded, password).connect()


def test_certificates_need_a_tls_url_and_come_in_pairs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rediss://"):
        RedisAccess("redis://localhost", ca_file=tmp_path / "ca.pem")
    with pytest.raises(ValueError, match="go together"):
        RedisAccess("rediss://localhost", cert_file=tmp_path / "cert.pem")


def test_tls_with_certificates_on_both_sides(guarded: str, password: Path, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    for path, content in zip((key, certificate), self_signed(), strict=True):
        path.write_bytes(content)
    with tls_in_front(guarded.removeprefix("unix://"), key, certificate) as port:
        url = f"rediss://localhost:{port}"
        assert RedisAccess(url, password, ca_file=certificate, cert_file=certificate, key_file=key).connect().ping()
        with pytest.raises(redis.exceptions.ConnectionError):  # no certificate of its own
            RedisAccess(url, password, ca_file=certificate).connect().ping()
        with pytest.raises(redis.exceptions.ConnectionError):  # no trust in the server's
            RedisAccess(url, password).connect().ping()


@contextlib.contextmanager
def tls_in_front(path: str, key: Path, certificate: Path) -> Iterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate))
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener, context, path), daemon=True).start()
        yield listener.getsockname()[1]


def accept(listener: socket.socket, context: ssl.SSLContext, path: str) -> None:
    with contextlib.suppress(OSError):  # the listener is closed
        while True:
            plain, _ = listener.accept()
            with contextlib.suppress(OSError):  # a handshake that was refused; ssl.SSLError is one of them
                outer = context.wrap_socket(plain, server_side=True)
                inner = socket.socket(socket.AF_UNIX)
                inner.connect(path)
                for source, sink in ((outer, inner), (inner, outer)):
                    threading.Thread(target=pump, args=(source, sink), daemon=True).start()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    sink.close()
