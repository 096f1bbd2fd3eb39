"""The OCR engine tells nobody what it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.ocr_builders import ENVIRONMENT
from tests.support.paths import ROOT

LOAD = "import varl.services.ocr.engines.onnx, onnxruntime; onnxruntime.get_available_providers()"
SWITCHES = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")  # of ONNX Runtime: none may be what keeps it silent here


def test_onnx_runtime_keeps_no_id_and_no_session_of_this_machine(tmp_path: Path) -> None:
    folders = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in SWITCHES} | folders
    subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT, env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []
