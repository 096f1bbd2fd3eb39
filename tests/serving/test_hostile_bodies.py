"""Bodies that are made to cost, what is told back of them, and the forms in which images come."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator
from textwrap import fill
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.compat_rig import ToyScorer, base64_of, grey
from varl.services.serving.http.app import build_app
from varl.services.serving.http.forms import boundary_of, parts_of
from varl.services.serving.image_text import image_file
from varl.services.serving.scoring import SampleError
from varl.services.serving.service import ScoringService
from varl.services.serving.settings import ServingSettings

JSON = {"content-type": "application/json"}
IMAGE = base64_of(grey(255))


def sample(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"id": "a", "prompt": "p", "image": IMAGE, **changes}


Form = dict[str, tuple[str | None, bytes | str]]  # as httpx takes it


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    service = ScoringService(
        ServingSettings.model_validate({"max_samples": 64, "compat_pickle": True}), ToyScorer("toy")
    )
    await service.start()
    transport = httpx.ASGITransport(build_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x", timeout=240) as client:
        yield client
    await service.close()


MANY = {
    "empty samples": b'{"samples":[' + b"{}," * 100_000 + b"{}]}",
    "a few more samples than are taken": b'{"samples":[' + b"{}," * 5000 + b"{}]}",
    "as many bad ones as fit": b'{"samples":[' + b"{}," * 2000 + b"{}]}",
    "unknown keys": b'{"samples":[],' + b",".join(b'"k%d":0' % n for n in range(100_000)) + b"}",
    "unknown keys of a sample": b'{"samples":[{' + b",".join(b'"k%d":0' % n for n in range(20_000)) + b"}]}",
    "bad target words": b'{"samples":[{"target_words":[' + b"0," * 60_000 + b"0]}]}",
    "brackets": b'{"samples":[' + b"[]," * 5_000_000 + b"[]]}",
    "a long key": b'{"' + b"k" * 10**6 + b'":0}',
    "a long text": b'{"samples":"' + b"k" * 10**6 + b'"}',
    "a long number": b'{"samples":' + b"9" * 10**6 + b"}",
    "a long id": json.dumps({"samples": [sample(id="i" * 10**6)]}).encode(),
    "a long formula": json.dumps({"samples": [sample()], "formula": "f" * 10**6}).encode(),
    "the same id": json.dumps({"samples": [sample(id="i" * 256)] * 2}).encode(),
}


@pytest.mark.parametrize("body", MANY.values(), ids=MANY)
@pytest.mark.asyncio(loop_scope="module")
async def test_the_answer_to_many_faults_is_short(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/v1/score", content=body, headers=JSON)
    problem = answer.json()
    assert answer.status_code in (400, 422)
    assert (problem["code"], problem["retryable"]) in (("invalid_request", False), ("malformed", False))
    assert len(problem["errors"]) <= 20
    assert len(answer.content) < 10_000
    assert "k" * 210 not in answer.text


PEERS = {
    "unirl/score": {"requests": [{}] * 100_000},
    "flow_factory/compute": {"prompt": [0] * 100_000, "image": [0] * 100_000},
    "openrlhf/get_reward": {"query": [0] * 100_000, "prompts": []},
    "slime/score": {f"key{n}": 0 for n in range(100_000)},
}


@pytest.mark.parametrize("path", PEERS)
@pytest.mark.asyncio(loop_scope="module")
async def test_trainers_formats_count_too(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.post(f"/compat/{path}", json=PEERS[path])
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) <= 20
    assert len(answer.content) < 10_000


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", ["/v1/score", "/compat/openrlhf/get_reward", "/compat/flow_grpo/deqa"])
async def test_a_compressed_body_is_refused_as_that(http: httpx.AsyncClient, path: str) -> None:
    content = gzip.compress(json.dumps({"samples": [sample()]}).encode())
    answer = await http.post(path, content=content, headers=JSON | {"content-encoding": "gzip"})
    assert answer.status_code == 415
    assert "content-encoding: 'gzip'" in answer.text


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
@pytest.mark.parametrize("path", PEERS)
@pytest.mark.asyncio(loop_scope="module")
async def test_json_that_does_not_say_so_is_refused(http: httpx.AsyncClient, path: str, content_type: str) -> None:
    answer = await http.post(f"/compat/{path}", content=b"{}", headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_type")


@pytest.mark.parametrize("count", [65, 300_000])
@pytest.mark.asyncio(loop_scope="module")
async def test_an_enqueued_array_is_counted(http: httpx.AsyncClient, count: int) -> None:
    head = json.dumps({"media_type": "image", "prompts": ["p"] * count, "reward_fn": {"toy": 1.0}}).encode()
    answer = await http.post("/compat/cosmos_rl/api/reward/enqueue", content=head + b"\n\x93NUMPY")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert len(answer.content) < 2000


@pytest.mark.asyncio(loop_scope="module")
async def test_a_shape_with_a_boolean_is_refused(http: httpx.AsyncClient) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (True, 8, 8, 3), }\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(192)
    head = b'{"media_type": "image", "prompts": ["p"], "reward_fn": {"toy": 1.0}}\n'
    answer = await http.post("/compat/cosmos_rl/api/reward/enqueue", content=head + array)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("length", ["0" * 5000, "0" * 4999 + "2", "9" * 5000, "1" + "0" * 20])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_length_of_any_length_is_read(http: httpx.AsyncClient, length: str) -> None:
    answer = await http.post("/v1/score", content=b"{}", headers={**JSON, "content-length": length})
    assert answer.status_code == (413 if length.startswith(("9", "1")) else 422)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_long_form_is_not_unquoted(http: httpx.AsyncClient) -> None:
    answer = await http.post("/compat/cosmos_rl/api/reward/pull", content=b"uuid=" + b"%41" * 10**6)
    assert answer.status_code == 413
    answer = await http.post("/compat/cosmos_rl/api/reward/pull", data={"uuid": "u" * 10_000})
    assert answer.status_code == 404
    assert len(answer.content) < 300


GETS = ["/livez", "/readyz", "/metrics", "/v1/info", "/docs", "/openapi.json", "/docs/assets/swagger-ui.css"]


@pytest.mark.parametrize("path", [*GETS, "/compat/unirl/health", "/compat/flow_factory/health"])
@pytest.mark.asyncio(loop_scope="module")
async def test_head_is_get_without_a_body(http: httpx.AsyncClient, path: str) -> None:
    head, get = await http.head(path), await http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) > 0


@pytest.mark.asyncio(loop_scope="module")
async def test_head_of_what_is_only_posted_is_refused(http: httpx.AsyncClient) -> None:
    assert (await http.head("/v1/score")).status_code == 405
    assert (await http.head("/no")).status_code == 404


CROSS = [
    ({"sec-fetch-site": "cross-site"}, True),
    ({"sec-fetch-site": "same-origin", "origin": "http://elsewhere"}, False),
    ({"sec-fetch-site": "none"}, False),
    ({"origin": "http://elsewhere"}, True),
    ({"origin": "null"}, True),
    ({"origin": "http://x"}, False),
    ({}, False),
]


@pytest.mark.parametrize(("headers", "refused"), CROSS)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_page_of_another_site_may_not_post(
    http: httpx.AsyncClient, headers: dict[str, str], refused: bool
) -> None:
    form: Form = {"request": (None, json.dumps({"samples": [{"id": "a", "prompt": "p"}]})), "a": ("a", grey(255))}
    answer = await http.post("/v1/score", files=form, headers=headers)
    assert answer.status_code == (403 if refused else 200)
    assert not refused or answer.json()["code"] == "cross_site"
    assert (await http.get("/livez", headers=headers)).status_code == 200


FORMS = {
    "as it is": IMAGE,
    "data URL": f"data:image/png;base64,{IMAGE}",
    "data URL in capitals": f"DATA:image/png;charset=x;BASE64,{IMAGE}",
    "wrapped": fill(IMAGE, 20),
    "wrapped as mail is": "\r\n".join(fill(IMAGE, 76).split("\n")),
    "URL-safe": urlsafe_b64encode(grey(255)).decode(),
    "without padding": IMAGE.rstrip("="),
    "URL-safe, wrapped, without padding": fill(urlsafe_b64encode(grey(255)).decode().rstrip("="), 30),
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
@pytest.mark.asyncio(loop_scope="module")
async def test_forms_of_base64(http: httpx.AsyncClient, text: str) -> None:
    answer = await http.post("/v1/score", json={"samples": [sample(image=text)]})
    assert answer.json()["results"][0]["value"] == 1.0


@pytest.mark.parametrize("data", [b"", b"\xfb\xff", b"\xfb\xef\xff", bytes(range(256))])
def test_both_alphabets_are_read(data: bytes) -> None:
    for encoded in (b64encode(data).decode(), urlsafe_b64encode(data).decode()):
        assert image_file(encoded, "image") == image_file(encoded.rstrip("="), "image") == data


@pytest.mark.parametrize("text", ["data:image/png,abc", "!", "http://x/y.png", "ü", "A", "A" * 10**6 + "!"])
def test_what_is_no_base64_is_named(text: str) -> None:
    error = image_file(text, "samples[0].image")
    assert isinstance(error, SampleError)
    assert error.detail.startswith("samples[0].image: ")
    assert len(error.detail) < 200


FORM = b'--b\r\ncontent-disposition: form-data; name="request"\r\n\r\n{}\r\n'


@pytest.mark.parametrize(
    "body",
    [
        FORM + b"--b--",
        FORM + b"--b--\r\n",
        b"preamble\r\n" + FORM + b"--b--epilogue",
        FORM.replace(b"b\r", b"b \t\r", 1) + b"--b--",
    ],
)
def test_forms_are_read_whatever_stands_around_them(body: bytes) -> None:
    (part,) = parts_of(body, b"b", 1)
    assert (part.name, part.is_file, part.data) == ("request", False, b"{}")


BROKEN = {
    "empty": b"",
    "no end": FORM,
    "no name": b"--b\r\ncontent-disposition: form-data\r\n\r\n{}\r\n--b--",
    "no header": b"--b\r\n{}\r\n--b--",
    "no disposition": b"--b\r\nx: y\r\n\r\n{}\r\n--b--",
    "too many parts": FORM * 3 + b"--b--",
    "very many parts": b"--b\r\n" * 10**6 + b"--b--",
    "a long header": b"--b\r\ncontent-disposition: form-data; name=" + b"n" * 10**6 + b"\r\n\r\n\r\n--b--",
    "nearly boundaries": FORM + b"\r\n--a" * 10**6,
    "a name that is no UTF-8": b'--b\r\ncontent-disposition: form-data; name="\xff"\r\n\r\n{}\r\n--b--',
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_broken_forms_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"part|boundary|codec|name"):
        parts_of(body, b"b", 2)


TYPES = {
    "nothing": "",
    "an empty boundary": "; boundary=",
    "a long boundary": f"; boundary={'b' * 300}",
    "many parameters": ";" * 60_000,
    "many in a quote": '; x="' + ";" * 60_000,
    "another charset": "; charset=idna; boundary=b",
    "no charset": "; charset=hex; boundary=b",
}


@pytest.mark.parametrize("declared", TYPES.values(), ids=TYPES)
def test_forms_need_a_boundary_and_utf_8(declared: str) -> None:
    with pytest.raises(ValueError, match=r"boundary|charset|content type"):
        boundary_of(f"multipart/form-data{declared}")
    assert boundary_of('multipart/form-data; charset=UTF-8; boundary="b c"') == b"b c"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_form_of_too_many_files_is_refused_shortly(http: httpx.AsyncClient) -> None:
    head = json.dumps({"samples": [{"id": "a", "prompt": "p"}]})
    form: Form = {"request": (None, head), **{f"{n}{'x' * 900}": ("f", b"x") for n in range(60)}}
    answer = await http.post("/v1/score", files=form)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 20
    assert len(answer.content) < 10_000
    form = {"request": (None, head), **{str(n): ("f", b"x") for n in range(300)}}
    assert (await http.post("/v1/score", files=form)).json()["code"] == "malformed"
