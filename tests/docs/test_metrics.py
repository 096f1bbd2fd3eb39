"""docs/metrics.md names every key that the trainer writes, and none that it does not."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
ROWS = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
NAMED = [key for row in ROWS for key in re.findall(r"`([^`]+)`", row)]
MAKERS = ("step/metrics.py", "step/update.py", "step/gradients.py", "step/guards.py", "run.py", "evaluator.py")
MEASURED = {"eval/reward", "eval/reward/*", "eval/word_accuracy", "eval/ned", "eval/appearance/*"}  # f"eval/{measure}"


def keys(path: Path) -> Iterator[str]:
    """Strings of a file that are keys: of dicts that name a metric, with * for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        texts = [one for one in node.keys if one] if isinstance(node, ast.Dict) else []
        texts += [node.slice] if isinstance(node, ast.Subscript) else []
        texts += [node.key] if isinstance(node, ast.DictComp) else []
        texts += node.elts[:1] if isinstance(node, ast.Tuple) else []
        for text in texts:
            if isinstance(text, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in text.values)
            elif isinstance(text, ast.Constant) and "/" in str(text.value):
                yield str(text.value)


WRITTEN = sorted({key for name in MAKERS for key in keys(ROOT / "trainer" / name) if "/" in key} - {"eval/*_se"})


def named(key: str) -> bool:
    return any(key == one or fnmatchcase(key, one) for one in NAMED)


@pytest.mark.parametrize("key", WRITTEN)
def test_a_key_of_the_code_is_on_the_page(key: str) -> None:
    assert named(key) or any(fnmatchcase(one, key) for one in NAMED)


def test_every_key_of_a_real_run_is_on_the_page() -> None:
    lines = (ROOT / "docs" / "results" / "tiny_ocr" / "metrics.jsonl").read_text().splitlines()
    found = {key for line in lines for key in json.loads(line)}
    assert len(found) > 40
    assert not [key for key in found if not named(key.removesuffix("_se"))]


@pytest.mark.parametrize("key", [key for key in NAMED if key not in MEASURED])
def test_a_key_of_the_page_is_in_the_code(key: str) -> None:
    code = "\n".join((ROOT / "trainer" / name).read_text() for name in (*MAKERS, "disk/metrics_log.py"))
    assert any(fnmatchcase(key, one) for one in WRITTEN) or f'"{key}"' in code
