"""The text around a prompt and its token ids.

The instruction that HPSv3 was trained with is not ours to ship: it is read, as data, from the source of the installed
hpsv3 package, which is never imported for it (that would need a trainer's dependencies).
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from varl.services.serving.scoring import ErrorCode, SampleError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REWARD_TOKEN = "<|Reward|>"  # noqa: S105
IMAGE_TOKEN = "<|image_pad|>"  # noqa: S105
_BEFORE_IMAGE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
_AFTER_IMAGE = "<|vision_end|>"
_SOURCE = Path("dataset", "data_collator_qwen.py")


class PromptError(Exception):
    """The wording or the tokenizer is not what the model was trained with; the message is meant for the operator."""


@dataclass(frozen=True)
class Wording:
    """``instruction`` has the field {text_prompt}; ``ending`` follows it and ends at the reward token."""

    instruction: str
    ending: str

    def text(self, prompt: str) -> str:
        """What stands after the image, up to and with the reward token."""
        return self.instruction.format(text_prompt=prompt) + self.ending


def read_wording() -> Wording:
    """The wording of the installed hpsv3 package.

    Raises:
        PromptError: the package is absent, or its source does not hold the two texts.

    """
    spec = importlib.util.find_spec("hpsv3")
    if spec is None or not spec.submodule_search_locations:
        raise PromptError("the instruction text is read from the hpsv3 package: pip install --no-deps hpsv3==1.0.0")
    path = Path(next(iter(spec.submodule_search_locations))) / _SOURCE
    try:
        texts = _constants(path.read_text(encoding="utf-8"))
        instruction, ending = texts["INSTRUCTION"], texts["prompt_with_special_token"]
    except (OSError, SyntaxError, KeyError) as error:
        raise PromptError(
            f"the installed hpsv3 has no instruction text where version 1.0.0 has it: {error!r}"
        ) from error
    if "{text_prompt}" not in instruction or ending.count(REWARD_TOKEN) != 1:
        raise PromptError(
            f"the instruction text of the installed hpsv3 lacks {{text_prompt}} or has not just one {REWARD_TOKEN}"
        )
    return Wording(instruction, ending[: ending.index(REWARD_TOKEN) + len(REWARD_TOKEN)])


def _constants(source: str) -> dict[str, str]:
    """Module-level names that are assigned a string, and the string."""
    return {
        target.id: node.value.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


class Prompts:
    """Token ids of whole sequences, and what is wrong with a prompt. Safe to use from several threads.

    The tokenizer is used as it was given; REWARD_TOKEN is added to it if it lacks that.
    """

    def __init__(self, tokenizer: Tokenizer, wording: Wording) -> None:
        tokenizer.add_special_tokens([REWARD_TOKEN])
        self._tokenizer = tokenizer
        self._wording = wording
        added = tokenizer.get_added_tokens_decoder()
        self._controls = {token.content: number for number, token in added.items()}
        missing = [
            token
            for token in (IMAGE_TOKEN, "<|im_start|>", "<|im_end|>", "<|vision_start|>", _AFTER_IMAGE)
            if token not in self._controls
        ]
        if missing:
            raise PromptError(f"the tokenizer has no token {', '.join(missing)}")
        self._control_ids = frozenset(self._controls.values())
        self.image_id = self._controls[IMAGE_TOKEN]
        self.reward_id = self._controls[REWARD_TOKEN]
        self.vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)
        self._head = self._ids(_BEFORE_IMAGE)
        self._after_image = self._ids(_AFTER_IMAGE)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def refusal(self, prompt: str, max_tokens: int) -> SampleError | None:
        """Why a prompt is not taken: it holds a control token, or has more than ``max_tokens`` tokens.

        A control token in a prompt would be read as one: a second reward token moves the place where the answer is
        read, an image token takes the place of the picture.
        """
        control = next((token for token in self._controls if token in prompt), None)
        if control is not None:
            return SampleError(
                ErrorCode.INVALID_FIELD, f"prompt: holds {control!r}, which is a control token of the model"
            )
        count = len(self._ids(prompt))
        if count > max_tokens:
            return SampleError(ErrorCode.PROMPT_TOO_LONG, f"prompt: {count} tokens, at most {max_tokens} are taken")
        return None

    def token_ids(self, prompt: str, image_tokens: int) -> list[int]:
        """The sequence up to and with the reward token, the image's place filled with ``image_tokens`` image tokens.

        Nothing that follows the reward token can reach it through causal attention, so the sequence ends there.

        Raises:
            ValueError: the prompt holds a control token.

        """
        text = self._ids(self._wording.text(prompt))
        if [number for number in text if number in self._control_ids] != [self.reward_id] or text[-1] != self.reward_id:
            raise ValueError("the prompt holds a control token of the model")
        return [*self._head, *[self.image_id] * image_tokens, *self._after_image, *text]
