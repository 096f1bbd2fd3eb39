"""Figures of published models, from the tables that they stand in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Row = tuple[float | None, ...]


@dataclass(frozen=True)
class Published:
    """A table, sorted by the first of its ``columns``.

    overall: the measures of the first columns; each further one is ``overall[0]`` in the group that it is called after.
    """

    columns: tuple[str, ...]
    overall: tuple[str, ...]
    rows: Mapping[str, Row]


# Table 1 of arXiv 2601.02256
CVTG_2K = Published(
    ("Word Accuracy", "NED", "CLIPScore"),
    ("word_accuracy", "ned", "clipscore"),
    {
        "FLUX.1 dev": (0.4965, 0.6879, 0.7401),
        "SD3.5 Large": (0.6548, 0.8470, 0.7797),
        "AnyText": (0.1804, 0.4675, 0.7432),
        "TextDiffuser-2": (0.2326, 0.4353, 0.6765),
        "RAG-Diffusion": (0.2648, 0.4498, 0.6688),
        "3DIS": (0.3813, 0.6505, 0.7767),
        "TextCrafter (FLUX)": (0.7370, 0.8679, 0.7868),
        "TextCrafter (SD3.5)": (0.7600, 0.9038, 0.8023),
        "Seedream 3.0": (0.5924, 0.8537, 0.7821),
        "GPT Image 1 High": (0.8569, 0.9478, 0.7982),
        "Qwen-Image": (0.8288, 0.9116, 0.8017),
        "NextFlow": (0.5536, 0.7816, 0.8068),
        "NextFlow-RL": (0.7841, 0.9081, 0.8224),
    },
)
# The table of arXiv 2508.03789, with the headings of its project page: the README of its code has the last five in
# another order.
HPSV3 = Published(
    (
        "All", "Characters", "Arts", "Design", "Architecture", "Animals", "Natural Scenery", "Transportation",
        "Products", "Plants", "Food", "Science", "Others",
    ),
    ("hpsv3",),
    {
        "Kolors": (10.55, 11.79, 10.47, 9.87, 10.82, 10.60, 9.89, 10.68, 10.93, 10.50, 10.63, 11.06, 9.51),
        "FLUX.1 dev": (10.43, 11.70, 10.32, 9.39, 10.93, 10.38, 10.01, 10.84, 11.24, 10.21, 10.38, 11.24, 9.16),
        "Playground 2.5": (10.27, 11.07, 9.84, 9.64, 10.45, 10.38, 9.94, 10.51, 10.62, 10.15, 10.62, 10.84, 9.39),
        "Infinity": (10.26, 11.17, 9.95, 9.43, 10.36, 9.27, 10.11, 10.36, 10.59, 10.08, 10.30, 10.59, 9.62),
        "CogView4": (9.61, 10.72, 9.86, 9.33, 9.88, 9.16, 9.45, 9.69, 9.86, 9.45, 9.49, 10.16, 8.97),
        "PixArt-Sigma": (9.37, 10.08, 9.07, 8.41, 9.83, 8.86, 8.87, 9.44, 9.57, 9.52, 9.73, 10.35, 8.58),
        "Gemini 2.0 Flash": (9.21, 9.98, 8.44, 7.64, 10.11, 9.42, 9.01, 9.74, 9.64, 9.55, 10.16, 7.61, 9.23),
        "SDXL": (8.20, 8.67, 7.63, 7.53, 8.57, 8.18, 7.76, 8.65, 8.85, 8.32, 8.43, 8.78, 7.29),
        "HunyuanDiT": (8.19, 7.96, 8.11, 8.28, 8.71, 7.24, 7.86, 8.33, 8.55, 8.28, 8.31, 8.48, 8.20),
        "SD3": (5.31, 6.70, 5.98, 5.15, 5.25, 4.09, 5.24, 4.25, 5.71, 5.84, 6.01, 5.71, 4.58),
        "SD2": (-0.24, -0.34, -0.56, -1.35, -0.24, -0.54, -0.32, 1.00, 1.11, -0.01, -0.38, -0.38, -0.84),
    },
)  # fmt: skip
TABLES = {"cvtg-2k": CVTG_2K, "hpsv3": HPSV3}


def beside_published(
    table: Published, overall: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]], name: str
) -> str:
    """The published models from the lowest up, with one's own figures among them."""
    by_column = {_plain(group): figures.get(table.overall[0]) for group, figures in groups.items()}
    own: Row = (
        *(overall.get(measure) for measure in table.overall),
        *(by_column.get(_plain(column)) for column in table.columns[len(table.overall) :]),
    )
    rows = sorted({**table.rows, name: own}.items(), key=lambda row: -1e9 if row[1][0] is None else row[1][0])
    first, widths = max(len(model) for model, _ in rows), [max(7, len(column)) for column in table.columns]
    lines = [["", *table.columns], *([model, *map(_number, figures)] for model, figures in rows)]
    return "".join(
        f"{model:{first}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True)) + "\n"
        for model, *cells in lines
    )


def _plain(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
