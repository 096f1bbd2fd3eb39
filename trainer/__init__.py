"""GRPO with Value as Middle Return, Per-Action Normalization Weighting and Mask Propagation for next-scale image models.

What differs from the papers (arXiv 2601.02256; 2601.02204 for the GRPO loss), and where the papers are silent:

1. The base model is not NextFlow-7B, whose weights are not public, but whatever ``policy`` can load; the tiny recipe trains a model of a
   few million parameters on 64-pixel images. The learning rate, on which the paper contradicts itself, is therefore a setting.
2. Rollouts sample with guidance and truncation, training takes the plain conditional distribution, as in the paper. Ratios are never formed
   against the truncated distribution: the old log-probabilities are the trainer's own, so that every ratio of an update is exactly 1 and
   the clip inert, while ``ratio_mean`` and ``ratio_max_deviation`` compare them with those that the sampler reported.
3. The KL to the reference policy is summed over the whole codebook, not estimated from drawn tokens, which come from another distribution.
4. The first 1x1 grid is an action of the prefix. A suffix group shares one prefix, so that the advantage says nothing about prefix luck.
5. PANW weights keep their total (a reading of "keeping the total loss constant"); a candidate's sum over tokens is divided by their number.
6. Masks: cells touched by any box read, pooled from grid to grid by any overlap, OR-ed over the K continuations; no boxes, no mask; the KL
   stays unmasked, and the divisor counts masked tokens too.
7. Groups without any spread of values are left out (``zero_std``); groups whose scoring failed are queued again, then dropped, and never
   count as 0.
8. The tiny recipes sample hot (temperature 1.8) in place of guidance and top-k 2, alternate prefix and suffix 1:1, since half of what makes
   a letter is in their last scale, and give the gains of the normalisation layers a learning rate of their own.
9. One optimiser step an update, on one machine. Every choice above is a setting of the recipe (``varl.trainer.recipe.config``).
"""
