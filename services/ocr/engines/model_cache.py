"""PaddleOCR model folders made from the ONNX files that the rapidocr wheel carries: nothing is downloaded.

rapidocr itself is never imported: it is installed for its files alone, without what it would need to run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from varl.services.ocr.engines.base import INSTALL_REST, EngineUnavailableError
from varl.services.ocr.engines.folders import home, scratch, writable
from varl.services.ocr.engines.pipeline import digest

DETECTION, RECOGNITION = "PP-OCRv6_small_det", "PP-OCRv6_small_rec"
_SOURCES = {DETECTION: "PP-OCRv6_det_small.onnx", RECOGNITION: "PP-OCRv6_rec_small.onnx"}
# Least width that a line is padded to, at height 48. The models' own 320 makes short words cost twice as much and
# reads no better: measured on 64 by 64 images, 96, 192 and 320 agree within noise on clean, noisy, blurred and faint
# words.
_LEAST_WIDTH = 96
_LAYOUT = f"1-{_LEAST_WIDTH}"  # part of the folder's name: another layout is another folder


@dataclass(frozen=True)
class ModelFolders:
    """Two PaddleOCR model folders and the digest of the weights in them."""

    detection: Path
    recognition: Path
    revision: str


def default_cache() -> Path:
    """The user's cache folder for these models (XDG); a temporary one where that can be neither read nor written."""
    own, given = home(), os.environ.get("XDG_CACHE_HOME")
    cache = Path(given) if given else own / ".cache" if own else None
    folder = cache / "varl" / "ocr" if cache else None
    return folder if folder and (_holds_models(folder) or writable(folder)) else scratch() / "models"


def _holds_models(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob(f"*-{_LAYOUT}"))


def packaged_weights() -> dict[str, Path]:
    """The ONNX files of the installed rapidocr distribution, by model name.

    Raises:
        EngineUnavailableError: rapidocr or one of its model files is absent.

    """
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or not spec.submodule_search_locations:
        raise EngineUnavailableError(f"the engine 'onnx' takes its models from the rapidocr wheel: {INSTALL_REST}")
    folder = Path(next(iter(spec.submodule_search_locations))) / "models"
    weights = {name: folder / file for name, file in _SOURCES.items()}
    missing = [path.name for path in weights.values() if not path.is_file()]
    if missing:
        raise EngineUnavailableError(f"the installed rapidocr lacks {', '.join(missing)}; version 3.10.0 carries them")
    return weights


def prepare(cache: Path) -> ModelFolders:
    """Model folders below ``cache``, made if absent; safe when several processes do it at once.

    Raises:
        EngineUnavailableError: the weights are absent, the cache cannot be written, or a cached file is not what was
            put there.

    """
    weights = packaged_weights()
    revision = digest(weights.values())
    final = cache / f"{revision}-{_LAYOUT}"
    if not final.is_dir():
        try:
            _publish(weights, final)
        except OSError as error:
            raise EngineUnavailableError(
                f"the model cache {cache} cannot be written: {error}; choose another with VARL_OCR_MODEL_CACHE"
            ) from error
    if digest(final / name / "inference.onnx" for name in weights) != revision:
        raise EngineUnavailableError(f"the model cache {final} is damaged: delete it and start again")
    return ModelFolders(final / DETECTION, final / RECOGNITION, revision)


def _publish(weights: dict[str, Path], final: Path) -> None:
    """Write everything beside the final place, then rename: readers see all of it or nothing."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".partial-") as partial:
        staged = Path(partial) / "models"
        configs = {DETECTION: _detection_config(), RECOGNITION: _recognition_config(weights[RECOGNITION])}
        for name, source in weights.items():
            (staged / name).mkdir(parents=True)
            shutil.copyfile(source, staged / name / "inference.onnx")
            (staged / name / "inference.yml").write_text(
                yaml.safe_dump(configs[name], allow_unicode=True), encoding="utf-8"
            )
        try:
            staged.rename(final)
        except OSError:
            if not final.is_dir():  # else another process was faster, with the same content
                raise


def _detection_config() -> dict[str, Any]:
    normalize = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "scale": 1 / 255, "order": "hwc"}
    return {
        "Global": {"model_name": DETECTION},
        "PreProcess": {
            "transform_ops": [
                {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
                {"DetResizeForTest": {"resize_long": 960}},  # overridden by the pipeline's own limit
                {"NormalizeImage": normalize},
                {"ToCHWImage": None},
            ]
        },
        "PostProcess": {
            "name": "DBPostProcess",
            "thresh": 0.3,
            "box_thresh": 0.6,
            "max_candidates": 1000,
            "unclip_ratio": 1.5,
        },
    }


def _recognition_config(weights: Path) -> dict[str, Any]:
    return {
        "Global": {"model_name": RECOGNITION},
        "PreProcess": {
            "transform_ops": [
                {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
                {"RecResizeImg": {"image_shape": [3, 48, _LEAST_WIDTH]}},
            ]
        },
        "PostProcess": {"name": "CTCLabelDecode", "character_dict": _alphabet(weights)},
    }


def _alphabet(weights: Path) -> list[str]:
    """The recogniser's characters, from its ONNX metadata.

    Its outputs are these with a blank before and a space after.
    """
    from onnxruntime import InferenceSession

    session = InferenceSession(str(weights), providers=["CPUExecutionProvider"])
    classes = session.get_outputs()[0].shape[-1]
    characters: list[str] = session.get_modelmeta().custom_metadata_map["character"].split("\n")[: classes - 2]
    if len(characters) != classes - 2:
        raise EngineUnavailableError(f"{weights.name} names {len(characters)} characters for {classes} classes")
    return characters
