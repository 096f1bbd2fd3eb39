"""What the report shows scale by scale, and other runs beside this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.html_tree import Element, Page
from tests.support.report_rig import AFTER, HOSTILE, evaluation, result
from varl.cli.report import main
from varl.evaluation.results import difference
from varl.studies.report.readings import load_evaluation, save_evaluation
from varl.studies.report.report import RunFacts, write_report
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.describe import to_toml

GRIDS = ((1, 1), (2, 2), (4, 4), (8, 8))


def with_grids(run: Path, **objective: object) -> Element:
    """The page of a run of four scales, the first two of which are its prefix."""
    recipe = Recipe.model_validate({"objective": {"split_scale": 2, **objective}})
    (run / "config.toml").write_text(to_toml(recipe))
    facts = RunFacts.model_validate_json((run / "facts.json").read_bytes())
    (run / "facts.json").write_text(facts.model_copy(update={"grids": GRIDS}).model_dump_json())
    return Page(write_report(run).read_text()).stack[0]


def test_every_scales_share_of_the_loss_stands_beside_that_of_equal_tokens(run: Path) -> None:
    rows = [row.words() for row in with_grids(run, alpha=1.0).by_id("shares").all("tr")[1:]]
    assert rows == [  # with alpha 1 every grid counts alike
        "1 1 × 1 1 prefix updates 50.0 % 20.0 %",
        "2 2 × 2 4 prefix updates 50.0 % 80.0 %",
        "3 4 × 4 16 suffix updates 50.0 % 20.0 %",
        "4 8 × 8 64 suffix updates 50.0 % 80.0 %",
    ]


def test_the_mask_of_an_image_is_drawn_scale_by_scale(run: Path) -> None:
    figures_ = with_grids(run).by_id("masks").all("figure")
    kept = [figure.all("figcaption")[0].words() for figure in figures_]
    # RIGHT touches columns 0 to 3 of rows 0 and 1 of the finest grid, WRONG columns 0 to 2 of the same rows.
    assert kept == [
        "scale 1, 1 × 1: 100 % of the tokens",
        "scale 2, 2 × 2: 25 % of the tokens",
        "scale 3, 4 × 4: 12 % of the tokens",
        "scale 4, 8 × 8: 12 % of the tokens",
    ]
    boxes = [[tuple(map(float, box(rect))) for rect in figure.all("rect")] for figure in figures_]
    assert boxes[0] == []
    assert boxes[1] == [(32, 0, 32, 32), (0, 32, 64, 32)]
    assert boxes[2] == [(32, 0, 32, 16), *((0, y, 64, 16) for y in (16, 32, 48))]
    assert boxes[3] == [(32, 0, 32, 8), (32, 8, 32, 8), *((0, y, 64, 8) for y in range(16, 64, 8))]
    assert all(len(figure.all("polygon")) == 2 and len(figure.all("use")) == 1 for figure in figures_)


def box(rect: Element) -> list[str]:
    return [rect.attributes[name] for name in ("x", "y", "width", "height")]


def ids(page: Element) -> set[str]:
    return {element.attributes["id"] for element in page.everything() if "id" in element.attributes}


def test_a_run_without_masks_or_of_an_older_version_shows_none(run: Path, page: Element) -> None:
    assert not {"shares", "masks", "beside"} & ids(page)
    assert {"shares", "masks"} & ids(with_grids(run, mask_propagation="off")) == {"shares"}


def test_other_runs_stand_beside_this_one_when_they_are_given(
    run: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "config.toml").write_text(to_toml(Recipe.model_validate({"objective": {"alpha": 0.0}})))
    save_evaluation(other, evaluation("after", [result(0, 2), result(1, 3, None, HOSTILE), result(3, 1)]))
    assert main([str(run), "--beside", str(other)]) == 0
    text = Page((run / "report.html").read_text()).stack[0].by_id("beside").words()
    assert f"this run against {other}" in text
    change = difference(load_evaluation(other, "after"), AFTER).changes["word_accuracy"]
    assert f"Word Accuracy 0.500 0.750 {change.value:+.3f} ± {change.error:.3f}" in text
    assert "objective.alpha: 0.0 -> 0.6" in text
    assert main([str(run), "--beside", str(run / "nothing")]) == 1
    assert "--beside: " in capsys.readouterr().err
