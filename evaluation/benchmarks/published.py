"""Figures of published models on CVTG-2K, from the tables that they stand in: Word Accuracy, NED, CLIPScore."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Table 1 of arXiv 2601.02256
CVTG_2K = {
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
}
COLUMNS = ("word_accuracy", "ned", "clipscore")


def beside_published(overall: Mapping[str, Any], name: str) -> str:
    """A table of the published models by Word Accuracy, with one's own figures in its place."""
    rows = {model: dict(zip(COLUMNS, figures, strict=True)) for model, figures in CVTG_2K.items()} | {name: overall}
    ordered = sorted(rows.items(), key=lambda row: row[1]["word_accuracy"] or 0.0)
    width = max(len(model) for model in rows)
    lines = [f"{'':{width}}  Word Accuracy     NED  CLIPScore"]
    for model, figures in ordered:
        cells = [f"{value:.4f}" if (value := figures[column]) is not None else "-" for column in COLUMNS]
        lines.append(f"{model:{width}}  {cells[0]:>13}  {cells[1]:>6}  {cells[2]:>9}")
    return "\n".join(lines) + "\n"
