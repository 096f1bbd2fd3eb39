"""varl export --push: into a folder, and into a hub's repository by the hub's real client over real HTTP."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.paths import PYTHONPATH
from tests.support.trainer_rig import make_model, make_recipe
from varl import cli
from varl.policy.load import load
from varl.trainer.recipe.describe import to_toml

hub = pytest.importorskip("huggingface_hub")
MAIN = "import sys; from varl.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, as far as its export looks at it."""
    folder = tmp_path_factory.mktemp("runs")
    model = make_model(folder / "model")
    recipe = make_recipe(folder, "signs")
    made = recipe.run.dir / "signs"
    (made / "weights").mkdir(parents=True)
    (made / "config.toml").write_text(to_toml(recipe))
    load(model).save_weights(str(made / "weights" / "final.safetensors"))
    lines = [{"update": 0, "eval/reward": 0.5}, {"update": 4, "eval/reward": 0.75, "eval/reward_se": 0.01}]
    (made / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as a push of small files asks for; it wants the token, and keeps what it is given."""

    files: dict[str, bytes]
    made: list[dict[str, object]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != "Bearer hf_ours":
            return self._answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            self.made.append(json.loads(body))
            return self._answer(200, {"url": f"{self._host()}/me/signs", "name": "me/signs"})
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.path == "/api/models/me/signs/preupload/main":
            asked = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self._answer(200, {"files": [file | {"shouldIgnore": False} for file in asked]})
        assert self.path.startswith("/api/models/me/signs/commit/main")
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self._answer(200, {"commitUrl": f"{self._host()}/me/signs/commit/{'0' * 40}", "commitOid": "0" * 40})

    def do_GET(self) -> None:
        self._answer(200, {"id": "me/signs", "sha": "1" * 40, "siblings": []})

    def _host(self) -> str:
        return f"http://{self.headers['Host']}"

    def _answer(self, status: int, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Hub.files, Hub.made = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def push(run: Path, server: ThreadingHTTPServer, place: str, token: str) -> subprocess.CompletedProcess[str]:
    endpoint = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_TOKEN": token}
    command = [sys.executable, "-c", MAIN, "export", str(run), "--push", place, "--base-model", "me/base"]
    environment = os.environ | endpoint | {"PYTHONPATH": PYTHONPATH, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_a_repository_gets_every_file_and_a_card_that_the_hub_understands(
    run: Path, server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    done = push(run, server, "hf://me/signs", "hf_ours")
    assert done.returncode == 0, done.stderr
    assert f"/me/signs/commit/{'0' * 40}: " in done.stdout
    (made,) = Hub.made
    assert made.get("visibility") == "private" or made.get("private") is True  # newer and older clients
    for name, content in Hub.files.items():
        (tmp_path / name).write_bytes(content)
    assert {"README.md", "config.json", "policy.safetensors", "tokenizer.safetensors"} <= Hub.files.keys()
    load(tmp_path)
    card = hub.ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.base_model, card.data.pipeline_tag) == ("other", "me/base", "text-to-image")
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.metric_type, result.metric_value) == ("prompts", "reward", 0.75)
    assert "grpo" in card.data.tags
    assert "varl generate" in card.text


def test_a_hub_that_refuses_is_said(run: Path, server: ThreadingHTTPServer) -> None:
    done = push(run, server, "hf://me/signs", "hf_theirs")
    assert done.returncode == 1
    assert "--push: the hub does not take me/signs: " in done.stderr and "401" in done.stderr
    assert "Traceback" not in done.stderr
    assert Hub.files == {}


def test_a_folder_that_is_a_clone_keeps_its_other_files(run: Path, tmp_path: Path) -> None:
    clone = tmp_path / "signs"
    clone.mkdir()
    (clone / ".gitattributes").write_text("*.safetensors filter=lfs")
    (clone / "README.md").write_text("an older card")
    assert cli.main(["export", str(run), "--push", str(clone)]) == 0
    assert (clone / ".gitattributes").read_text() == "*.safetensors filter=lfs"
    assert "# signs" in (clone / "README.md").read_text()
    load(clone)


@pytest.mark.parametrize("place", ["hf://signs", "hf://me/signs/more", "hf://"])
def test_what_is_no_repository_is_refused(run: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(run), "--push", place]) == 1
    assert "is no repository, which would be hf://OWNER/NAME" in capsys.readouterr().err


def test_an_export_goes_somewhere(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["export", str(run)])
    assert "--to and --push" in capsys.readouterr().err
