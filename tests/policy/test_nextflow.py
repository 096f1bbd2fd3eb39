"""The sampler's cache, its seeds and its log-probabilities against passes that recompute everything."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tests.support.paths import ROOT
from tests.support.plain_sampling import probabilities, sample
from varl.policy.base import Sampled, SamplingParams, cells, scale_of_token
from varl.policy.nextflow import NextFlowPolicy, build_random, load, load_tokenizer
from varl.policy.nextflow.quantizer import SelfCorrection
from varl.policy.nextflow.sequence import block_causal, padded_prompts
from varl.policy.sampling import guidance, guided, uniforms
from varl.policy.schedule import split_scales
from varl.tiny.pretrain.train_policy import forward_batch

PROMPT = "a red sign that says 'BREAD'"
SAMPLERS = [
    SamplingParams(),
    SamplingParams(temperature=0.7, top_k=6, top_p=0.9, cfg=3.0),
    SamplingParams(cfg=2.0, cfg_constant=True),
]


@pytest.fixture(scope="module")
def policy() -> NextFlowPolicy:
    return build_random(3)


def sample_all(policy: NextFlowPolicy, seeds: list[int], params: SamplingParams) -> Sampled:
    return policy.sample(policy.prefill(PROMPT, params.cfg > 0), len(policy.grids), seeds, params)[1]


def sample_without_cache(policy: NextFlowPolicy, seeds: list[int], params: SamplingParams) -> Tensor:
    """Every scale from a whole teacher-forced pass over all that came before."""
    tokens = torch.zeros(len(seeds), 0, dtype=torch.long)
    for scale, size in enumerate(cells(policy.grids)):
        probe = torch.cat([tokens, torch.zeros(len(seeds), size, dtype=torch.long)], 1)
        logits = policy.distribution(PROMPT, probe, scale).logits()
        if params.cfg > 0:
            logits = guided(
                logits, policy.distribution("", probe, scale).logits(), guidance(params, scale, len(policy.grids))
            )
        chosen = sample(probabilities(logits.detach(), params), uniforms(seeds, scale, size))
        tokens = torch.cat([tokens, chosen], 1)
    return tokens


@pytest.mark.parametrize("params", SAMPLERS)
def test_cache_and_no_cache_agree_token_for_token(policy: NextFlowPolicy, params: SamplingParams) -> None:
    seeds = [11, 12, 13, 14]
    assert torch.equal(sample_all(policy, seeds, params).tokens, sample_without_cache(policy, seeds, params))


@pytest.mark.parametrize("params", SAMPLERS)
def test_teacher_forced_log_probs_equal_the_samplers(policy: NextFlowPolicy, params: SamplingParams) -> None:
    sampled = sample_all(policy, [1, 2, 3, 4, 5], params)
    log_probs = policy.distribution(PROMPT, sampled.tokens, 0).log_prob(sampled.tokens)
    assert (log_probs - sampled.log_probs).abs().max() <= 1e-4
    assert sampled.log_probs.exp().std() > 0  # not a constant that would agree with anything


def test_without_temperature_and_guidance_sampled_log_probs_are_plain_ones(
    policy: NextFlowPolicy,
) -> None:
    tokens = sample_all(policy, [1, 2], SamplingParams()).tokens
    plain, same, other = (
        policy.distribution(PROMPT, tokens, 0, params).log_prob(tokens)
        for params in (None, SamplingParams(), SamplingParams(temperature=0.7))
    )
    assert torch.equal(plain, same) and not torch.equal(plain, other)


@pytest.mark.parametrize("params", SAMPLERS)
def test_a_few_sites_at_a_time_draw_the_same(
    policy: NextFlowPolicy, params: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, sizes, head = sample_all(policy, [1, 2], params), [], policy.module.visual_logits
    monkeypatch.setattr("varl.policy.nextflow.draw.CACHED", 32 * 2 * 5)  # five sites of two candidates

    def seen(hidden: Tensor) -> Tensor:
        sizes.append(hidden.shape[1])
        return head(hidden)

    monkeypatch.setattr(policy.module, "visual_logits", seen)
    sliced = sample_all(policy, [1, 2], params)
    assert max(sizes) == 5
    assert torch.equal(sliced.tokens, whole.tokens)
    assert (sliced.log_probs - whole.log_probs).abs().max() <= 1e-5


@pytest.mark.parametrize("split", [1, 3, 4])
def test_a_fork_continues_every_prefix(policy: NextFlowPolicy, split: int) -> None:
    params = SamplingParams()
    state, prefix = policy.sample(policy.prefill(PROMPT, False), split, [5, 6], params)
    _, rest = policy.sample(state.fork(2), len(policy.grids), [21, 22, 23, 24], params)
    whole = torch.cat([prefix.tokens.repeat_interleave(2, 0), rest.tokens], 1)
    assert torch.equal(policy.sample(state, len(policy.grids), [21, 22, 23, 24], params)[1].tokens, rest.tokens)
    teacher = policy.distribution(PROMPT, whole, split).log_prob(rest.tokens)
    assert (teacher - rest.log_probs).abs().max() <= 1e-4
    alone = policy.sample(
        policy.sample(policy.prefill(PROMPT, False), split, [6], params)[0], len(policy.grids), [23], params
    )[1]
    assert torch.equal(alone.tokens[0], rest.tokens[2])
    assert not torch.equal(rest.tokens[0], rest.tokens[1])


@pytest.mark.parametrize("params", SAMPLERS)
def test_a_state_can_be_continued_any_number_of_times(policy: NextFlowPolicy, params: SamplingParams) -> None:
    """Continuations share memory; what one writes must not reach the others."""
    state, _ = policy.sample(policy.prefill(PROMPT, params.cfg > 0), 2, [5, 6], params)
    first, whole = policy.sample(state, 4, [21, 22], params)
    other, _ = policy.sample(state, 4, [31, 32], params)
    again = policy.sample(state, 4, [21, 22], params)[1]
    assert torch.equal(again.tokens, whole.tokens)
    last = len(policy.grids)
    ends = [policy.sample(one, last, [41, 42], params)[1].tokens for one in (first, other, first.fork(1))]
    assert torch.equal(ends[0], ends[2]) and not torch.equal(ends[0], ends[1])


@pytest.mark.parametrize("params", SAMPLERS)
def test_a_few_candidates_at_a_time_draw_the_same(
    policy: NextFlowPolicy, params: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, sizes, norm = sample_all(policy, [1, 2, 3, 4, 5], params), [], policy.module.norm.forward
    monkeypatch.setattr("varl.policy.kv_cache.CACHED", 2 * 64)

    def seen(x: Tensor) -> Tensor:
        sizes.append(x.shape[0] * x.shape[1])
        return norm(x)

    monkeypatch.setattr(policy.module.norm, "forward", seen)
    sliced = sample_all(policy, [1, 2, 3, 4, 5], params)
    assert max(sizes) == 2 * 64  # two candidates of the last scale, or one with and without its prompt
    assert torch.equal(sliced.tokens, whole.tokens)


@pytest.mark.parametrize("split", [1, 3, 4])
def test_a_shared_prefix_is_computed_once_and_changes_nothing(policy: NextFlowPolicy, split: int) -> None:
    state, prefix = policy.sample(policy.prefill(PROMPT, False), split, [5], SamplingParams())
    _, rest = policy.sample(state, len(policy.grids), [21, 22, 23], SamplingParams())
    whole = torch.cat([prefix.tokens.expand(3, -1), rest.tokens], 1)
    together = policy.distribution(PROMPT, whole, 0).logits()
    alone = torch.cat([policy.distribution(PROMPT, whole[i : i + 1], 0).logits() for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)
    loss = together.logsumexp(-1).mean()
    gradients = torch.autograd.grad(loss, list(policy.module.layers.parameters()))
    expected = torch.autograd.grad(alone.logsumexp(-1).mean(), list(policy.module.layers.parameters()))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients, expected, strict=True))


def test_a_candidate_does_not_depend_on_its_batch_mates(policy: NextFlowPolicy) -> None:
    together = sample_all(policy, [7, 8, 9], SAMPLERS[1]).tokens
    alone = torch.cat([sample_all(policy, [seed], SAMPLERS[1]).tokens for seed in (7, 8, 9)])
    assert torch.equal(together, alone)


def test_the_pretraining_pass_over_mixed_prompts_agrees(policy: NextFlowPolicy) -> None:
    prompts = [PROMPT, "a blue wall with 'SEA' in white", ""]
    tokens = torch.randint(32, (3, sum(cells(policy.grids))), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        batched = forward_batch(policy, prompts, split_scales(tokens, policy.grids))[0]
        for row, prompt in enumerate(prompts):
            assert torch.allclose(
                batched[row], policy.distribution(prompt, tokens[row : row + 1], 0).logits()[0], atol=1e-5
            )


def test_later_scales_and_the_same_scale_are_not_seen(policy: NextFlowPolicy) -> None:
    tokens = sample_all(policy, [1], SamplingParams()).tokens
    scale = scale_of_token(policy.grids)
    changed = tokens.clone()
    changed[:, scale >= 3] = (changed[:, scale >= 3] + 1) % 32
    before, after = (policy.distribution(PROMPT, given, 0).logits() for given in (tokens, changed))
    assert torch.equal(before[:, scale <= 3], after[:, scale <= 3])
    assert not torch.allclose(before[:, scale == 4], after[:, scale == 4])


def test_block_causal_mask_by_hand() -> None:
    assert block_causal([(1, 1), (1, 2)]).tolist() == [[True, False, False], [True, True, True], [True, True, True]]


def test_padding_goes_left_and_positions_count_from_the_first_real_token(policy: NextFlowPolicy) -> None:
    tokens, real, positions = padded_prompts(["ab", ""], policy.text, policy.module.text_size)
    assert real.tolist() == [[True, True, True], [False, False, True]]
    assert positions[0, :, 0].tolist() == [0, 1, 2]
    assert positions[1, -1].tolist() == [0, 0, 0]
    assert tokens[0, -1] == tokens[1, -1]


def test_weights_round_trip_and_strangers_are_refused(policy: NextFlowPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path / "m")
    again = load(tmp_path / "m")
    sampled = sample_all(policy, [4], SamplingParams()).tokens
    assert torch.equal(sample_all(again, [4], SamplingParams()).tokens, sampled)
    assert np.array_equal(again.decode(sampled), policy.decode(sampled))
    with pytest.raises(ValueError, match="does not fit"):
        again.load_weights(str(tmp_path / "m" / "tokenizer.safetensors"))


def test_bad_requests_are_named(policy: NextFlowPolicy) -> None:
    state = policy.prefill(PROMPT, False)
    with pytest.raises(ValueError, match="to_scale"):
        policy.sample(state, 0, [1], SamplingParams())
    with pytest.raises(ValueError, match="guided"):
        policy.sample(state, 1, [1], SamplingParams(cfg=1.0))
    with pytest.raises(ValueError, match="seeds"):
        policy.sample(policy.sample(state, 1, [1, 2], SamplingParams())[0], 2, [1], SamplingParams())
    with pytest.raises(ValueError, match="end at a scale"):
        split_scales(torch.zeros(1, 4, dtype=torch.long), policy.grids)


def test_encoding_is_residual_and_shares_one_index(policy: NextFlowPolicy) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    encoded = policy.tokenizer.encode(images)
    assert [tuple(t.shape[1:]) for t in encoded.targets] == list(policy.grids)
    assert torch.allclose(
        policy.tokenizer.quantizer.accumulate(encoded.inputs, policy.grids[-1]), encoded.quantized, atol=1e-5
    )
    features = policy.tokenizer.features(images)
    quantizer = policy.tokenizer.quantizer
    first = features.mean((2, 3))
    by_hand = [
        min(
            range(32),
            key=lambda k: float(
                ((row[:8] - quantizer.semantic[k]) ** 2).sum() + ((row[8:] - quantizer.pixel[k]) ** 2).sum()
            ),
        )
        for row in first
    ]
    assert encoded.targets[0].flatten().tolist() == by_hand


def test_autocast_moves_no_code() -> None:
    policy = load(ROOT / "checkpoints" / "tiny")
    tokens = sample_all(policy, [1, 2, 3, 4], SamplingParams()).tokens
    quantizer, seen = policy.tokenizer.quantizer, []
    with torch.no_grad():
        images = policy.tokenizer.decode(tokens)
        features = policy.tokenizer.features(images)
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                seen.append(torch.cat([part.flatten() for part in quantizer.encode(features, policy.grids).targets]))
                assert quantizer.distances(features.permute(0, 2, 3, 1)).dtype == torch.float32
    assert torch.equal(seen[0], seen[1])


def test_self_correction_perturbs_inputs_and_keeps_targets_nearest(policy: NextFlowPolicy) -> None:
    torch.manual_seed(0)
    images = torch.rand(8, 3, 64, 64) * 2 - 1
    encoded = policy.tokenizer.encode(images, SelfCorrection(fraction=0.6, top_k=8, temperature=50.0))
    share = torch.cat([(a != b).flatten() for a, b in zip(encoded.inputs, encoded.targets, strict=True)]).float().mean()
    assert 0.4 < share < 0.6  # 60 % sampled among 8, one of which is the nearest
    assert torch.equal(policy.tokenizer.encode(images).targets[0], encoded.targets[0])


def test_a_tokenizer_alone_waits_for_its_transformer(policy: NextFlowPolicy, tmp_path: Path) -> None:
    policy.save_tokenizer(tmp_path)
    with pytest.raises(OSError, match=r"policy\.safetensors"):
        load(tmp_path)
    fresh = load_tokenizer(tmp_path)
    trained = policy.tokenizer.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in fresh.tokenizer.state_dict().items())
    assert not torch.equal(fresh.module.embed_tokens.weight, policy.module.embed_tokens.weight)


def test_scales_are_attended_to_one_by_one_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask keeps fused kernels from being used, and at 1024 x 1024 pixels has 10,000 times 10,000 places."""
    model, masked, real = build_random(0), list[bool](), F.scaled_dot_product_attention

    def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, enable_gqa: bool) -> Tensor:
        masked.append(attn_mask is not None)
        return real(q, k, v, attn_mask=attn_mask, enable_gqa=enable_gqa)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    model.distribution(PROMPT, torch.zeros(2, sum(cells(model.grids)), dtype=torch.long), 0)
    layers = len(model.module.layers)
    assert sum(masked) == layers  # the text's own
    assert len(masked) == layers * len(model.grids)  # and one a scale, but for the first, which the text predicts
