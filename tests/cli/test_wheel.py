"""The wheel from a fresh environment, in an empty folder.

What it installs, and that each kind of command works there.
"""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support.wheel_rig import Installed, build_and_install
from varl.cli.commands import COMMANDS
from varl.launch.supervisor import Supervisor

# An update of the packaged recipe has 512 images; this one has 16.
SMALL = {f"VARL_TRAINER_ROLLOUT__{name}": value for name, value in (("PROMPTS_PER_UPDATE", "2"), ("GROUP_SIZE", "4"))}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return build_and_install(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def picture(installed: Installed) -> Path:
    """A sign that the packaged model draws."""
    drawn = installed.run(
        "generate", "a red sign that says 'CAT'", "--model", "checkpoints/tiny", "--top-k", "1", "-o", "cat.png"
    )
    assert drawn.returncode == 0, drawn.stderr
    assert "checkpoints/tiny is not in the working directory: the one of the package is used" in drawn.stderr
    return installed.folder / "cat.png"


def test_varl_is_the_only_top_level_module(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        tops = {name.partition("/")[0] for name in wheel.namelist()}
        assert not [name for name in wheel.namelist() if "/tests/" in name]
    assert {top for top in tops if not top.endswith(".dist-info")} == {"varl"}


def test_it_has_the_files_of_the_pages(installed: Installed) -> None:
    pages = {"serving/http/static/score.html", "serving/http/static/page.css", "rollout/static/generate.js"}
    with zipfile.ZipFile(installed.wheel) as wheel:
        assert {f"varl/services/{page}" for page in pages} <= set(wheel.namelist())


def test_nothing_comes_from_the_checkout(installed: Installed) -> None:
    code = "import varl, varl.services, varl.v1; print(varl.__file__, varl.services.__file__, varl.v1.__path__[0])"
    python = str(installed.environment / "bin" / "python")
    done = subprocess.run(
        [python, "-c", code],
        cwd=installed.folder,
        env=installed.variables(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(path.startswith(str(installed.environment)) for path in done.stdout.split())


def test_the_overview_names_every_command(installed: Installed) -> None:
    overview = installed.run("--help")
    assert overview.returncode == 0
    assert all(name in overview.stdout for name in (*COMMANDS, "serve"))


def test_a_packaged_recipe_is_found(installed: Installed) -> None:
    dry = installed.run("train", "recipes/tiny_demo.toml", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "# run tiny_demo: 36 updates" in dry.stdout
    assert str(installed.environment) in dry.stdout  # prompts and model are those of the package


def test_a_packaged_example_is_served(installed: Installed, picture: Path) -> None:
    scored = installed.run(
        "score", str(picture), "--prompt", "a sign", "--reward", "examples/brightness.py:Brightness", "--json"
    )
    assert scored.returncode == 0, scored.stderr
    assert 0 < json.loads(scored.stdout)["brightness"]["images"][0]["value"] < 1


def test_served_ocr_reads_what_the_packaged_model_draws(installed: Installed, picture: Path, tmp_path: Path) -> None:
    with Supervisor(tmp_path) as parts:
        port = parts.start("ocr", [installed.varl, "serve", "ocr", "--http-port", "0", "--grpc-port", "0"])["http_port"]
        scored = installed.run("score", str(picture), "--target", "CAT", "--url", f"http://127.0.0.1:{port}", "--json")
    assert scored.returncode == 0, scored.stderr
    assert [word["text"] for word in json.loads(scored.stdout)["ocr"]["images"][0]["words"]] == ["CAT"]


def test_the_demo_trains(installed: Installed) -> None:
    done = installed.run("demo", "--updates", "1", "--prompts", "2", settings=SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    run = installed.folder / "runs" / "demo"
    assert (run / "report.html").is_file()
    assert (run / "weights" / "final.safetensors").is_file()
    assert json.loads((run / "eval.json").read_text())["after"]["prompts"] == 2
