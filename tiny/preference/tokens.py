"""The tokenizer of small models in HPSv3's format: byte-level BPE whose tokens are never more than one word.

Its vocabulary is made from the single words of the wording that the installed hpsv3 package brings, so that the
instruction around a prompt stays short; none of its sentences is in the file.
"""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from varl.services.hpsv3.prompt import Wording
from varl.tiny.render import COLOURS, OBJECTS

CONTROLS = (
    *(
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
    ),
    *(
        "<|quad_start|>",
        "<|quad_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ),
)  # Qwen2-VL's, in its order
VOCABULARY = 2048  # at most; merges end where every word is one token
# A space before two capitals stands alone, lest a word asked for lose its first letter to a merge of " T" from " Text".
_PIECES = r" (?=[A-Z]{2})| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s"


def build_tokenizer(wording: Wording) -> Tokenizer:
    """Words of the instruction and of the tiny task's prompts become one token each; a word in capitals stays letters.

    REWARD_TOKEN is not among the tokens, as it is in no file of Qwen2-VL.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    pieces = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(wording), trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROLS])
    return tokenizer


def _corpus(wording: Wording) -> list[str]:
    asked = [f" {word}" for word in (*COLOURS, *OBJECTS, "a", "that", "says", "with", "in", "'")]
    return [wording.text(""), "system", "user", "You are a helpful assistant.", *asked]
