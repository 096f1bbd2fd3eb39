"""The page is parsed as a browser would, and what stands in it is compared with what it was made from."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from varl.cli.report import main
from varl.evaluation.estimates import Estimate
from varl.evaluation.results import Evaluation, FailedPrompt, Picture, PromptResult, ReadWord, difference
from varl.launch.machine import describe_machine
from varl.studies.report.charts import CHARTS, Chart, draw, smooth
from varl.studies.report.readings import Figure, load_evaluation, save_evaluation
from varl.studies.report.report import RunFacts, figures, sentence, write_report
from varl.studies.report.rows import pairs
from varl.studies.report.samplers import SamplerPair, best_against_best
from varl.trainer.disk.metrics_log import METRICS_FILE
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.describe import to_toml

VOID = {"meta", "br", "image", "path", "use", "polygon", "img", "rect"}


class Element:
    """A node of the parsed page."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Element] = []
        self.text = ""

    def all(self, tag: str, css: str = "") -> list[Element]:
        """Descendants of a tag and class, in order."""
        found = [self] if self.tag == tag and (not css or css in self.attributes.get("class", "").split()) else []
        return found + [inner for child in self.children for inner in child.all(tag, css)]

    def by_id(self, name: str) -> Element:
        """The one element with this id."""
        [found] = [element for element in self.everything() if element.attributes.get("id") == name]
        return found

    def everything(self) -> list[Element]:
        return [self, *(inner for child in self.children for inner in child.everything())]

    def words(self) -> str:
        """All text inside, spaces collapsed."""
        return " ".join(" ".join([self.text, *(child.words() for child in self.children)]).split())


class Page(HTMLParser):
    """Builds the tree and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack = [Element("document", {})]
        self.feed(text)
        assert [element.tag for element in self.stack] == ["document"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.stack[-1].children.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stack[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack.pop().tag == tag

    def handle_data(self, data: str) -> None:
        if data.strip():  # text keeps its place among the elements
            self.stack[-1].children.append(_text(data))


def _text(data: str) -> Element:
    element = Element("#text", {})
    element.text = data
    return element


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def result(index: int, hits: int, words: tuple[ReadWord, ...] | None = None, prompt: str | None = None) -> PromptResult:
    shown = None if words is None else Picture(image=png(index * 2 + hits), words=words, reward=0.25 * hits)
    target = f"word{index}"
    return PromptResult(
        index=index,
        prompt=prompt or f"a sign that says '{target}'",
        target_words=(target,),
        images=4,
        shares={"word_accuracy": (hits, 4), "ned": (hits + 0.5, 4), "reward": (hits, 4), "reward/ocr": (hits, 4)},
        picture=shown,
    )


def evaluation(tag: str, results: list[PromptResult], failed: tuple[FailedPrompt, ...] = ()) -> Evaluation:
    models = {"ocr": "paddleocr-onnxruntime PP-OCR (abc123)"}
    version = 0 if tag == "before" else 30
    return Evaluation(
        tag=tag, weight_version=version, seed=77, group_size=4, models=models, prompts=tuple(results), failed=failed
    )


RIGHT = ReadWord(text="WORD0", confidence=0.97, polygon=(1, 2, 30.5, 2, 30.5, 12, 1, 12))
WRONG = ReadWord(text="W0RD", confidence=0.41, polygon=(3, 4, 20, 4, 20, 9))
HOSTILE = "<script>alert('x')</script> & 'word1'"
BEFORE = evaluation("before", [result(0, 1, (WRONG,)), result(1, 2, (), HOSTILE), result(2, 1, (WRONG,)), result(3, 0)])
FAILED = FailedPrompt(
    index=2, prompt="a sign that says 'word2'", code="reward_unavailable", detail="ocr: no answer in 120 s"
)
AFTER = evaluation("after", [result(0, 4, (RIGHT, WRONG)), result(1, 3, (), HOSTILE), result(3, 2)], (FAILED,))
ROWS: list[dict[str, float]] = [
    {
        "update": update,
        "reward/total": 0.5 + update / 100,
        "kl": 0.001 * update,
        "entropy/scale_2": 2.0,
        "entropy/scale_10": 1.0,
    }
    for update in range(30)
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    recipe = Recipe.model_validate(
        {
            "run": {"name": "small", "seed": 5, "updates": 30},
            "evaluation": {"seed": 77, "sampling": {"temperature": 0.8, "top_k": 12}},
        }
    )
    (tmp_path / "config.toml").write_text(to_toml(recipe))
    facts = RunFacts(
        finished="2026-01-02T03:04:05+00:00",
        machine=describe_machine("cpu"),
        stages={"Training": 3725.0, "Starting": 4.21},
    )
    (tmp_path / "facts.json").write_text(facts.model_dump_json())
    (tmp_path / METRICS_FILE).write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    for side in (BEFORE, AFTER):
        save_evaluation(tmp_path, side)
    return tmp_path


@pytest.fixture
def page(run: Path) -> Element:
    return Page(write_report(run).read_text()).stack[0]


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
    assert rows == ["dark 0.25 +0.5 ± 0 beyond its limit 0.1", "colour distance 0 +1 ± 0 10"]


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


def chart(*metrics: str) -> Chart:
    return Chart("Title", "note", metrics)


Rows = list[dict[str, float]]


def lines(svg: str | None) -> list[list[tuple[float, float]]]:
    """Points of the drawn series: the coloured paths."""
    assert svg is not None
    drawn = re.findall(r'<path d="([^"]*)" clip-path[^>]*stroke: #[0-9a-f]{6}[^>]*>', svg)
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path)] for path in drawn]


def test_a_line_has_a_point_for_every_update_that_has_the_metric() -> None:
    rows: Rows = [{"update": u, **({"kl": float(u * u)} if u % 2 else {})} for u in range(20)]
    [points] = lines(draw(chart("kl"), rows))
    assert len(points) == 10
    xs, ys = np.array(points).T
    assert np.allclose(np.diff(xs), np.diff(xs)[0])
    heights = ys[0] - ys  # SVG's y points down
    assert np.allclose(heights / heights[-1], (np.arange(1, 20, 2) ** 2 - 1) / 360, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_left_out(bad: float) -> None:
    rows: Rows = [{"update": u, "kl": bad if u == 3 else 1.0 + u} for u in range(8)]
    [points] = lines(draw(chart("kl"), rows))
    assert len(points) == 7


def test_a_chart_without_its_metric_is_left_out() -> None:
    assert draw(chart("kl"), []) is None
    assert draw(chart("kl", "entropy/*"), [{"update": 0, "loss": 1.0, "klx": 2.0}]) is None


def test_svg_takes_the_colours_and_the_width_of_the_page() -> None:
    svg = draw(CHARTS[0], ROWS)
    assert svg is not None
    assert "currentColor" in svg
    assert "<style" not in svg  # it would hold for the whole page
    assert re.match(r'<svg role="img" aria-label="Reward" viewBox="[^"]*" version="1.1">', svg)


@pytest.mark.parametrize("window", [2, 3, 8])
def test_smooth_is_the_mean_of_the_neighbours(window: int) -> None:
    values = np.random.default_rng(0).normal(size=40)
    slow = [values[max(i - window // 2, 0) : i + window // 2 + 1].mean() for i in range(40)]
    assert np.allclose(smooth(values, window), slow)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.toml"):
        write_report(tmp_path)


def test_a_damaged_evaluation_is_an_error(run: Path) -> None:
    (run / "evaluations" / "after.json").write_text("{}")
    with pytest.raises(ValueError, match="weight_version"):
        write_report(run)


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
