"""The real PaddlePaddle path on two tiny models in Paddle's own format.

Dark is text, and its letters are arbitrary but fixed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from tests.support.ocr_builders import json_sample, png, running
from varl.services.ocr.engines.base import EngineUnavailableError, ReadWord
from varl.services.ocr.engines.paddle import build_paddle
from varl.services.ocr.engines.pipeline import PipelineEngine

HAS_PADDLE = importlib.util.find_spec("paddle") is not None
needs_paddle = pytest.mark.skipif(not HAS_PADDLE, reason="paddlepaddle (extra ocr-paddle) is not installed")
LETTERS = [chr(ord("a") + index) for index in range(26)]


def save_models(folder: Path) -> tuple[Path, Path]:
    """A detector that finds dark pixels and a recogniser with random weights.

    Both in the folder layout of PP-OCRv5 mobile.
    """
    import paddle

    paddle.seed(0)

    class Detector(paddle.nn.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = paddle.nn.Conv2D(3, 1, 1)
            self.conv.weight.set_value(paddle.full([1, 3, 1, 1], -2.0))

        def forward(self, x: Any) -> Any:  # noqa: ANN401
            return paddle.nn.functional.sigmoid(self.conv(x))

    class Recognizer(paddle.nn.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = paddle.nn.Conv2D(3, 16, (48, 8), stride=(48, 8))
            self.head = paddle.nn.Linear(16, len(LETTERS) + 2)

        def forward(self, x: Any) -> Any:  # noqa: ANN401
            return paddle.nn.functional.softmax(
                self.head(paddle.transpose(paddle.squeeze(self.conv(x), 2), [0, 2, 1])), axis=-1
            )

    decode = {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}}
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    normalize = {"NormalizeImage": {"mean": mean, "std": std, "scale": 1 / 255, "order": "hwc"}}
    detect = {"name": "DBPostProcess", "thresh": 0.3, "box_thresh": 0.6, "max_candidates": 1000, "unclip_ratio": 1.5}
    detection = folder / "det"
    recognition = folder / "rec"
    save(
        Detector(),
        detection,
        "PP-OCRv5_mobile_det",
        [decode, {"DetResizeForTest": {"resize_long": 960}}, normalize, {"ToCHWImage": None}],
        detect,
    )
    read = {"name": "CTCLabelDecode", "character_dict": LETTERS}
    save(
        Recognizer(),
        recognition,
        "PP-OCRv5_mobile_rec",
        [decode, {"RecResizeImg": {"image_shape": [3, 48, 320]}}],
        read,
    )
    return detection, recognition


def save(layer: Any, folder: Path, name: str, transforms: list[Any], post: dict[str, Any]) -> None:  # noqa: ANN401
    import paddle

    layer.eval()
    height = 48 if name.endswith("rec") else -1
    spec = [paddle.static.InputSpec([-1, 3, height, -1], "float32", name="x")]
    paddle.jit.save(layer, str(folder / "inference"), input_spec=spec)
    config = {"Global": {"model_name": name}, "PreProcess": {"transform_ops": transforms}, "PostProcess": post}
    (folder / "inference.yml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_models(tmp_path_factory.mktemp("paddle"))


@pytest.fixture(scope="module")
def engine(folders: tuple[Path, Path]) -> PipelineEngine:
    return build_paddle("mobile", *folders)


def two_blocks() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = np.full((96, 160, 3), 255, np.uint8)
    image[16:32, 24:120] = 0
    image[60:80, 40:140] = 0
    return image


def line_box(words: list[ReadWord], row: int) -> tuple[float, float, float, float]:
    """Bounds of the words whose polygons cross a row of the image."""
    points = [
        point
        for word in words
        if min(y for _, y in word.polygon) <= row < max(y for _, y in word.polygon)
        for point in word.polygon
    ]
    return min(x for x, _ in points), min(y for _, y in points), max(x for x, _ in points), max(y for _, y in points)


@needs_paddle
def test_boxes_lie_on_what_is_dark(engine: PipelineEngine) -> None:
    (words,) = engine.read([two_blocks()])
    assert isinstance(words, list)
    assert words
    boxes = sorted({tuple(round(edge) for edge in line_box(words, top)) for top in (16, 60)})
    for found, dark in zip(boxes, ((24, 16, 120, 32), (40, 60, 140, 80)), strict=True):
        grown = np.array([1, 1, -1, -1]) * (
            np.array(dark) - np.array(found)
        )  # the detector grows what it finds by area * 1.5 / perimeter
        assert (grown >= 0).all()
        assert (grown <= 14).all()
    assert all(set(word.text) <= set(LETTERS) and 0 < word.confidence <= 1 for word in words)


@needs_paddle
def test_readings_are_reproducible_alone_and_together(engine: PipelineEngine, folders: tuple[Path, Path]) -> None:
    images = [two_blocks(), np.full((64, 64, 3), 255, np.uint8), two_blocks()[:, ::-1].copy()]
    together = engine.read(images)
    assert together[1] == []
    assert [engine.read([image])[0] for image in images] == together
    assert build_paddle("mobile", *folders).read(images) == together


@needs_paddle
def test_the_model_names_engine_and_digest(engine: PipelineEngine) -> None:
    assert (engine.model.engine, engine.model.name) == (
        "paddleocr-paddle",
        "PP-OCRv5_mobile_det+PP-OCRv5_mobile_rec, detection at 480 then full size",
    )
    assert len(engine.model.revision) == 12


@needs_paddle
def test_folders_of_another_variant_are_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(EngineUnavailableError, match="PP-OCRv5_server_det"):
        build_paddle("server", *folders)


@needs_paddle
def test_the_service_runs_on_paddle(folders: tuple[Path, Path], tmp_path: Path) -> None:
    flags = (
        "--engine",
        "paddle",
        "--paddle-detection-dir",
        str(folders[0]),
        "--paddle-recognition-dir",
        str(folders[1]),
    )
    with running(tmp_path, *flags) as service:
        body = {"samples": [json_sample("a", "", png(two_blocks()), ["word"])]}
        answer = httpx.post(f"{service.http}/v1/score", json=body, timeout=240).json()
    assert answer["model"]["engine"] == "paddleocr-paddle"
    assert answer["results"][0]["words"]


@pytest.mark.skipif(HAS_PADDLE, reason="paddlepaddle is installed")
def test_without_paddlepaddle_the_extra_is_named() -> None:
    with pytest.raises(EngineUnavailableError, match="ocr-paddle"):
        build_paddle()
