"""Traps of the transformer and of its sampler, one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tests.support.infinity_models import SQUARE, TALL, ByteRows, random_policy
from varl.policy.base import SamplingParams, cells
from varl.policy.distributions import Bitwise, unpack_bits
from varl.policy.infinity import InfinityPolicy
from varl.policy.infinity.blocks import Block
from varl.policy.infinity.transformer import Prompt, Scales
from varl.policy.kv_cache import KVCache
from varl.policy.schedule import split_scales

PROMPT, LONGER = "a red sign", "a red sign that says 'BREAD'"
GUIDED = SamplingParams(cfg=2.0, cfg_constant=True)


@pytest.fixture
def policy() -> InfinityPolicy:
    return random_policy()


def tokens_of(policy: InfinityPolicy, seeds: list[int], prompt: str = PROMPT) -> Tensor:
    return policy.sample(policy.prefill(prompt, False), len(policy.grids), seeds, SamplingParams())[1].tokens


def watched(block: Block, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Rows and places of what the block is called with from now on."""
    real, seen = block.forward, list[tuple[int, ...]]()

    def spy(x: Tensor, *given: object) -> object:
        seen.append(tuple(x.shape[:2]))
        return real(x, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(block, "forward", spy)
    return seen


def taught(policy: InfinityPolicy, text: Tensor | int, tokens: Tensor) -> Tensor:
    """Logits [B, n, bits, 2] of a teacher-forced pass, whole."""
    return policy.module._logits(policy._teach(text, split_scales(tokens, policy.grids)))


def test_a_sites_probability_is_the_product_over_pairs_of_logits(policy: InfinityPolicy) -> None:
    tokens = tokens_of(policy, [1])
    with torch.no_grad():
        pairs = taught(policy, ByteRows().rows(PROMPT), tokens).log_softmax(-1)
        found = policy.distribution(PROMPT, tokens, 0).log_prob(tokens)
    ones = unpack_bits(tokens, 32).long()
    torch.testing.assert_close(found, pairs.gather(-1, ones[..., None])[..., 0].sum(-1))


def test_the_logits_of_a_bit_stand_next_to_each_other(policy: InfinityPolicy) -> None:
    tokens, bit = tokens_of(policy, [1]), 7
    with torch.no_grad():
        before = taught(policy, ByteRows().rows(PROMPT), tokens).diff(dim=-1)[..., 0]
        policy.module.head.bias[2 * bit + 1] += 1.0  # what the published code samples as "bit 7 is 1"
        after = taught(policy, ByteRows().rows(PROMPT), tokens).diff(dim=-1)[..., 0]
    expected = F.one_hot(torch.tensor(bit), 32).expand_as(before)
    torch.testing.assert_close(after - before, expected.to(torch.float32), rtol=0, atol=1e-5)


def test_there_are_as_many_unconditional_rows_as_the_prompt_has(policy: InfinityPolicy) -> None:
    short, long = (policy.prefill(prompt, True).branches[1].prompt for prompt in (PROMPT, LONGER))
    assert len(short.text.memory) == len(PROMPT) + 1 and len(long.text.memory) == len(LONGER) + 1
    assert not torch.allclose(short.text.pooled, long.text.pooled)
    with torch.no_grad():
        rows = policy.module(policy.module.cfg_uncond[: len(PROMPT) + 1])[0]
    torch.testing.assert_close(rows.pooled, short.text.pooled)


def test_guidance_is_the_published_one_with_a_strength_one_less(policy: InfinityPolicy) -> None:
    tokens, rows = tokens_of(policy, [1]), ByteRows().rows(PROMPT)
    with torch.no_grad():
        with_prompt, without = taught(policy, rows, tokens), taught(policy, len(rows), tokens)
        found = policy.distribution(PROMPT, tokens, 0, GUIDED).log_prob(tokens)
    published = 3.0 * with_prompt + (1 - 3.0) * without  # cfg 3, the same at every scale
    torch.testing.assert_close(found, Bitwise(published).log_prob(tokens), rtol=1e-4, atol=1e-4)


def test_the_head_is_modulated_by_the_pooled_prompt_itself(policy: InfinityPolicy) -> None:
    module, x = policy.module, torch.randn(2, 5, SQUARE.transformer.width)
    with torch.no_grad():
        text = module(ByteRows().rows(PROMPT))[0]
        scale, shift = F.linear(F.silu(text.pooled), *module.head_nm.ada_lin[1].parameters()).chunk(2, -1)
        expected = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        expected = F.linear(expected, module.head.weight, module.head.bias)
        torch.testing.assert_close(module._logits(module.head_nm(x, text.pooled)).flatten(2), expected)
        pooled = module.text_proj_for_sos(module.text_norm(ByteRows().rows(PROMPT)))
    torch.testing.assert_close(text.pooled, pooled)
    modulation = module.shared_ada_lin[1](F.silu(pooled)).view(1, 1, 6, -1)  # of the blocks, and of nothing else
    torch.testing.assert_close(text.modulation, modulation)


def run_block(block: Block, x: Tensor, modulation: Tensor) -> Tensor:
    """A block over one scale of six sites without rotation."""
    size = SQUARE.transformer.head_size // 2
    turn, memory = (torch.ones(6, size), torch.zeros(6, size)), torch.linspace(-1, 1, 3 * 64).view(3, 64)
    with torch.no_grad():
        return block(x, modulation, memory, turn, [], [6])[0]  # type: ignore[no-any-return]


def changed(part: str, slot_values: dict[int, float], x: Tensor, other: Tensor) -> bool:
    """Whether another input to, or other weights of, a part matter with these slots of the modulation set."""
    torch.manual_seed(4)
    block = Block(SQUARE.transformer)
    modulation = torch.randn(1, 1, 6, 64)
    block.ada_gss.data.zero_()
    for slot, value in slot_values.items():
        modulation[:, :, slot] = value
    before = run_block(block, x, modulation)
    for parameter in getattr(block, part).parameters():
        parameter.data += torch.randn_like(parameter)
    return not torch.equal(before, run_block(block, other, modulation))


@pytest.mark.parametrize(("slot", "part"), [(0, "sa"), (1, "ffn")])
def test_the_first_two_modulations_are_the_gates(slot: int, part: str) -> None:
    x = torch.randn(1, 6, 64)
    assert not changed(part, {slot: 0.0}, x, x)
    assert all(changed(part, {other: 0.0}, x, x) for other in range(6) if other != slot)


@pytest.mark.parametrize(("scale", "shift", "part"), [(2, 4, "sa"), (3, 5, "ffn")])
def test_then_come_two_scales_and_two_shifts(scale: int, shift: int, part: str) -> None:
    torch.manual_seed(4)
    block, seen = Block(SQUARE.transformer), list[Tensor]()
    modulation = torch.randn(1, 1, 6, 64)
    modulation[:, :, scale], modulation[:, :, shift] = -1.0, 0.25  # 1 - 1 times the input, and a shift
    block.ada_gss.data.zero_()
    getattr(block, part).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    run_block(block, torch.randn(1, 6, 64), modulation)
    assert torch.equal(seen[0], torch.full_like(seen[0], 0.25))


def test_cross_attention_has_neither_gate_nor_modulation() -> None:
    torch.manual_seed(4)
    block, x = Block(SQUARE.transformer), torch.randn(1, 6, 64)
    memory = torch.linspace(-1, 1, 3 * 64).view(3, 64)
    modulation = -block.ada_gss.detach().clone()
    with torch.no_grad():
        torch.testing.assert_close(run_block(block, x, modulation), x + block.ca(block.ca_norm(x), memory))


def test_queries_and_keys_have_unit_length_before_they_turn_and_the_scale_is_bounded() -> None:
    torch.manual_seed(4)
    attention, x = Block(SQUARE.transformer).sa, torch.randn(2, 6, 64)
    attention.scale_mul_1H11.data.copy_(torch.tensor([0.0, 2.0, 4.0, 9.0]).view(1, 4, 1, 1))
    angle = torch.randn(6, 8)
    with torch.no_grad():
        q, k, _ = attention._project(x, (angle.cos(), angle.sin()))
    torch.testing.assert_close(k.norm(dim=-1), torch.ones(2, 4, 6))
    lengths = torch.tensor([1.0, math.exp(2), math.exp(4), 100.0])
    torch.testing.assert_close(q.norm(dim=-1), lengths.view(1, 4, 1).expand(2, 4, 6))


def test_a_scale_is_told_by_its_embedding_alone(policy: InfinityPolicy) -> None:
    module, grid = policy.module, policy.grids[2]
    with torch.no_grad():
        text = module(ByteRows().rows(PROMPT))[0]
        inputs = torch.randn(1, 16, 32)
        runs = [Scales(index, (grid,), inputs, policy._turns[2], keep=False) for index in (2, 3)]
        one, other = (module._embed(run, text) for run in runs)
    difference = module.lvl_embed.weight[3] - module.lvl_embed.weight[2]
    torch.testing.assert_close(other - one, difference.expand_as(one))


def test_nothing_is_dropped_at_random_in_training(policy: InfinityPolicy) -> None:
    policy.module.train()
    tokens, rows = tokens_of(policy, [1]), ByteRows().rows(PROMPT)
    first, kept = policy.distribution(PROMPT, tokens, 0).log_prob(tokens), rows.clone()
    for _ in range(20):  # the published code would replace the prompt about twice
        assert torch.equal(policy.distribution(PROMPT, tokens, 0).log_prob(tokens), first)
        policy.module(rows)
    assert torch.equal(rows, kept)


def test_the_cache_never_holds_the_last_scale_and_a_fork_is_copied_when_it_is_continued() -> None:
    policy = random_policy(TALL)
    after, _ = policy.sample(policy.prefill(PROMPT, True), 2, [1], GUIDED)
    assert after.fork(3).branches[0].cache is after.branches[0].cache
    counts, rows, seen = cells(policy.grids), [], policy.module.sample

    def spy(prompts: Sequence[Prompt], run: Scales, caches: Sequence[KVCache], count: int) -> Tensor:
        rows.append(len(run.inputs) if run.inputs is not None else 1)
        return seen(prompts, run, caches, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy.module, "sample", spy)
        whole, _ = policy.sample(after, len(policy.grids), [1, 2, 3], GUIDED)
    assert rows == [1, 3, 3]  # the third scale is computed once, then sampled for three
    assert len(whole.branches) == 2
    for branch in whole.branches:
        kept, memory = sum(counts[:-1]), branch.cache.memory.room
        assert branch.cache.length == kept and memory.shape[2] == 3 and memory.shape[4] == kept


def test_scoring_computes_a_common_prefix_once(policy: InfinityPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = policy.sample(policy.prefill(PROMPT, False), 2, [1], SamplingParams())
    rest = policy.sample(prefix[0], len(policy.grids), [1, 2, 3], SamplingParams())[1].tokens
    tokens = torch.cat([prefix[1].tokens.expand(3, -1), rest], 1)
    rows = watched(policy.module.blocks[0], monkeypatch)
    found = policy.distribution(PROMPT, tokens, 0).log_prob(tokens)
    assert rows == [(1, 1 + 4 + 16), (3, 36)]  # the third scale is sampled after the prefix, but predicted from it
    apart = torch.cat([policy.distribution(PROMPT, one, 0).log_prob(one) for one in tokens.chunk(3)])
    torch.testing.assert_close(found, apart, rtol=0, atol=1e-4)


def test_a_prompt_and_its_candidates_get_gradients_through_the_shared_prefix(policy: InfinityPolicy) -> None:
    tokens = tokens_of(policy, [1, 2])
    policy.distribution(PROMPT, tokens, 0).log_prob(tokens).sum().backward()  # type: ignore[no-untyped-call]
    missing = [name for name, value in policy.module.named_parameters() if value.grad is None]
    assert missing == ["cfg_uncond"]  # used by guidance alone
    policy.distribution(PROMPT, tokens, 0, GUIDED).log_prob(tokens).sum().backward()  # type: ignore[no-untyped-call]
    gradient, used = policy.module.cfg_uncond.grad, len(PROMPT) + 1
    assert gradient is not None and gradient[:used].abs().sum() > 0 and not gradient[used:].any()


def test_a_long_pass_is_computed_again_on_the_way_back_with_the_same_gradients(
    policy: InfinityPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, found = tokens_of(policy, [1, 2]), list[dict[str, Tensor]]()
    calls = watched(policy.module.blocks[1], monkeypatch)
    for long in (2**28, 0):
        monkeypatch.setattr(policy.module, "long", long)
        policy.module.zero_grad()
        policy.distribution(PROMPT, tokens, 0).log_prob(tokens).sum().backward()  # type: ignore[no-untyped-call]
        gradients = {name: value.grad for name, value in policy.module.named_parameters()}
        found.append({name: grad.clone() for name, grad in gradients.items() if grad is not None})
    assert len(calls) == 2 + 4  # the common prefix and the rest, and both again
    assert all(torch.equal(grad, found[1][name]) for name, grad in found[0].items())
