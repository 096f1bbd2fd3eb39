"""``varl benchmark cvtg-2k --data FOLDER --images FOLDER``: judge a folder of images by a published benchmark."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from varl.cli.parser import Parser, number
from varl.evaluation.benchmarks.items import BENCHMARKS, Item
from varl.evaluation.benchmarks.judge import TextImageScorer, Verdict, as_json, judge, results
from varl.evaluation.benchmarks.published import COLUMNS, beside_published
from varl.services.ocr.engines.base import EngineUnavailableError, OcrEngine
from varl.studies.stages import progress_bar


def main(arguments: Sequence[str]) -> int:
    """Judge, print the figures, write --out.

    The exit status: 0, 1 where an image could not be judged or a model is missing, 2 for a bad flag or file, 130 for
    Ctrl-C; the same command goes on where it was.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    try:
        items = BENCHMARKS[flags.benchmark](flags.data)
    except ValueError as error:
        parser.error(f"argument --data: {error}")
    if not flags.images.is_dir():
        parser.error(f"argument --images: there is no folder {flags.images}")
    try:
        engine, clip = _engine(flags.engine), _clip(flags.clip, flags.device)
        verdicts = _judge(items, flags, engine, clip)
    except KeyboardInterrupt:
        sys.stderr.write(f"{parser.prog}: interrupted; the same command goes on where it was\n")
        return 130
    except (EngineUnavailableError, OSError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    record = results(items, verdicts) | _settings(flags, engine)
    flags.out.write_text(as_json(record), encoding="utf-8")
    sys.stdout.write(_words(flags, record))
    return 1 if record["failed"] else 0


def _parser() -> Parser:
    parser = Parser(
        "varl.cli.benchmark",
        "Judges a folder of images by a benchmark: Word Accuracy, NED, with --clip CLIPScore.",
    )
    parser.add_argument("benchmark", choices=list(BENCHMARKS), help="cvtg-2k, or prompts: any prompt file")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="the benchmark's published folder, or a prompt file",
    )
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="CVTG/2/INDEX.png and so on, or 00000.png by line of the prompt file",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), metavar="FILE", help="figures as JSON")
    parser.add_argument(
        "--engine", choices=("onnx", "paddle"), default="onnx", help="PP-OCRv6 small, or PP-OCRv5 on PaddlePaddle"
    )
    parser.add_argument(
        "--min-confidence",
        type=number(lambda x: 0 <= x <= 1, "in [0, 1]"),
        default=0.5,
        metavar="C",
        help="lines read with less are left out, as PaddleOCR 2 does",
    )
    parser.add_argument("--clip", metavar="MODEL", help="folder or hub name of a CLIP model; the script's is ViT-L/14")
    parser.add_argument("--device", default="cpu", help="torch device of CLIP")
    return parser


def _engine(name: str) -> OcrEngine:
    if name == "onnx":
        from varl.services.ocr.engines.onnx import build_onnx

        return build_onnx()
    from varl.services.ocr.engines.paddle import build_paddle

    return build_paddle()


def _clip(source: str | None, device: str) -> TextImageScorer | None:
    if source is None:
        return None
    from varl.evaluation.benchmarks.clip_score import ClipScorer  # takes seconds to import

    return ClipScorer(source, device)


def _judge(
    items: Sequence[Item], flags: argparse.Namespace, engine: OcrEngine, clip: TextImageScorer | None
) -> list[Verdict]:
    log = flags.out.with_suffix(".jsonl")
    with progress_bar(len(items), "image") as progress:
        return judge(
            items, flags.images, engine, clip, flags.min_confidence, log, lambda done: progress(done, len(items))
        )


def _settings(flags: argparse.Namespace, engine: OcrEngine) -> dict[str, Any]:
    model = engine.model
    return {
        "benchmark": flags.benchmark,
        "ocr": f"{model.engine} {model.name} ({model.revision})",
        "min_confidence": flags.min_confidence,
        "clip": flags.clip,
    }


def _words(flags: argparse.Namespace, record: dict[str, Any]) -> str:
    overall = record["overall_results"]
    lines = [_line(name, figures) for name, figures in {"overall": overall, **record["area_results"]}.items()]
    if record["failed"]:
        image, why = next(iter(record["failed"].items()))
        lines.append(f"{len(record['failed'])} images could not be judged, the first {image}: {why}")
    table = f"\n{beside_published(overall, str(flags.images))}" if flags.benchmark == "cvtg-2k" else ""
    return "\n".join([*lines, ""]) + f"{table}{flags.out}\n"


def _line(name: str, figures: dict[str, Any]) -> str:
    shown = [
        f"{measure} {figures[measure]:.4f}" + (f" ± {error:.4f}" if (error := figures[f"{measure}_se"]) else "")
        for measure in COLUMNS
        if figures[measure] is not None
    ]
    return f"{name:8} {figures['total_images']:5} images  {'  '.join(shown)}"
