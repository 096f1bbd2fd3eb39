"""What every policy has to do, whatever its architecture.

Subclass ``PolicyConformance`` in a test file and say how to build yours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from varl.policy import lora
from varl.policy.base import LogProbs, Sampled, SamplerState, SamplingParams, SeveralPrompts, TrainablePolicy, cells

PROMPT = "a red sign that says 'BREAD'"
PLAIN = SamplingParams()
SHARP = SamplingParams(temperature=0.7, top_p=0.9, cfg=2.0)
HOT = SamplingParams(temperature=1.8, cfg=1.5, cfg_constant=True)
SAMPLERS = pytest.mark.parametrize(
    "params", [PLAIN, SHARP, HOT, SamplingParams(top_k=1)], ids=["plain", "sharp", "hot", "greedy"]
)
KINDS = pytest.mark.parametrize("kind", ["plain", "sampled"])


class PolicyConformance:
    """Checks of one policy; ``build`` is what a subclass must give."""

    float32_tolerance = 1e-4  # of log-probabilities: cached against teacher-forced, one batch size against another
    bfloat16_tolerance = (
        0.05  # of a token's log-probability, bfloat16 against float32 and bfloat16 cached against teacher-forced
    )
    bfloat16_mean_tolerance = 0.01  # the same, mean over tokens

    def build(self, dtype: torch.dtype) -> TrainablePolicy:
        """The policy in this dtype, always with the same weights (rounded to it)."""
        raise NotImplementedError

    @pytest.fixture
    def policy(self) -> TrainablePolicy:
        """In float32."""
        return self.build(torch.float32)

    @SAMPLERS
    @KINDS
    def test_sampler_and_scorer_agree(self, policy: TrainablePolicy, params: SamplingParams, kind: LogProbs) -> None:
        sampled = sample(policy, [1, 2, 3], params, kind)
        scored = score(policy, sampled.tokens, None if kind == "plain" else params)
        assert sampled.log_probs.dtype == scored.dtype == torch.float32
        assert (scored - sampled.log_probs).abs().max() <= self.float32_tolerance
        if params.top_k != 1:
            assert sampled.log_probs.std() > 0  # no constant that would agree with anything

    def test_the_two_kinds_of_log_probs_differ(self, policy: TrainablePolicy) -> None:
        tokens = sample(policy, [1, 2], HOT).tokens
        plain, sampled = score(policy, tokens, None), score(policy, tokens, HOT)
        assert (plain - sampled).abs().max() > 10 * self.float32_tolerance
        assert torch.equal(score(policy, tokens, PLAIN), plain)

    def test_tokens_fit_their_grids_and_their_bits(self, policy: TrainablePolicy) -> None:
        tokens = sample(policy, [1, 2], PLAIN).tokens
        assert tuple(tokens.shape) == (2, sum(cells(policy.grids))) and tokens.dtype == torch.int64
        assert 1 <= policy.bits_per_site <= 64
        if policy.codes is not None:
            assert policy.codes <= 2**policy.bits_per_site
        if policy.bits_per_site < 64:
            assert int(tokens.min()) >= 0 and int(tokens.max()) < (policy.codes or 2**policy.bits_per_site)

    @SAMPLERS
    def test_a_seed_decides_and_batch_mates_do_not(self, policy: TrainablePolicy, params: SamplingParams) -> None:
        together, again = (sample(policy, [7, 8, 9], params) for _ in range(2))
        alone = sample(policy, [8], params)
        assert torch.equal(together.tokens, again.tokens)
        assert torch.equal(together.tokens[1:2], alone.tokens)
        assert (together.log_probs[1:2] - alone.log_probs).abs().max() <= self.float32_tolerance
        if params.top_k != 1:
            assert not torch.equal(together.tokens[0], together.tokens[1])

    def test_scores_do_not_depend_on_batch_mates(self, policy: TrainablePolicy) -> None:
        tokens = sample(policy, [1, 2, 3], PLAIN).tokens
        alone = torch.cat([score(policy, tokens[row : row + 1], HOT) for row in range(3)])
        assert (score(policy, tokens, HOT) - alone).abs().max() <= self.float32_tolerance

    @pytest.mark.parametrize("params", [PLAIN, HOT], ids=["plain", "guided"])
    def test_prompts_that_are_sampled_together_are_sampled_as_alone(
        self, policy: TrainablePolicy, params: SamplingParams
    ) -> None:
        if not isinstance(policy, SeveralPrompts):
            pytest.skip("it samples a prompt at a time")
        last, split, prompts = len(policy.grids), len(policy.grids) // 2, [PROMPT, "a dog", PROMPT + " and more"]
        state, first = policy.sample(policy.prefill_all(prompts, params.cfg > 0), split, range(6), params)
        assert state.batch == 6
        _, rest = policy.sample(state, last, range(100, 112), params)
        for index, prompt in enumerate(prompts):
            alone, begun = policy.sample(
                policy.prefill(prompt, params.cfg > 0), split, [2 * index, 2 * index + 1], params
            )
            ended = policy.sample(alone, last, range(100 + 4 * index, 104 + 4 * index), params)[1]
            for together, apart, each in ((first, begun, 2), (rest, ended, 4)):
                mine = slice(each * index, each * (index + 1))
                assert torch.equal(together.tokens[mine], apart.tokens)
                assert (together.log_probs[mine] - apart.log_probs).abs().max() <= self.float32_tolerance

    @pytest.mark.parametrize("params", [PLAIN, HOT], ids=["plain", "guided"])
    def test_a_fork_continues_every_prefix(self, policy: TrainablePolicy, params: SamplingParams) -> None:
        last = len(policy.grids)
        for split in sorted({1, last // 2, last - 1}):
            state, prefix = policy.sample(start(policy, params), split, [5, 6], params)
            assert (state.next_scale, state.batch) == (split, 2)
            forked = policy.sample(state.fork(2), last, [21, 22, 23, 24], params)[1]
            rest = policy.sample(state, last, [21, 22, 23, 24], params)[1]
            assert torch.equal(forked.tokens, rest.tokens)
            whole = torch.cat([prefix.tokens.repeat_interleave(2, 0), rest.tokens], 1)
            with torch.no_grad():
                scored = policy.distribution(PROMPT, whole, split).log_prob(rest.tokens)
            assert (scored - rest.log_probs).abs().max() <= self.float32_tolerance
            alone = policy.sample(policy.sample(start(policy, params), split, [6], params)[0], last, [23], params)[1]
            assert torch.equal(alone.tokens[0], rest.tokens[2])

    def test_a_later_token_changes_no_earlier_probability(self, policy: TrainablePolicy) -> None:
        tokens, other = (sample(policy, [seed], PLAIN).tokens for seed in (1, 2))
        seen = sum(cells(policy.grids[:-1]))
        mixed = torch.cat([tokens[:, :seen], other[:, seen:]], 1)
        before, after = (policy.distribution(PROMPT, given, 0).entropy() for given in (tokens, mixed))
        assert torch.equal(before, after)  # nobody sees the last scale

    def test_guidance_moves_away_from_the_empty_prompt(self, policy: TrainablePolicy) -> None:
        tokens = sample(policy, [1], PLAIN).tokens
        off, strong = (SamplingParams(cfg=t, cfg_constant=True) for t in (0.0, 3.0))
        plain, guided = (policy.distribution(PROMPT, tokens, 0, params) for params in (off, strong))
        assert plain.kl(guided).max() > 10 * self.float32_tolerance
        with pytest.raises(ValueError, match="guided"):
            policy.sample(policy.prefill(PROMPT, False), 1, [1], strong)

    @pytest.mark.parametrize("sampling", [None, HOT], ids=["plain", "sampled"])
    def test_distributions_are_normalised_and_have_gradients(
        self, policy: TrainablePolicy, sampling: SamplingParams | None
    ) -> None:
        tokens = sample(policy, [1, 2], PLAIN).tokens
        found = policy.distribution(PROMPT, tokens, 0, sampling)
        with torch.no_grad():
            kept = policy.distribution(PROMPT, tokens, 0, sampling)
        result = found.evaluate(tokens, kept)
        assert all(part.shape == tokens.shape and part.dtype == torch.float32 for part in vars(result).values())
        assert (result.log_probs <= 0).all() and result.kl.abs().max() < 1e-5
        assert (result.entropy >= -1e-5).all() and result.entropy.max() <= policy.bits_per_site * np.log(2) + 1e-4
        self._check_expected_score(policy, sampling)
        (result.log_probs.sum() + result.kl.sum() + result.entropy.sum()).backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in policy.module.parameters()]
        assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)

    def _check_expected_score(self, policy: TrainablePolicy, sampling: SamplingParams | None) -> None:
        """Entropy is minus the mean log-probability of what is sampled: true of normalised probabilities alone."""
        params = SamplingParams() if sampling is None else sampling
        _, sampled = policy.sample(start(policy, params), 1, list(range(1000)), params)
        with torch.no_grad():
            found = policy.distribution(PROMPT, sampled.tokens, 0, params)
            surprise, entropy = -found.log_prob(sampled.tokens), found.entropy()
        error = float(surprise.std() / surprise.numel() ** 0.5)
        assert float(surprise.mean()) == pytest.approx(float(entropy.mean()), abs=5 * error + 1e-4)

    def test_images_have_their_size(self, policy: TrainablePolicy) -> None:
        images = policy.decode(sample(policy, [1, 2], PLAIN).tokens)
        assert images.shape == (2, *policy.image_size, 3) and images.dtype == np.uint8

    def test_weights_are_saved_loaded_and_matter(self, policy: TrainablePolicy, tmp_path: Path) -> None:
        tokens = sample(policy, [1], PLAIN).tokens
        before = score(policy, tokens, None)
        policy.save_weights(str(tmp_path / "a.safetensors"))
        with torch.no_grad():
            for parameter in policy.module.parameters():
                parameter.mul_(1.5)
        assert not torch.allclose(score(policy, tokens, None), before)
        policy.load_weights(str(tmp_path / "a.safetensors"))
        assert torch.equal(score(policy, tokens, None), before)
        save_file(load_file(tmp_path / "a.safetensors") | {"stranger": torch.zeros(1)}, tmp_path / "b.safetensors")
        with pytest.raises(ValueError, match="stranger"):
            policy.load_weights(str(tmp_path / "b.safetensors"))
        assert torch.equal(score(policy, tokens, None), before)

    def test_selections_are_parts_of_the_parameters(self, policy: TrainablePolicy) -> None:
        policy.select("gains")
        groups = policy.parameter_groups()
        assert groups.gains and not groups.others and all(parameter.requires_grad for parameter in groups.gains)
        policy.select("all")
        groups = policy.parameter_groups()
        assert {*groups.gains, *groups.others} == set(policy.module.parameters()) and not {*groups.gains} & {
            *groups.others
        }

    def test_adapters_are_trained_published_and_merged(self, policy: TrainablePolicy, tmp_path: Path) -> None:
        tokens, base = sample(policy, [1, 2], PLAIN).tokens, str(tmp_path / "base.safetensors")
        policy.save_weights(base)
        before = score(policy, tokens, None)
        self.adapt(policy)
        after = score(policy, tokens, None)
        assert (after - before).abs().max() > 10 * self.float32_tolerance
        with lora.adapters_off(policy.module):
            assert torch.equal(score(policy, tokens, None), before)
        # The file holds the adapters alone, and a policy that loads it on the same base does the same arithmetic.
        file, other = str(tmp_path / "adapters.safetensors"), self.build(torch.float32)
        policy.save_weights(file)
        assert not load_file(file).keys() & load_file(base).keys()
        other.load_weights(file)
        assert torch.equal(score(other, tokens, None), after)
        other.load_weights(base)
        assert torch.equal(score(other, tokens, None), before)
        # What is merged says the same, up to rounding.
        other.module.load_state_dict(lora.merged_state(policy.module))
        assert (score(other, tokens, None) - after).abs().max() <= self.float32_tolerance
        with pytest.raises(ValueError, match="another base"):
            other.load_weights(file)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_sampler_and_scorer_agree_with_adapters(self, dtype: torch.dtype) -> None:
        policy = self.build(dtype)
        self.adapt(policy)
        sampled = sample(policy, [1, 2], HOT, "sampled")
        gap = (score(policy, sampled.tokens, HOT) - sampled.log_probs).abs()
        limit = self.float32_tolerance if dtype is torch.float32 else self.bfloat16_tolerance
        assert gap.max() <= limit

    def adapt(self, policy: TrainablePolicy) -> None:
        """Adapters that have been trained, after a fashion."""
        lora.attach(policy.module, lora.Lora(2, 4.0, policy.lora_targets), seed=1)
        trained = policy.parameter_groups()
        assert trained.others and not trained.gains and {one.dtype for one in trained.others} == {torch.float32}
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in trained.others:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))

    @KINDS
    def test_bfloat16_is_near(self, policy: TrainablePolicy, kind: LogProbs) -> None:
        half = self.build(torch.bfloat16)
        assert {parameter.dtype for parameter in half.module.parameters()} == {torch.bfloat16}
        sampled, sampling = sample(half, [1, 2], HOT, kind), None if kind == "plain" else HOT
        rescored = score(half, sampled.tokens, sampling)
        assert sampled.log_probs.dtype == rescored.dtype == torch.float32
        for gap in ((rescored - score(policy, sampled.tokens, sampling)).abs(), (rescored - sampled.log_probs).abs()):
            assert gap.max() <= self.bfloat16_tolerance and gap.mean() <= self.bfloat16_mean_tolerance


def start(policy: TrainablePolicy, params: SamplingParams) -> SamplerState:
    """A state that serves these parameters."""
    return policy.prefill(PROMPT, params.cfg > 0)


def sample(policy: TrainablePolicy, seeds: list[int], params: SamplingParams, kind: LogProbs = "plain") -> Sampled:
    """Whole sequences."""
    return policy.sample(start(policy, params), len(policy.grids), seeds, params, kind)[1]


@torch.no_grad()
def score(policy: TrainablePolicy, tokens: Tensor, sampling: SamplingParams | None) -> Tensor:
    """Teacher-forced log-probabilities [B, n] of whole sequences."""
    return policy.distribution(PROMPT, tokens, 0, sampling).log_prob(tokens)
