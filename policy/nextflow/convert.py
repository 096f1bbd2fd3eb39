"""A NextFlow to start training from, out of Qwen2.5-VL's published files (arXiv 2601.02204, section 2).

The command, on the folder that Qwen's files lie in and one that ``NextFlowPolicy.save_tokenizer`` wrote:

    python -m varl.policy.nextflow.convert --qwen Qwen2.5-VL-7B-Instruct --tokenizer tokenizer --out nextflow-7b

Qwen's vision tower is left out. The vocabulary grows by <boi>, <eoi> and padding, which start as the tokens that Qwen
has for the same purpose, and by the visual codes, which start from the codebook.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from varl.policy import shards
from varl.policy.nextflow import read_tokenizer
from varl.policy.nextflow.config import NextFlowConfig, TransformerConfig
from varl.policy.nextflow.paper import QWEN_7B, STAGE_SCALES, TOKENFLOW, paper_config
from varl.policy.nextflow.policy import NextFlowPolicy
from varl.policy.nextflow.qwen_files import EMBEDDING, HEAD, LanguageWeights, qwen_transformer
from varl.policy.nextflow.text import QwenText, open_text
from varl.policy.nextflow.tokenizer import Tokenizer
from varl.policy.nextflow.transformer import NextFlowTransformer, build_adapter, initialise

CONTROLS = ("<|vision_start|>", "<|vision_end|>", "<|endoftext|>")  # where <boi>, <eoi> and padding start
SCALES = "scale_embedding.weight"


@torch.no_grad()
def from_qwen(
    folder: str | Path,
    config: NextFlowConfig,
    tokenizer: Tokenizer | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> NextFlowPolicy:
    """A policy with the language weights of ``folder`` and new visual rows; ``save`` makes a model folder of it.

    folder: config.json, tokenizer.json and model.safetensors, whole or in shards with their index, as published. The
    weights are mapped from the files where device and dtype are theirs; only the embedding and the head, which grow,
    are copied. tokenizer: the vision tokenizer, whose codebook the new rows start from; with None it is fresh, out of
    torch's global random state, as the new rows are.

    Raises:
        ValueError: the files are not those of ``config.transformer``, or lack a tensor or a token.
        OSError: a file is missing or cannot be read.
    """
    source = Path(folder)
    _check(config.transformer, qwen_transformer(source, config.transformer))
    text = open_text(config.transformer, source)
    assert isinstance(text, QwenText)  # noqa: S101  # what _check has seen to
    vision = tokenizer or Tokenizer(config.tokenizer, config.grids)
    with torch.device("meta"):
        module = NextFlowTransformer(config)
    controls = [text.control(token) for token in CONTROLS]
    state = _state(module, LanguageWeights(source), build_adapter(config), vision.quantizer.table(), controls)
    shards.assign(module, state, str(source), device, dtype)
    return NextFlowPolicy(config, vision, module, device, text)


def _check(wanted: TransformerConfig, found: TransformerConfig) -> None:
    differences = [
        f"transformer.{name} is {value}, Qwen's files have {getattr(found, name)}"
        for name, value in wanted
        if value != getattr(found, name)
    ]
    if differences:
        raise ValueError("; ".join(differences))


def _state(
    module: NextFlowTransformer,
    language: LanguageWeights,
    adapter: nn.Sequential,
    table: Tensor,
    controls: list[int],
) -> dict[str, Tensor]:
    """The module's weights: Qwen's by name, and the new ones at the size that Qwen's rows have.

    The adapter gives a code an embedding of the size of a word's. A code's row of the head is that embedding less the
    mean of all, so that codes that look alike start alike and none is preferred.
    """
    words, head = language.get(EMBEDDING), language.get(HEAD)
    codes = _fit(adapter, table, _rms(words))
    codes = codes - codes.mean(0)
    state = {f"adapter.{name}": value for name, value in adapter.state_dict().items()}
    state[SCALES] = torch.randn(module.scale_embedding.weight.shape) * _rms(words)
    state[EMBEDDING] = torch.cat([words, words[controls]])
    state[HEAD] = torch.cat([head, head[controls], (codes * (_rms(head) / _rms(codes))).to(head.dtype)])
    return state | {name: language.get(name) for name in module.state_dict() if name not in state}


def _fit(adapter: nn.Sequential, table: Tensor, size: float) -> Tensor:
    """Scale a fresh adapter until its outputs for the codes have this root mean square; returns them, [codes, dim]."""
    adapter.apply(initialise)
    adapter.get_submodule("2").get_parameter("weight").mul_(size / _rms(adapter(table)))
    codes: Tensor = adapter(table)
    return codes


def _rms(x: Tensor) -> float:
    """Root mean square, summed in float32 without a float32 copy."""
    norm: Tensor = torch.linalg.vector_norm(x, dtype=torch.float32)
    return float(norm.item() / math.sqrt(x.numel()))


def main() -> None:
    """Parse flags, convert, write."""
    parser = argparse.ArgumentParser(prog="python -m varl.policy.nextflow.convert", description=__doc__)
    parser.add_argument("--qwen", type=Path, required=True, help="folder of Qwen2.5-VL's published files")
    parser.add_argument("--tokenizer", type=Path, help="folder with the vision tokenizer; without it, a random one")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--stage", type=int, choices=list(STAGE_SCALES), default=1024, help="pixels of a square's side")
    parser.add_argument("--aspect", type=int, nargs=2, default=[1, 1], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seed", type=int, default=0, help="of the new rows")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    sizes = NextFlowConfig.read(args.tokenizer).tokenizer if args.tokenizer else TOKENFLOW
    height, width = args.aspect
    config = paper_config(args.stage, height, width, qwen_transformer(args.qwen, QWEN_7B), sizes)
    tokenizer = read_tokenizer(args.tokenizer, config) if args.tokenizer else None
    from_qwen(args.qwen, config, tokenizer).save(args.out)


if __name__ == "__main__":
    main()
