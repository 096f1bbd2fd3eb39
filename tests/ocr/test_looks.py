"""How a picture is looked at, and when twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from tests.support.ocr_builders import render
from varl.services.ocr.engines.base import EngineFailure, EngineModel, Image, Reading, ReadWord
from varl.services.ocr.engines.looks import CVTG_2K, DEFAULT_LOOKS, FULL_SIZE, Looks, detection_options, merged
from varl.services.ocr.engines.pipeline import PipelineEngine
from varl.services.ocr.reading import Request, read
from varl.services.ocr.settings import OCRSettings


def word(text: str, left: float, top: float, width: float = 40, height: float = 20) -> ReadWord:
    right, bottom = left + width, top + height
    return ReadWord(text, 0.9, ((left, top), (right, top), (right, bottom), (left, bottom)))


@pytest.mark.parametrize(
    ("looks", "longer", "closer"),
    [
        (DEFAULT_LOOKS, 64, None),
        (DEFAULT_LOOKS, 480, None),
        (DEFAULT_LOOKS, 481, FULL_SIZE),
        (Looks(480, 960), 700, 960),
        (Looks(480, 960), 480, None),
        (Looks(480, 480), 1024, None),
        (Looks(480), 1024, None),
        (Looks(FULL_SIZE, FULL_SIZE), 1024, None),
        (CVTG_2K, 4000, None),
    ],
)
def test_a_second_look_is_taken_where_it_sees_more(looks: Looks, longer: int, closer: int | None) -> None:
    assert looks.closer_side(longer) == closer


def test_pictures_within_the_side_are_left_to_the_pipelines_own_settings() -> None:
    assert detection_options(480, 480) == detection_options(FULL_SIZE, 4000) == {}
    assert detection_options(480, 481) == {"text_det_limit_side_len": 480, "text_det_limit_type": "max"}


def test_large_words_stay_as_first_read_and_small_ones_are_read_again() -> None:
    first = [word("Hi", 100, 300, 500, 400), word("comer", 100, 100), word("faint", 800, 900)]
    second = [word("H", 110, 320, 200, 380), word("corner", 98, 99, 42), word("shop", 150, 101)]
    assert [w.text for w in merged(first, second, 480 / 1024)] == ["corner", "shop", "Hi", "faint"]
    assert merged(first, [], 480 / 1024) == merged([], first, 480 / 1024)
    assert merged([], [], 0.5) == []


class Recorder:
    """A pipeline that reads what it is given at each size of detection."""

    def __init__(self, **texts: str) -> None:
        self.texts = texts
        self.sides: list[int] = []

    def predict(self, pixels: Image, text_det_limit_side_len: int = 0, text_det_limit_type: str = "") -> list[object]:
        self.sides.append(text_det_limit_side_len)
        text = self.texts.get(f"at_{text_det_limit_side_len}", "")
        if text == "fail":
            raise RuntimeError("broken")
        quad = [[8, 8], [40, 8], [40, 16], [8, 16]]
        lines = [text] if text else []
        quads = [quad for _ in lines]
        return [
            {
                "rec_texts": lines,
                "rec_scores": [0.4 for _ in lines],
                "rec_polys": quads,
                "text_word": [[line] for line in lines],
                "text_word_region": [[q] for q in quads],
            }
        ]


def engine(recorder: Recorder, looks: Looks = DEFAULT_LOOKS) -> PipelineEngine:
    return PipelineEngine(recorder, EngineModel("e", "m", "r"), looks)


def texts(reading: Reading) -> list[str]:
    assert not isinstance(reading, EngineFailure)
    return [one.text for one in reading]


BIG = render(["x"], (1024, 1024), 40)


@pytest.mark.parametrize(
    ("at_480", "sides", "seen"), [("Open.", [480], ["Open."]), ("Oxen", [480, 0], ["OPEN"]), ("", [480, 0], ["OPEN"])]
)
def test_the_second_look_is_for_targets_that_the_first_leaves_unread(
    at_480: str, sides: list[int], seen: Sequence[str]
) -> None:
    recorder = Recorder(at_480=at_480, at_0="OPEN")
    (reading,) = read(engine(recorder), [Request(BIG, ("open",))])
    assert texts(reading) == seen
    assert recorder.sides == sides


def test_a_failure_of_either_look_is_the_pictures() -> None:
    for recorder in (Recorder(at_480="fail"), Recorder(at_0="fail")):
        (reading,) = read(engine(recorder), [Request(BIG, ("open",))])
        assert isinstance(reading, EngineFailure)


def test_least_confidence_drops_lines() -> None:
    assert texts(engine(Recorder(at_960="OPEN"), CVTG_2K).read([BIG])[0]) == []
    assert texts(engine(Recorder(at_960="OPEN"), Looks(960)).read([BIG])[0]) == ["OPEN"]


@pytest.mark.parametrize(
    ("flags", "looks", "said"),
    [
        ({}, Looks(480, 0), "480 then full size"),
        ({"detection_side": 0}, Looks(0), "full size"),
        ({"detection_side": 736, "closer_side": 1280}, Looks(736, 1280), "736 then 1280"),
        ({"detection_side": 736, "closer_side": 736}, Looks(736), "736"),
        ({"reader": "cvtg-2k", "detection_side": 64}, Looks(960, None, 0.5), "960, confidence from 0.5"),
    ],
)
def test_settings_say_how_pictures_are_looked_at(flags: dict[str, object], looks: Looks, said: str) -> None:
    assert OCRSettings.model_validate(flags).looks() == looks
    assert str(looks) == said
    with pytest.raises(ValidationError, match="closer_side"):
        OCRSettings.model_validate({"closer_side": 63})
