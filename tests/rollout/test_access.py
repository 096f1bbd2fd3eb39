"""A worker whose gRPC port wants a token and a client's certificate, and a Redis that wants a password."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.certificates import self_signed
from tests.support.rollout_helpers import rollout_process, running_reward, start_rollout
from varl.launch.private_redis import private_redis
from varl.services.rollout.settings import RolloutServiceSettings
from varl.v1 import rollout_pb2, rollout_pb2_grpc

REQUEST = rollout_pb2.GenerateRequest(prompt="a sign", count=1)


def test_the_port_is_closed_to_strangers(redis_server: str, run_id: str, model_dir: Path, tmp_path: Path) -> None:
    key, cert = self_signed()
    for name, content in {"key": key, "cert": cert, "tokens": b"sesame\n"}.items():
        (tmp_path / name).write_bytes(content)
    flags = {
        "--tls-cert-file": "cert",
        "--tls-key-file": "key",
        "--tls-client-ca-file": "cert",
        "--token-file": "tokens",
    }
    given = [part for flag, name in flags.items() for part in (flag, str(tmp_path / name))]
    with (
        running_reward() as reward,
        rollout_process(redis_server, run_id, model_dir, {"bright": reward.target}, *given) as worker,
    ):
        target = f"localhost:{worker.ports['grpc_port']}"
        with grpc.secure_channel(target, grpc.ssl_channel_credentials(cert, key, cert)) as channel:
            stub = rollout_pb2_grpc.RolloutServiceStub(channel)
            assert stub.Generate(REQUEST, metadata=(("authorization", "Bearer sesame"),), timeout=60).images
            with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                stub.Generate(REQUEST, timeout=60)
            assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60).status == 1
        with (
            grpc.secure_channel(target, grpc.ssl_channel_credentials(cert)) as channel,
            pytest.raises(grpc.RpcError, match="UNAVAILABLE"),
        ):
            rollout_pb2_grpc.RolloutServiceStub(channel).Generate(REQUEST, timeout=60)


def test_a_wrong_password_ends_the_worker_at_once(
    run_id: str, model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong").write_text("open sesame")
    with private_redis(tmp_path / "redis") as url, running_reward() as reward:
        redis.Redis.from_url(url).config_set("requirepass", "sesame")
        process = start_rollout(
            url, run_id, model_dir, {"bright": reward.target}, "--redis-password-file", str(tmp_path / "wrong")
        )
        process.communicate(timeout=120)
    assert process.returncode == 1
    assert "AuthenticationError" in capfd.readouterr().err


def test_contradictions_are_named_before_anything_starts() -> None:
    given = {"redis_url": "redis://x", "run_id": "r", "model_dir": "m", "reward": {"ocr": "x:1"}}
    for wrong in (
        {"redis_ca_file": "ca"},
        {"reward_cert_file": "c", "reward_key_file": "k"},
        {"tls_client_ca_file": "ca"},
        {"run_id": ""},
        {"redis_url": "", "reward": {}},
    ):
        with pytest.raises(ValueError, match=r"file|authority|go together"):
            RolloutServiceSettings(**{**given, **wrong})  # type: ignore[arg-type]  # as pydantic reads them
