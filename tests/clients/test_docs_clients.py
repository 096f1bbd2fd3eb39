"""Each example of docs/clients.md as it stands there, against the real OCR service and a real gateway before it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format

from tests.support.ocr_builders import ENVIRONMENT, OCRProcess, png, render
from tests.support.paths import ROOT
from varl.v1 import reward_pb2, reward_pb2_grpc

BLOCK = re.compile(r"^## (.+?)$|^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SWIFT = """class ORM:
    def __init__(self, args=None, **kwargs): ...


orms: dict[str, type[ORM]] = {}
"""  # of ms-swift what a plugin imports: the package itself is hundreds of MB
PICTURES = 'from pathlib import Path\n\n\ndef draw(text):\n    return Path("sign.png").read_bytes()\n'
CALLS = {
    "TRL": (
        'print(ocr_reward(["says \'BREAD\'"] * 2, ["<svg/>"] * 2), '
        'ocr_reward(["a sign"], ["<svg/>"], target_words=[["bread"]]))'
    ),
    "verl": 'print(compute_score("data", "<svg/>", "bread"))',
    "verl-omni": (
        "pixels = np.moveaxis(np.asarray(Image.open('sign.png').convert('RGB')), -1, 0)\n"
        "print(compute_score('data', pixels, \"says 'BREAD'\", server_url=URL))"
    ),
    "OpenRLHF": 'print(reward_func(["<svg/>"], ["a sign"], ["bread"]))',
    "ms-swift": (
        "chat = [{'role': 'system', 'content': '-'}, {'role': 'user', 'content': \"says 'BREAD'\"},"
        " {'role': 'assistant', 'content': '<svg/>'}]\n"
        "function = orms['varl_ocr'](args=None)\n"
        "print(function(['<svg/>'] * 2, messages=[chat] * 2, trainer_state=None),"
        " function(['<svg/>'], messages=[chat], target_words=[['bread']]))"
    ),
    "flow_grpo": (
        "import numpy as np\n"
        "pixels = np.asarray(Image.open('sign.png').convert('RGB'))\n"
        "tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255\n"
        "score = varl_ocr_score('cpu')\n"
        "print(score(pixels[None], [\"says 'BREAD'\"], None), score(tensor, [\"says 'BREAD'\"], None))"
    ),
}


def examples() -> dict[str, list[tuple[str, str]]]:
    """(language, text) of each block, by section."""
    found: dict[str, list[tuple[str, str]]] = {}
    section = ""
    for heading, language, text in BLOCK.findall((ROOT / "docs" / "clients.md").read_text()):
        section = heading or section
        if language:
            found.setdefault(section, []).append((language, text))
    return found


EXAMPLES = examples()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the page takes for granted: the picture, the client and the caller's own drawing."""
    (tmp_path / "sign.png").write_bytes(png(render(["BREAD"], (128, 64), 26)))
    (tmp_path / "pictures.py").write_text(PICTURES)
    (tmp_path / "swift").mkdir()
    (tmp_path / "swift" / "rewards.py").write_text(SWIFT)
    shutil.copy(ROOT / "clients" / "varl_client.py", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def gateway(ocr_service: OCRProcess) -> Iterator[str]:
    """URL of a gateway before the OCR service."""
    command = [sys.executable, "-m", "varl.services.gateway", "--reward", f"ocr={ocr_service.grpc}", "--http-port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['http_port']}"
    finally:
        process.kill()
        process.communicate()


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_section_with_code_is_run_below() -> None:
    elsewhere = {"HPSv3"}  # commands of varl alone, which tests/docs/test_commands.py parses
    assert EXAMPLES.keys() == {"curl", "The gateway", "Python", "grpcurl", *CALLS} | elsewhere


@pytest.mark.parametrize("number", range(len(EXAMPLES["curl"])))
def test_curl(ocr_service: OCRProcess, folder: Path, number: int) -> None:
    text = EXAMPLES["curl"][number][1].replace("http://localhost:8080", ocr_service.http)
    (result,) = json.loads(run(["bash", "-c", text], folder))["results"]
    assert result["words"][0]["text"].upper() == "BREAD"
    assert result["value"] > 0.9


def test_the_gateway_by_curl(gateway: str, folder: Path) -> None:
    ((_, text),) = EXAMPLES["The gateway"]
    answer = json.loads(run(["bash", "-c", text.replace("http://localhost:8080", gateway)], folder))
    assert answer["rewards"]["ocr"]["results"][0]["value"] > 0.9


@pytest.mark.parametrize("number", range(len(EXAMPLES["Python"])))
@pytest.mark.parametrize("behind", ["service", "gateway"])
def test_python(ocr_service: OCRProcess, gateway: str, folder: Path, number: int, behind: str) -> None:
    url = gateway if behind == "gateway" else ocr_service.http
    text = EXAMPLES["Python"][number][1].replace("http://localhost:8080", url)
    assert float(run([sys.executable, "-c", text], folder).split()[0]) > 0.9


@pytest.mark.parametrize("section", CALLS)
def test_the_functions_that_trainers_take(ocr_service: OCRProcess, folder: Path, section: str) -> None:
    ((_, text),) = EXAMPLES[section]
    driver = f"\nURL = {ocr_service.http!r}\n{CALLS[section]}\n"
    numbers = re.findall(
        r"\d+\.\d+",
        run([sys.executable, "-c", text.replace("http://localhost:8080", ocr_service.http) + driver], folder),
    )
    assert max(map(float, numbers)) > 0.9


def test_grpcurl_sends_a_request_that_the_service_takes(ocr_service: OCRProcess, folder: Path) -> None:
    """grpcurl itself is in no package index.

    What is piped into it is JSON of the message that its last argument names.
    """
    ((_, text),) = EXAMPLES["grpcurl"]
    printed, _, command = text.partition("|")
    request = json_format.Parse(run(["bash", "-c", printed], folder), reward_pb2.ScoreRequest())
    assert command.split()[-1] == "varl.v1.RewardService/Score"
    with grpc.insecure_channel(ocr_service.grpc) as channel:
        assert reward_pb2_grpc.RewardServiceStub(channel).Score(request).results[0].score.value > 0.9
