"""``varl prompts`` on small files in the published forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from varl.cli.prompts import main
from varl.trajectories.prompts import PromptSpec, load_prompts


def converted(kind: str, data: Path, tmp_path: Path) -> list[PromptSpec]:
    out = tmp_path / "new" / "prompts.jsonl"
    assert main([kind, "--data", str(data), "-o", str(out)]) == 0
    return load_prompts(out)


def test_a_prompt_a_line_has_its_quoted_words_as_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test.txt").write_text('A runway with "Spring Sale", in light\n\nA hill\n')
    assert converted("lines", tmp_path / "test.txt", tmp_path) == [
        PromptSpec('A runway with "Spring Sale", in light', ("spring", "sale")),
        PromptSpec("A hill"),
    ]
    assert "2 prompts, 1 of them without target words" in capsys.readouterr().out


def test_fields_of_geneval_become_metadata(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(
        '{"tag": "counting", "include": [{"class": "cup", "count": 2}], "prompt": "two cups"}\n'
    )
    (spec,) = converted("geneval", tmp_path / "test.jsonl", tmp_path)
    assert spec.prompt == "two cups"
    assert spec.metadata == {"tag": "counting", "include": [{"class": "cup", "count": 2}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"tag": "x"}', "test.jsonl:1: want a JSON object with a prompt"), ("[1]", "test.jsonl:1"), ("", "no prompt in")],
)
def test_a_file_of_another_form_is_named_with_its_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test.jsonl").write_text(text)
    with pytest.raises(SystemExit):
        main(["geneval", "--data", str(tmp_path / "test.jsonl"), "-o", str(tmp_path / "out.jsonl")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
