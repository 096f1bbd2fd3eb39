from __future__ import annotations

from pathlib import Path

import grpc_tools
import pytest
from grpc_tools import protoc

from tests.support.paths import ROOT

PROTO = ROOT / "proto"
SOURCES = sorted(PROTO.glob("varl/v1/*.proto"))
GENERATED = sorted(path.relative_to(PROTO) for path in PROTO.glob("varl/v1/*_pb2*.py*"))


@pytest.fixture(scope="module")
def generated_anew(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("proto")
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    assert protoc.main(["protoc", f"-I{PROTO}", f"-I{well_known}", *outputs, *map(str, SOURCES)]) == 0
    return out


@pytest.mark.parametrize("path", GENERATED, ids=str)
def test_generated_code_is_what_the_sources_give(path: Path, generated_anew: Path) -> None:
    assert (PROTO / path).read_text() == (generated_anew / path).read_text(), "run make proto"


def test_every_generated_file_is_there(generated_anew: Path) -> None:
    made = sorted(path.relative_to(generated_anew) for path in generated_anew.glob("varl/v1/*.py*"))
    assert made == GENERATED
    assert len(GENERATED) == 3 * len(SOURCES) > 0
