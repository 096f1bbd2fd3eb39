"""``varl prompts`` on small files in the published forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from varl.cli.prompts import main
from varl.trajectories.prompt_files import load_prompts
from varl.trajectories.prompts import PromptSpec


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


def test_a_table_has_what_the_rewards_need_and_no_more(tmp_path: Path) -> None:
    table = '\ufeffprompt,target_words,tone\n"a sign, ""OPEN""",open late,\n"two\nlines",,dark\nü,,\n'
    (tmp_path / "mine.csv").write_text(table, encoding="utf-8")
    assert converted("csv", tmp_path / "mine.csv", tmp_path) == [
        PromptSpec('a sign, "OPEN"', ("open", "late")),
        PromptSpec("two\nlines", (), {"tone": "dark"}),
        PromptSpec("ü"),
    ]
    (tmp_path / "mine.csv").write_text("prompt\nalone\n")
    assert converted("csv", tmp_path / "mine.csv", tmp_path) == [PromptSpec("alone")]


def test_a_folder_has_a_prompt_a_file(tmp_path: Path) -> None:
    for name, text in (("b.txt", "second\n"), ("a.txt", "first, in\ntwo lines"), ("a.png", "no text")):
        (tmp_path / name).write_text(text)
    assert converted("folder", tmp_path, tmp_path) == [PromptSpec("first, in\ntwo lines"), PromptSpec("second")]


@pytest.mark.parametrize(
    ("kind", "name", "data", "message"),
    [
        ("csv", "x.csv", b"text\na\n", "x.csv:1: the first row has no column 'prompt', only text"),
        ("csv", "x.csv", b"prompt\na\n \n", "x.csv:3: prompt is blank"),
        ("lines", "x.txt", b"a\n\n" + b"b" * 5000, "x.txt:3: prompt: 5000 characters"),
        ("csv", "x.csv", b"prompt,tone\na\n", "x.csv:2: the row has another number of cells"),
        ("csv", "x.csv", b"prompt\na,b\n", "x.csv:2: the row has another number of cells"),
        ("csv", "x.csv", b'prompt\n"a\n', "x.csv:2"),
        ("csv", "x.csv", b"prompt\n\xff\n", "x.csv: not UTF-8"),
        ("csv", "none.csv", None, "none.csv: No such file"),
        ("csv", "x.csv", b"prompt\n", "no prompt in"),
        ("folder", "a.txt", b" \n", "a.txt: blank"),
        ("folder", "a.txt", b"\xff", "a.txt: not UTF-8"),
        ("folder", "a.png", b"", "no prompt in"),
    ],
)
def test_a_table_or_folder_of_another_form_is_refused(
    kind: str, name: str, data: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    place = tmp_path if kind == "folder" else tmp_path / name
    with pytest.raises(SystemExit):
        main([kind, "--data", str(place), "-o", str(tmp_path / "out.jsonl")])
    assert message in capsys.readouterr().err
