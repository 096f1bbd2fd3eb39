"""Tokens and TLS of a real service process, on both protocols."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from clients.varl_client import RejectedError, UnavailableError
from clients.varl_client import RewardClient as HttpClient
from tests.support.certificates import self_signed
from tests.support.compat_rig import grey
from tests.support.ocr_builders import grpc_sample, json_sample
from tests.support.toy_process import ToyProcess, start_toy, toy_service
from varl.services.serving.access import Tokens
from varl.services.serving.credentials import ClientFiles, Credentials
from varl.services.serving.grpc.client import RewardClient, RewardRejected, RewardUnavailable
from varl.services.serving.settings import ServingSettings, parse_settings
from varl.v1 import reward_pb2, reward_pb2_grpc

BODY = {"samples": [json_sample("a", "x", grey(51))]}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyProcess]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text("# the trainer\nfirst-token\n\n  second-token  \n")
    with toy_service("--token-file", str(tokens), "--reflection") as service:
        yield service


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("token", ["first-token", "second-token"])
def test_a_good_token_opens_both_faces(guarded: ToyProcess, token: str) -> None:
    answer = httpx.post(f"{guarded.http}/v1/score", json=BODY, headers=bearer(token))
    assert answer.json()["results"][0]["value"] == pytest.approx(0.2)
    with grpc.insecure_channel(guarded.grpc) as channel:
        request = reward_pb2.ScoreRequest(samples=[grpc_sample("a", "x", grey(51))])
        metadata = (("authorization", f"Bearer {token}"),)
        assert reward_pb2_grpc.RewardServiceStub(channel).Score(request, metadata=metadata).results[
            0
        ].score.value == pytest.approx(0.2)


HEADERS = [
    {},
    {"Authorization": "Bearer"},
    bearer("first-toke"),
    bearer("first-token2"),
    {"Authorization": "first-token"},
    {"Authorization": "Basic first-token"},
]


@pytest.mark.parametrize("headers", HEADERS, ids=str)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/score"),
        ("GET", "/v1/info"),
        ("GET", "/docs"),
        ("GET", "/docs/assets/swagger-ui-bundle.js"),
        ("GET", "/openapi.json"),
        ("GET", "/compat/unirl/health"),
        ("GET", "/no"),
    ],
)
def test_without_a_good_token_every_route_is_closed(
    guarded: ToyProcess, headers: dict[str, str], method: str, path: str
) -> None:
    answer = httpx.request(method, f"{guarded.http}{path}", headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["code"], answer.json()["retryable"]) == ("unauthenticated", False)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_probes_and_metrics_are_open(guarded: ToyProcess, path: str) -> None:
    assert httpx.get(f"{guarded.http}{path}").status_code == 200


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),)])
def test_without_a_good_token_every_method_is_closed_but_health(
    guarded: ToyProcess, metadata: tuple[tuple[str, str], ...]
) -> None:
    with grpc.insecure_channel(guarded.grpc) as channel:
        stub: Any = reward_pb2_grpc.RewardServiceStub(channel)
        for method, request in ((stub.Score, reward_pb2.ScoreRequest()), (stub.GetInfo, reward_pb2.GetInfoRequest())):
            with pytest.raises(grpc.RpcError) as refusal:
                method(request, metadata=metadata)
            assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
        unknown = channel.unary_unary(
            "/varl.v1.RewardService/NoSuch", request_serializer=bytes, response_deserializer=bytes
        )
        with pytest.raises(grpc.RpcError) as refusal:
            unknown(b"", metadata=metadata)
        assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
        status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status
        assert status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_is_closed_as_well(guarded: ToyProcess) -> None:
    def services(metadata: tuple[tuple[str, str], ...]) -> list[str]:
        with grpc.insecure_channel(guarded.grpc) as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            (answer,) = stub.ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")]), metadata=metadata
            )
            return [service.name for service in answer.list_services_response.service]

    assert "varl.v1.RewardService" in services((("authorization", "Bearer first-token"),))
    with pytest.raises(grpc.RpcError) as refusal:
        services(())
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_refusals_are_counted(guarded: ToyProcess) -> None:
    httpx.get(f"{guarded.http}/v1/info")
    text = httpx.get(f"{guarded.http}/metrics").text
    line = next(
        line
        for line in text.splitlines()
        if line.startswith("varl_requests_total{") and 'outcome="unauthenticated"' in line
    )
    assert float(line.rsplit(" ", 1)[1]) >= 1


async def test_the_clients_send_their_token(guarded: ToyProcess) -> None:
    async with RewardClient(guarded.grpc, 60, credentials=Credentials("second-token")) as client:
        assert (await client.info()).reward == "toy"
    async with RewardClient(guarded.grpc, 60, credentials=Credentials("wrong")) as client:
        with pytest.raises(RewardRejected, match="UNAUTHENTICATED"):
            await client.info()
    with HttpClient(guarded.http, token="first-token") as http:
        assert http.score([grey(51)], ["x"])["toy"].require() == [pytest.approx(0.2)]
    with HttpClient(guarded.http) as http, pytest.raises(RejectedError, match="unauthenticated"):
        http.info()


async def test_tls_on_both_faces(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    for file, content in zip((key, cert), self_signed(), strict=True):
        file.write_bytes(content)
    with toy_service("--tls-cert-file", str(cert), "--tls-key-file", str(key)) as service:
        with HttpClient(f"https://127.0.0.1:{service.http_port}", ca_file=cert) as http:
            assert http.score([grey(51)], ["x"])["toy"].require() == [pytest.approx(0.2)]
        async with RewardClient(service.grpc, 60, credentials=Credentials(ca=cert.read_bytes())) as client:
            assert (await client.score([grpc_sample("a", "x", grey(51))])).results[0].score.value == pytest.approx(0.2)
        with HttpClient(service.http, attempts=1) as http, pytest.raises(UnavailableError):
            http.info()


async def test_mutual_tls_lets_known_clients_in_alone(tmp_path: Path) -> None:
    key, cert = self_signed()
    files = {name: tmp_path / name for name in ("key.pem", "cert.pem")}
    for name, content in zip(files, (key, cert), strict=True):
        files[name].write_bytes(content)
    flags = ["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-client-ca-file", "cert.pem"]
    with toy_service(*(str(files.get(flag, flag)) for flag in flags)) as service:
        async with RewardClient(service.grpc, 60, credentials=Credentials(ca=cert, pair=(key, cert))) as client:
            assert (await client.info()).reward == "toy"
        async with RewardClient(service.grpc, 3, credentials=Credentials(ca=cert), patient=False) as client:
            with pytest.raises(RewardUnavailable):
                await client.info()


def test_contradictions_of_certificates_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_settings(ServingSettings, ["--tls-client-ca-file", "ca.pem"])
    assert "tls_client_ca_file" in capsys.readouterr().err
    with pytest.raises(ValueError, match="authority"):
        ClientFiles(cert=Path("cert.pem"), key=Path("key.pem"))
    with pytest.raises(ValueError, match="go together"):
        ClientFiles(ca=Path("ca.pem"), key=Path("key.pem"))


def test_a_certificate_without_its_key_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_settings(ServingSettings, ["--tls-cert-file", "cert.pem"])
    assert "tls_key_file" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "two words\n"])
def test_a_token_file_without_usable_tokens_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(ValueError, match="token"):
        Tokens.read(path)


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "tokens"
    process = start_toy("--http-port", "0", "--grpc-port", "0", "--token-file", str(missing))
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "token_file" in told and str(missing) in told
    assert "listen" not in told
