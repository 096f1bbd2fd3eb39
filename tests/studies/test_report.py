"""The page is parsed as a browser would, and what stands in it is compared with what it was made from."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from tests.support.html_tree import Element, Page
from tests.support.report_rig import AFTER, BEFORE, HOSTILE, WRONG, evaluation, png, result
from varl.evaluation.estimates import Estimate
from varl.evaluation.results import difference
from varl.launch.machine import describe_machine
from varl.studies.report.readings import Figure, load_evaluation, save_evaluation
from varl.studies.report.report import RunFacts, figures, sentence, write_report
from varl.studies.report.rows import pairs
from varl.studies.report.samplers import SamplerPair, best_against_best
from varl.trainer.disk.metrics_log import METRICS_FILE
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.describe import to_toml


def test_headlines_are_the_figures_with_their_errors(page: Element) -> None:
    cards = page.by_id("headlines").all("article")
    changes = difference(BEFORE, AFTER).changes
    pairs_ = [(BEFORE.estimate(name), AFTER.estimate(name), changes[name]) for name in ("word_accuracy", "ned")]
    for card, (before, after, moved) in zip(cards, pairs_, strict=False):
        text = card.words()
        assert f"{before.value:.3f} → {after.value:.3f}" in text
        assert f"{moved.value:+.3f} ± {moved.error:.3f}" in text
        assert (
            f"({100 * moved.value / before.value:+.1f} % relative; {moved.value / moved.error:.1f} standard errors)"
            in text
        )
        assert f"before ± {before.error:.3f}, after ± {after.error:.3f}" in text
        assert "over 3 prompts" in text
    assert "Word Accuracy" in cards[0].words()
    assert "NED" in cards[1].words()
    assert f"{BEFORE.estimate('reward').value:.3f} → {AFTER.estimate('reward').value:.3f}" in cards[2].words()
    assert "failed groups: 0 before, 1 after" in cards[2].words()


def test_the_result_is_said_in_one_sentence(page: Element) -> None:
    (said,) = [one for one in page.all("p") if one.attributes.get("class") == "sentence"]
    assert said.words().startswith("Word Accuracy rose from 0.250 to 0.750 (+0.500 ± ")
    assert "each at its best sampler, training is worth +0.500" in said.words()


@pytest.mark.parametrize(("change", "verdict"), [(-0.3, "fell"), (0.01, "did not move beyond two standard errors:")])
def test_a_change_within_its_error_is_no_result(change: float, verdict: str) -> None:
    figure = Figure("NED", Estimate(0.5, 0.1), Estimate(0.5 + change, 0.1), Estimate(change, 0.02))
    pair = SamplerPair("T=1", BEFORE, AFTER)
    assert f"NED {verdict} from 0.500" in sentence(figure, best_against_best([pair], "ned"))


def test_rows_that_changed_most_are_among_those_that_are_not_shown_anyway(run: Path) -> None:
    facts = RunFacts.model_validate_json((run / "facts.json").read_bytes())
    (run / "facts.json").write_text(facts.model_copy(update={"pictures": 2}).model_dump_json())
    for side, hits in ((BEFORE, (1, 4, 2, 2)), (AFTER, (1, 0, 2, 4))):
        prompts = tuple(result(index, count, (WRONG,)) for index, count in zip((0, 4, 5, 6), hits, strict=True))
        save_evaluation(run, side.model_copy(update={"prompts": prompts}))
    page = Page(write_report(run).read_text()).stack[0]
    assert len(page.by_id("pairs").all("article")) == 2
    assert [card.all("p")[0].words() for card in page.by_id("changed").all("article")] == ["a sign that says 'word6'"]


def test_grids_of_the_run_are_shown_evenly_spread(run: Path) -> None:
    (run / "samples").mkdir()
    for update in (0, 3, 10, 11, 20, 30):
        (run / "samples" / f"{update:06d}.png").write_bytes(png(update))
    page = Page(write_report(run).read_text()).stack[0]
    assert [one.words() for one in page.by_id("course").all("figcaption")] == [
        f"after {update} updates" for update in (0, 10, 20, 30)
    ]


def test_drift_is_shown_with_its_limit_and_what_is_beyond_it(run: Path) -> None:
    looks = {"before": (0.25, 60.0), "after": (0.75, 61.0)}
    for side in (BEFORE, AFTER):
        dark, lightness = looks[side.tag]
        colour = {"lightness": lightness, "a": 0.0, "b": 0.0}
        shares = {f"appearance/{name}": (value, 1.0) for name, value in ({"dark": dark} | colour).items()}
        prompts = tuple(one.model_copy(update={"shares": one.shares | shares}) for one in side.prompts)
        save_evaluation(run, side.model_copy(update={"prompts": prompts}))
    rows = [row.words() for row in Page(write_report(run).read_text()).stack[0].by_id("drift").all("tr")[1:]]
    assert rows == [
        "dark 0.25 +0.5 ± 0 beyond its limit 0.1",
        "colour shift 0 +1 ± 0 10",
        "colour distance 0 +1 ± 0 none",
    ]


def test_a_run_without_figures_of_appearance_has_no_section_of_drift(page: Element) -> None:
    assert not [element for element in page.everything() if element.attributes.get("id") == "drift"]


def test_the_same_prompts_stand_side_by_side_with_what_was_read(page: Element) -> None:
    shown = page.by_id("pairs").all("article")
    assert [card.all("p")[0].words() for card in shown] == [
        "a sign that says 'word0'",
        HOSTILE,
        "a sign that says 'word2'",
    ]
    for card, index, captions in zip(
        shown, (0, 1, 2), (("0.25", "1.00"), ("0.50", "0.75"), ("0.25", None)), strict=True
    ):
        before, after = card.all("figure")
        for side, evaluated, reward in ((before, BEFORE, captions[0]), (after, AFTER, captions[1])):
            kept = [r.picture for r in evaluated.prompts if r.index == index]
            if not kept:
                assert side.all("image") == []
                assert "the group failed" in side.words()
                continue
            [image] = side.all("image")
            assert kept[0] is not None
            assert base64.b64decode(image.attributes["href"].removeprefix("data:image/png;base64,")) == kept[0].image
            assert (image.attributes["width"], image.attributes["height"]) == ("64", "64")
            assert f"reward {reward}" in side.words()
    assert "before" in shown[0].all("figure")[0].words()
    assert "nothing read" in shown[1].words()


def test_boxes_are_drawn_where_the_words_were_read_and_targets_stand_out(page: Element) -> None:
    before, after = page.by_id("pairs").all("article")[0].all("figure")
    assert [(p.attributes["points"], p.attributes["class"]) for p in before.all("polygon")] == [
        ("3,4 20,4 20,9", "other")
    ]
    assert [(p.attributes["points"], p.attributes["class"]) for p in after.all("polygon")] == [
        ("1,2 30.5,2 30.5,12 1,12", "hit"),
        ("3,4 20,4 20,9", "other"),
    ]
    assert after.all("svg")[0].attributes["viewbox"] == "0 0 64 64"
    assert [(b.words(), b.attributes["class"]) for b in after.all("b")] == [("WORD0", "hit"), ("W0RD", "other")]
    assert "0.97" in after.words()
    assert "0.41" in after.words()


def test_nothing_comes_from_outside_and_prompts_cannot_break_out(run: Path, page: Element) -> None:
    text = (run / "report.html").read_text()
    assert "://" not in text
    assert not {element.tag for element in page.everything()} & {"script", "link", "iframe", "object"}
    assert all(image.attributes["src"].startswith("data:image/") for image in page.all("img"))
    links = [e.attributes[name] for e in page.everything() for name in ("href", "src") if name in e.attributes]
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert not re.search(r"url\((?!['\"]?#)|@import", text)


def test_curves_of_the_metrics_that_were_written_and_no_others(page: Element) -> None:
    cards = page.by_id("charts").all("article")
    assert [card.all("h3")[0].words() for card in cards] == [
        "Reward by held-out prompt",
        "Reward",
        "KL to the reference policy",
        "Entropy by scale",
    ]
    assert all(len(card.all("svg")) == 1 for card in cards)
    assert "2 10" in cards[3].words()  # the legend, scales in their numeric order


def test_settings_machine_and_method_are_told(run: Path, page: Element) -> None:
    assert page.by_id("settings").all("pre")[0].words() == " ".join((run / "config.toml").read_text().split())
    machine = describe_machine("cpu")
    text = page.by_id("machine").words()
    assert machine.cpu in text
    assert f"{machine.cores} core" in text
    assert f"PyTorch {machine.torch}" in text
    assert "Training 1:02:05" in text
    assert "Starting 4.2 s" in text
    method = page.by_id("method").words()
    assert "evaluation seed 77" in method
    assert "temperature 0.8, top-k 12, top-p off, guidance off" in method
    assert "paddleocr-onnxruntime PP-OCR (abc123)" in method
    assert "reward_unavailable: ocr: no answer in 120 s" in page.by_id("failures").words()


def test_other_samplers_stand_beside_the_recipes_own(run: Path, page: Element) -> None:
    assert not [element for element in page.everything() if element.attributes.get("id") == "samplers"]
    recipe = Recipe.model_validate({"evaluation": {"seed": 77, "samplers": ["greedy", "T=0.3"]}})
    (run / "config.toml").write_text(to_toml(recipe))
    cold = evaluation("before-greedy", [result(0, 4), result(1, 3, None, HOSTILE), result(2, 1), result(3, 3)])
    trained = evaluation("after-greedy", [result(0, 4), result(1, 2, None, HOSTILE), result(3, 2)])
    save_evaluation(run, cold)
    save_evaluation(run, trained)
    table = Page(write_report(run).read_text()).stack[0].by_id("samplers")
    rows = [row.words() for row in table.all("tr")]
    assert rows[0] == "Sampler Word Accuracy: base trained change NED: base trained change"
    assert [row.split()[0] for row in rows[1:]] == ["T=1", "greedy"]  # T=0.3 was never run
    [words, _] = figures(cold, trained)
    assert (words.before.value, words.after.value) == (11 / 16, 8 / 12)
    assert rows[2].startswith(f"greedy 0.688 0.667 {words.change.value:+.3f} ± {words.change.error:.3f} ")
    best = best_against_best([SamplerPair("T=1", BEFORE, AFTER), SamplerPair("greedy", cold, cold)], "word_accuracy")
    assert (best.base, best.trained) == ("greedy", "T=1")
    assert best.change == difference(cold, AFTER).changes["word_accuracy"]
    assert "base 0.688 (greedy), trained 0.750 (T=1)" in table.all("p")[0].words()


def test_no_failures_no_section(run: Path) -> None:
    save_evaluation(run, evaluation("after", list(AFTER.prompts)))
    page = Page(write_report(run).read_text()).stack[0]
    assert [element for element in page.everything() if element.attributes.get("id") == "failures"] == []


def test_settings_come_from_the_run_not_from_todays_environment(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARL_TRAINER_RUN__SEED", "999")
    assert "run seed 5" in Page(write_report(run).read_text()).stack[0].words()


def test_evaluations_come_back_as_they_were_saved(run: Path) -> None:
    assert load_evaluation(run, "before") == BEFORE
    assert load_evaluation(run, "after") == AFTER


def test_pairs_and_figures_agree_with_the_evaluations() -> None:
    shown = [(pair.before is not None, pair.after is not None) for pair in pairs(BEFORE, AFTER)]
    assert shown == [(True, True), (True, True), (True, False)]
    accuracy, ned = figures(BEFORE, AFTER)
    assert (accuracy.name, ned.name) == ("Word Accuracy", "NED")
    assert accuracy.relative == pytest.approx(accuracy.change.value / BEFORE.estimate("word_accuracy").value)


def test_a_run_without_ocr_shows_its_own_rewards_and_nothing_of_words(run: Path) -> None:
    """The same images, scored by another reward alone."""
    for side in (BEFORE, AFTER):
        bright = [
            result.model_copy(
                update={
                    "shares": {"reward": (2.0, 4), "reward/bright": (1 + side.weight_version / 30 + result.index, 4)}
                }
            )
            for result in side.prompts
        ]
        save_evaluation(run, side.model_copy(update={"prompts": tuple(bright)}))
    (run / METRICS_FILE).write_text("".join(f'{{"update": {u}, "eval/reward/bright": {u / 9}}}\n' for u in range(9)))
    text = write_report(run).read_text()
    card = Page(text).stack[0].by_id("headlines").all("article")[0].words()
    assert card.startswith("bright")
    assert "Held-out bright while training" in text
    assert "Word Accuracy" not in text and "nothing read" not in text and "what the OCR read" not in text


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.toml"):
        write_report(tmp_path)


def test_a_damaged_evaluation_is_an_error(run: Path) -> None:
    (run / "evaluations" / "after.json").write_text("{}")
    with pytest.raises(ValueError, match="weight_version"):
        write_report(run)
