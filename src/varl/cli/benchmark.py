"""``varl benchmark cvtg-2k --data FOLDER --images FOLDER``: judge images by a published benchmark."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from varl.cli.model import add_model, sampling_of, the_policy
from varl.cli.parser import Parser, add_sampling, count, number
from varl.cli.rewards import add_service, reward_client
from varl.client import RewardError
from varl.evaluation.benchmarks.draw import draw
from varl.evaluation.benchmarks.drawn import drawn_with, keep_drawn
from varl.evaluation.benchmarks.figures import area_results, as_json, results
from varl.evaluation.benchmarks.items import BENCHMARKS, Item
from varl.evaluation.benchmarks.judge import Judge, Picture, Verdict, pictures_of
from varl.evaluation.benchmarks.published import TABLES, beside_published
from varl.evaluation.benchmarks.scorers import Named, RewardScorer, Scorer
from varl.launch.resources import find
from varl.launch.supervisor import ChildDiedError, sigterm_as_exit
from varl.services.ocr.engines.base import EngineUnavailableError, OcrEngine
from varl.services.ocr.engines.looks import CVTG_2K
from varl.services.rollout.capacity import device_capacity
from varl.studies.stages import progress_bar

GROUPS = {"cvtg-2k": "region_results", "hpsv3": "category_results", "prompts": "group_results"}


def main(arguments: Sequence[str]) -> int:
    """Draw with --model, judge, print the figures, write --out.

    The exit status: 0, 1 where an image could not be judged or a model or service is missing, 2 for a bad flag or file,
    130 for Ctrl-C; the same command goes on where it was.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    items = _items(parser, flags)
    pictures = pictures_of(items, _folders(parser, flags))
    try:
        with sigterm_as_exit(), ExitStack() as stack:
            if flags.model:
                _draw(parser, flags, pictures)
            engine = _engine(flags) if any(item.targets for item in items) else None
            scorers = _scorers(parser, flags, stack)
            verdicts = _judge(Judge(engine, scorers, flags.min_confidence), pictures, flags)
    except KeyboardInterrupt:
        sys.stderr.write(f"{parser.prog}: interrupted; the same command goes on where it was\n")
        return 130
    except (EngineUnavailableError, RewardError, ChildDiedError, TimeoutError, OSError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    record = results(pictures, verdicts, GROUPS[flags.benchmark]) | _settings(flags, engine)
    if flags.benchmark == "cvtg-2k":
        record["area_results"] = area_results(pictures, verdicts)
    flags.out.write_text(as_json(record), encoding="utf-8")
    sys.stdout.write(_words(flags, record))
    return 1 if record["failed"] else 0


def _parser() -> Parser:
    parser = Parser(
        "varl.cli.benchmark",
        "Judges images by a benchmark: Word Accuracy and NED of target words, CLIPScore, any reward. With --model it"
        " draws them first.",
    )
    parser.add_argument("benchmark", choices=list(BENCHMARKS), help="prompts: any prompt file")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="PATH", help="the benchmark's published folder, or a prompt file"
    )
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        nargs="+",
        metavar="FOLDER",
        help="one folder, or one a seed: CVTG/2/INDEX.png, CATEGORY/NAME.png, or 00000.png by line of the prompt file "
        "(or what its column image names)",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), metavar="FILE", help="figures as JSON")
    _add_judges(parser)
    add_model(parser, None)
    parser.add_argument("--seeds", type=count(1), default=1, metavar="N", help="with --model: images of every prompt")
    parser.add_argument("--seed", type=count(0), default=0, help="the first of the seeds")
    parser.add_argument(
        "--batch",
        type=count(1),
        default=16,
        metavar="N",
        help="with --model: images drawn together; fewer where a GPU has no room",
    )
    add_sampling(parser, 1.0, 0, 1.0, 0.0)
    parser.add_argument("--device", default="cpu", help="torch device of the model and of CLIP")
    return parser


def _add_judges(parser: Parser) -> None:
    parser.add_argument(
        "--engine", choices=("onnx", "paddle"), default="onnx", help="ONNX Runtime, or PP-OCRv5 on PaddlePaddle"
    )
    parser.add_argument(
        "--ocr-model",
        choices=("pp-ocrv6-small", "pp-ocrv5-mobile"),
        default="pp-ocrv6-small",
        help="models of the onnx engine",
    )
    parser.add_argument(
        "--min-confidence",
        type=number(lambda x: 0 <= x <= 1, "in [0, 1]"),
        default=0.5,
        metavar="C",
        help="lines read with less are left out, as PaddleOCR 2 does",
    )
    parser.add_argument("--clip", metavar="MODEL", help="folder or hub name of a CLIP model; the script's is ViT-L/14")
    add_service(parser, None)


def _items(parser: Parser, flags: argparse.Namespace) -> list[Item]:
    try:
        items = BENCHMARKS[flags.benchmark](flags.data)
    except ValueError as error:
        parser.error(f"argument --data: {error}")
    if flags.benchmark == "hpsv3" and not (flags.url or flags.reward):
        parser.error("hpsv3 needs --url, the address of an HPSv3 service, or --reward")
    return items


def _folders(parser: Parser, flags: argparse.Namespace) -> list[Path]:
    folders: list[Path] = flags.images
    if not flags.model:
        for folder in folders:
            if not folder.is_dir():
                parser.error(f"argument --images: there is no folder {folder}")
        return folders
    if len(folders) > 1:
        parser.error("argument --images: with --model it is one folder, below which each of several seeds has its own")
    return folders if flags.seeds == 1 else [folders[0] / f"seed-{seed}" for seed in _seeds(flags)]


def _seeds(flags: argparse.Namespace) -> range:
    return range(flags.seed, flags.seed + flags.seeds)


def _draw(parser: Parser, flags: argparse.Namespace, pictures: Sequence[Picture]) -> None:
    policy = the_policy(parser, flags)
    seeds = dict(zip(dict.fromkeys(picture.folder for picture in pictures), _seeds(flags), strict=True))
    batch, params = _batch(parser, flags), sampling_of(flags)
    try:
        keep_drawn(pictures, seeds, drawn_with(find(flags.model), flags.plugin, flags.weights, flags.dtype, params))
    except ValueError as error:
        parser.error(f"argument --images: {error}")
    with progress_bar(len(pictures), "image drawn") as progress:
        draw(policy, pictures, seeds, params, lambda done: progress(done, len(pictures)), batch)


def _batch(parser: Parser, flags: argparse.Namespace) -> int:
    """Images that are drawn together: fewer where a GPU has no room for them."""
    wanted: int = flags.batch
    try:
        found = device_capacity(find(flags.model), flags.dtype, flags.device, plugin=flags.plugin)
    except ValueError as error:
        parser.error(f"argument --device: {error}")
    if found is None:
        return wanted
    return max(1, min(wanted, found.guided if flags.guidance > 0 else found.plain))


def _engine(flags: argparse.Namespace) -> OcrEngine:
    """A reader that looks at pictures as the one of CVTG-2K's script; the judge drops what is read with little."""
    looks = replace(CVTG_2K, least_confidence=0.0)
    if flags.engine == "onnx":
        from varl.services.ocr.engines.onnx import build_onnx

        return build_onnx(model=flags.ocr_model, looks=looks)
    from varl.services.ocr.engines.paddle import build_paddle

    return build_paddle(looks=looks)


def _scorers(parser: Parser, flags: argparse.Namespace, stack: ExitStack) -> list[Scorer]:
    found = list[Scorer]()
    if flags.clip:
        from varl.evaluation.benchmarks.clip_score import ClipScorer  # takes seconds to import

        found.append(Named("clipscore", ClipScorer(flags.clip, flags.device)))
    if flags.url or flags.reward:
        found.append(RewardScorer(stack.enter_context(reward_client(parser, flags)), flags.url or flags.reward))
    return found


def _judge(judge: Judge, pictures: Sequence[Picture], flags: argparse.Namespace) -> list[Verdict]:
    with progress_bar(len(pictures), "image judged") as progress:
        log = flags.out.with_suffix(".jsonl")
        return judge.judge(pictures, log, lambda done: progress(done, len(pictures)))


def _settings(flags: argparse.Namespace, engine: OcrEngine | None) -> dict[str, Any]:
    model = engine.model if engine else None
    drawn = {
        "model": str(flags.model),
        "weights": str(flags.weights or "base"),
        "sampling": vars(sampling_of(flags)),
        "seeds": [*_seeds(flags)],
    }
    return {
        "benchmark": flags.benchmark,
        "ocr": f"{model.engine} {model.name} ({model.revision})" if model else None,
        "min_confidence": flags.min_confidence,
        "clip": flags.clip,
        "reward": flags.url or flags.reward,
    } | (drawn if flags.model else {})


def _words(flags: argparse.Namespace, record: dict[str, Any]) -> str:
    overall, groups = record["overall_results"], record.get(GROUPS[flags.benchmark], {})
    rows = {"overall": overall, **groups, **record.get("seed_results", {})}
    width = max(map(len, rows))
    lines = [_line(f"{name:{width}}", figures) for name, figures in rows.items()]
    if record["failed"]:
        image, why = next(iter(record["failed"].items()))
        lines.append(f"{len(record['failed'])} images could not be judged, the first {image}: {why}")
    name = " ".join(map(str, flags.images))
    table = f"\n{beside_published(TABLES[flags.benchmark], overall, groups, name)}" if flags.benchmark in TABLES else ""
    return "\n".join([*lines, ""]) + f"{table}{flags.out}\n"


def _line(name: str, figures: dict[str, Any]) -> str:
    measures = [key.removesuffix("_se") for key in figures if key.endswith("_se")]
    shown = [
        f"{measure} {figures[measure]:.4f}" + (f" ± {error:.4f}" if (error := figures[f"{measure}_se"]) else "")
        for measure in measures
        if figures[measure] is not None
    ]
    return f"{name} {figures['total_images']:5} images  {'  '.join(shown)}"
