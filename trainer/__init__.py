"""GRPO for next-scale image models.

It has Value as Middle Return, Per-Action Normalization Weighting and Mask Propagation.

What differs from the papers (arXiv 2601.02256; 2601.02204 for the GRPO loss), and where the papers are silent:

1. The base model is not NextFlow-7B, whose weights are not public, but whatever ``varl.policy.load`` can load
   (``model.dir``); the tiny recipe trains a model of a few million parameters on 64-pixel images. The learning rate, on
   which the paper contradicts itself, is ``optimizer.lr``.
2. Rollouts sample with guidance and truncation, training takes the plain conditional distribution, as in the paper;
   ``objective.log_probs = "sampled"`` trains the one with the rollouts' temperature and guidance. Neither has the
   truncation, which has no gradient. The old log-probabilities are the trainer's own (``objective.old_log_probs``), so
   that every ratio of an update is exactly 1 and the clip inert, while ``ratio_mean`` and ``ratio_max_deviation``
   compare them with those that the sampler reported of the same distribution.
3. The KL to the reference policy is summed over the whole codebook, not estimated from sampled tokens
   (``objective.kl_estimator``); both policies answer with the distribution that ``log_probs`` names.
4. Fixed: the first 1x1 grid is an action of the prefix, and a suffix group shares one prefix, so that the advantage
   says nothing about prefix luck.
5. PANW weights keep their total (``objective.panw_normaliser``; a reading of "keeping the total loss constant"). Fixed:
   a candidate's sum over tokens is divided by their number.
6. Masks: cells touched by any box read, pooled from grid to grid by any overlap (``objective.mask_propagation``); the
   KL stays unmasked (``objective.mask_kl``). Fixed: OR over the K continuations; no boxes, no mask; the divisor counts
   masked tokens too.
7. Groups without any spread of values are skipped (``objective.zero_std``); groups whose scoring failed are queued
   again, then dropped (``rollout.max_attempts``, ``rollout.max_replacements``). Fixed: they never count as 0.
8. The tiny recipes sample without guidance and top-k 2, the demo's at temperature 1, the others hot (1.8), alternate
   prefix and suffix 1:1 (``objective.prefix_per_suffix``), since half of what makes a letter is in their last scale,
   and give the model's gains a learning rate of their own (``optimizer.gain_lr_factor``).
9. Fixed: one optimiser step an update.

What is set in the recipe is named as it is there (``varl.trainer.recipe.sections``); what is "fixed" is code.
"""
