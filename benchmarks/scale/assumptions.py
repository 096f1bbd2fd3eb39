"""Every number that the arithmetic takes from elsewhere, with its source. Nothing here was measured by us."""

from __future__ import annotations

from dataclasses import dataclass

from varl.policy.nextflow.paper import paper_config

# Sizes of Qwen2.5-VL-7B's language model (its config.json), the 18 square scales of arXiv 2601.02204 table 14,
# TokenFlow's released dual codebook (NextFlow's own size is not published).
NEXTFLOW_7B = paper_config()
IMAGE_SIDE = 1024  # pixels
STRIDE = 16  # pixels a side of a cell of the finest grid
TEXT_TOKENS = 128  # of a prompt: a long one, as in reference hpsv3.md section 2
EMPTY_TEXT_TOKENS = 1  # of the unconditional branch: <boi> alone

# arXiv 2601.02256 section 4.1, as in recipes/nextflow_7b_cvtg2k.toml.
PROMPTS, GROUP, CONTINUATIONS, SPLIT_SCALE, PREFIX_PER_SUFFIX = 16, 16, 2, 12, 3
WORDS_AN_IMAGE = 8  # read by the OCR; CVTG-2K asks for two to five regions of about two words

# TokenFlow's enlarged pixel decoder (arXiv 2601.02204, section 2): channels, their multiples from fine to coarse,
# blocks a level.
DECODER_CHANNELS, DECODER_MULTIPLES, DECODER_BLOCKS = 256, (1, 1, 2, 2, 4), 4

# HPSv3's forward for one image and the README prompt (reference hpsv3.md section 7): language model, its attention,
# ViT, its attention.
HPSV3_FLOPS = (10.39 + 0.13 + 1.31 + 0.17) * 1e12

ACTIVATIONS = 2  # bytes of a bfloat16 number
LOGIT_BYTES = 4  # logits are float32 in policy/nextflow
LOGIT_TOUCHES = 8  # reads and writes of the logits by guidance, top-k, top-p, soft-maxes and the draw
# Trainer, bytes a parameter: bfloat16 weight and gradient, float32 master copy and two Adam moments, bfloat16 reference
# model.
TRAINER_BYTES = 2 + 2 + 4 + 8 + 2
TRAINER_WORKSPACE = 10e9  # bytes a GPU: inputs of the layers of one recomputed sequence, and its logits
# Forward passes' worth of one trained sequence: forward, forward recomputed in the backward pass, backward (two);
# reference model: one.
UPDATE_FORWARDS = 5
GPUS_A_NODE = 8
CORES_A_GPU = 12  # of a node with eight GPUs and two processors of 48 cores

# A shared file system for the weights: what one writer gets, what one node reads, and what all nodes read together,
# bytes/s. The first two are about what one 100 Gb/s client gets of NFS or Lustre, the last a small all-flash cluster.
# Set your own.
STORE_WRITE, NODE_READ, STORE_READ = 2e9, 5e9, 20e9
REDIS_NETWORK = 1.25e9  # bytes/s, a 10 Gb/s link


@dataclass(frozen=True)
class Card:
    """Dense bfloat16 FLOP/s, bytes/s and bytes of memory (NVIDIA's data sheets, SXM)."""

    name: str
    flops: float
    bandwidth: float
    memory: float


H100 = Card("H100", 989e12, 3.35e12, 80e9)
H200 = Card("H200", 989e12, 4.8e12, 141e9)
USABLE = 0.9  # share of a card's memory and of its memory bandwidth that a program gets


@dataclass(frozen=True)
class Rates:
    """Shares of the dense peak that the parts reach: drawing, decoding pixels, HPSv3, the update."""

    name: str
    draw: float
    decode: float
    hpsv3: float
    update: float


# The authors' published speeds, turned into shares of an H100 (they name no card) by ``flops.published_shares``: 5 s
# for an image, and 2,517 tokens/s a GPU in training (arXiv 2601.02204); the test holds the shares to them. HPSv3: low
# end of reference hpsv3.md section 7.
PUBLISHED_IMAGE_SECONDS, PUBLISHED_TOKENS_A_SECOND = 5.0, 2517.0
PUBLISHED = Rates("published", draw=0.07, decode=0.07, hpsv3=0.40, update=0.18)
# torchtitan's docs/performance.md: Llama 3.1 8B in bfloat16 with FSDP reaches 33 to 39 % on H100s. Drawing 16 rows of
# up to 4,096 tokens a step is as dense as that; nobody has published a rate for it, so it is put at the same share.
PLANNED = Rates("planned", draw=0.35, decode=0.25, hpsv3=0.475, update=0.35)
HIGH = Rates("high", draw=0.50, decode=0.35, hpsv3=0.55, update=0.39)
