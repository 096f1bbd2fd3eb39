"""NextFlow-7B and Infinity-2B with random weights: one image, a group of 16 with two continuations, and updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.setting import Figures, Setting, counted, materialised
from varl.policy.base import Sampled, SamplingParams, SeveralPrompts, TrainablePolicy, cells
from varl.policy.infinity import InfinityConfig, InfinityPolicy
from varl.policy.infinity import TokenizerConfig as InfinityTokenizerConfig
from varl.policy.infinity.config import PRESETS
from varl.policy.infinity.tokenizer import Tokenizer as InfinityTokenizer
from varl.policy.infinity.transformer import InfinityTransformer
from varl.policy.lora import Lora, adapters_off, attach
from varl.policy.nextflow import NextFlowPolicy
from varl.policy.nextflow.config import NextFlowConfig, TokenizerConfig, TransformerConfig
from varl.policy.nextflow.paper import paper_config
from varl.policy.nextflow.text import GuessedText
from varl.policy.nextflow.tokenizer import Tokenizer
from varl.policy.nextflow.transformer import NextFlowTransformer
from varl.policy.recompute import Recomputes
from varl.trainer.objectives.vmr import Stage

PROMPT = (
    "a wooden sign at a country road that says 'FRESH BREAD' in white letters, a windmill behind it, late afternoon"
)
GROUP, CONTINUATIONS = 16, 2  # arXiv 2601.02256, section 4.1
RANK = 32  # of adapters
PROMPTS = 8
NEXTFLOW = SamplingParams(top_k=2, top_p=0.9, cfg=5.0)  # the same
INFINITY = SamplingParams(cfg=3.0, cfg_constant=True)  # guidance 4 in the published code's terms, temperature 1


def nextflow(setting: Setting) -> NextFlowPolicy:
    """NextFlow at 7B and 1024 x 1024 pixels, or a tiny one."""
    tiny = NextFlowConfig(
        tokenizer=TokenizerConfig(codes=64, encoder=((16, 1), (16, 1)), decoder=((16, 1), (16, 1)), stem=2),
        transformer=TransformerConfig(dim=32, depth=2, heads=2, kv_heads=1, mlp_dim=64, rope_sections=(2, 3, 3)),
    )
    config = paper_config() if setting.full else tiny
    with torch.device("meta"):
        tokenizer, module = Tokenizer(config.tokenizer, config.grids), NextFlowTransformer(config)
    materialised(tokenizer, setting.device, torch.float32)
    materialised(module, setting.device, setting.dtype)
    return NextFlowPolicy(config, tokenizer, module, str(setting.device), GuessedText())


class RandomRows:
    """Rows of a text encoder for any prompt."""

    def __init__(self, width: int) -> None:
        self._width = width

    def rows(self, prompt: str) -> Tensor:
        """float32, a row for four bytes."""
        return torch.randn(1 + len(prompt) // 4, self._width, generator=torch.Generator().manual_seed(0))


def infinity(setting: Setting) -> InfinityPolicy:
    """Infinity-2B at 1024 x 1024 pixels, or a tiny one."""
    tokenizer_size, size, scales = InfinityTokenizerConfig(bits=32), PRESETS["2B"], 13
    if not setting.full:
        tokenizer_size = InfinityTokenizerConfig(bits=32, channels=32, multipliers=(1, 1, 1, 1, 1), blocks=1)
        size = size.model_copy(update={"width": 64, "depth": 2, "heads": 4, "chunks": 2, "pool_heads": 4})
        scales = 4
    config = InfinityConfig(tokenizer=tokenizer_size, transformer=size, scales=scales)
    with torch.device("meta"):
        tokenizer, module = InfinityTokenizer(config.tokenizer, config.grids), InfinityTransformer(config)
    materialised(tokenizer, setting.device, torch.float32)
    materialised(module, setting.device, setting.dtype)
    return InfinityPolicy(config, tokenizer, module, RandomRows(size.text_width), str(setting.device))


def sampled(setting: Setting, policy: TrainablePolicy, params: SamplingParams, split: int) -> Iterator[Figures]:
    """Seconds of one image and of a group, and their shares of the matrix rate by counted FLOPs."""
    last = len(policy.grids)

    def image() -> Sampled:
        return policy.sample(policy.prefill(PROMPT, params.cfg > 0), last, [1], params)[1]

    def group(candidates: int) -> Sampled:
        state, _ = policy.sample(policy.prefill(PROMPT, params.cfg > 0), split, range(candidates), params)
        return policy.sample(state, last, range(CONTINUATIONS * candidates), params)[1]

    flops = counted(image, setting.device)
    seconds, tokens = setting.seconds(image), image().tokens
    yield {"image_s": seconds, "image_share": setting.share(flops, seconds), "image_gib": setting.peak_gib()}
    decode = partial(policy.decode, tokens)
    decode()
    yield {"decode_s": setting.seconds(decode), "decode_gib": setting.peak_gib()}
    candidates = GROUP if setting.full else 2
    work = partial(group, candidates)
    flops = counted(work, setting.device)
    seconds, images = setting.seconds(work, 1), CONTINUATIONS * candidates
    yield {"group_s": seconds, "group_share": setting.share(flops, seconds), "group_images_s": images / seconds}
    yield {
        "group_gib": setting.peak_gib(),
        "forked_saving": 1 - seconds / setting.seconds(partial(whole, policy, params, images), 1),
    }
    prompts = [f"{PROMPT} {index}" for index in range(PROMPTS)]
    yield {"prompts_images_s": PROMPTS / setting.seconds(partial(each, policy, params, prompts), 1)}


def whole(policy: TrainablePolicy, params: SamplingParams, images: int) -> Sampled:
    """As many images, none of which shares a prefix with another."""
    return policy.sample(policy.prefill(PROMPT, params.cfg > 0), len(policy.grids), range(images), params)[1]


def each(policy: TrainablePolicy, params: SamplingParams, prompts: Sequence[str]) -> Sampled:
    """An image of each prompt, in one call."""
    assert isinstance(policy, SeveralPrompts)
    return policy.sample(policy.prefill_all(prompts, params.cfg > 0), len(policy.grids), range(len(prompts)), params)[1]


def updated(setting: Setting, policy: TrainablePolicy, split: int) -> Iterator[Figures]:
    """Passes of the trainer over prefix and suffix: log-probabilities, KL to the reference, backward, AdamW.

    The reference is the base of adapters or, where all is trained, the policy itself without gradients, whose pass
    takes as long as that of another copy. ``model_share`` leaves out what blocks computed again.
    """
    assert isinstance(policy.module, Recomputes)
    parameters = [one for one in policy.module.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-6)
    for stage, count in (
        ((Stage.PREFIX, 8), (Stage.SUFFIX, 1)) if setting.full else ((Stage.PREFIX, 2), (Stage.SUFFIX, 2))
    ):
        first, last = (0, split) if stage is Stage.PREFIX else (split, len(policy.grids))
        tokens, places = candidates_of(policy, first, last, count, setting.device), sum(cells(policy.grids[first:last]))

        def work(first: int = first, tokens: Tensor = tokens, places: int = places) -> None:
            own = policy.distribution(PROMPT, tokens, first)
            with torch.no_grad(), adapters_off(policy.module):
                reference = policy.distribution(PROMPT, tokens, first)
            found = own.evaluate(tokens[:, -places:], reference)
            (found.log_probs.mean() + found.kl.mean()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        name, again = stage.value, CountedAgain()
        yield {f"{name}_candidates": count, f"{name}_tokens": count * places}
        policy.module.around = again.around
        flops = counted(work, setting.device)
        del policy.module.around  # the class's own, which counts nothing
        seconds = setting.seconds(work)
        yield {f"{name}_update_s": seconds, f"{name}_update_gib": setting.peak_gib()}
        yield {
            f"{name}_update_share": setting.share(flops, seconds),
            f"{name}_update_model_share": setting.share(flops - again.flops, seconds),
        }


class CountedAgain:
    """FLOPs of the blocks that a pass computes again on its way back."""

    def __init__(self) -> None:
        self.flops = 0

    def around(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For Recomputes.around."""
        return nullcontext(), self._count()

    @contextmanager
    def _count(self) -> Iterator[None]:
        counter = FlopCounterMode(display=False)
        try:
            with counter:
                yield
        finally:
            self.flops += counter.get_total_flops()


def candidates_of(policy: TrainablePolicy, first: int, last: int, count: int, device: torch.device) -> Tensor:
    """Random tokens int64 [count, cells of scales 0 to last - 1] that share the scales before ``first``."""
    shared, own = sum(cells(policy.grids[:first])), sum(cells(policy.grids[first:last]))
    prefix = torch.randint(2, (1, shared), device=device).expand(count, -1)
    return torch.cat([prefix, torch.randint(2, (count, own), device=device)], 1)


def _sample_nextflow(setting: Setting) -> Iterator[Figures]:
    yield from sampled(setting, nextflow(setting), NEXTFLOW, 12 if setting.full else 3)


def _sample_infinity(setting: Setting) -> Iterator[Figures]:
    yield from sampled(setting, infinity(setting), INFINITY, 7 if setting.full else 2)


def _update_nextflow(setting: Setting) -> Iterator[Figures]:
    policy = nextflow(setting)
    attach(policy.module, Lora(RANK, 2.0 * RANK, policy.lora_targets))
    yield {"trained": f"adapters of rank {RANK}"}
    yield from updated(setting, policy, 12 if setting.full else 3)


def _update_infinity(setting: Setting) -> Iterator[Figures]:
    policy = infinity(setting)
    policy.select("all")
    yield {"trained": "all"}
    yield from updated(setting, policy, 7 if setting.full else 2)


MEASURES: Mapping[str, Callable[[Setting], Iterator[Figures]]] = {
    "nextflow": _sample_nextflow,
    "infinity": _sample_infinity,
    "update_nextflow": _update_nextflow,
    "update_infinity": _update_infinity,
}
