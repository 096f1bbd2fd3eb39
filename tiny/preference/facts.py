"""What a prompt of the tiny task asks for, word by word, and what of it a picture shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest

from varl.tiny.render import DARK

_PROMPT = re.compile(r"a (?P<colour>\w+) (?P<thing>\w+) (?:that says|with) '(?P<text>[A-Z ]+)'(?: in (?P<ink>\w+))?")


@dataclass(frozen=True)
class PromptFacts:
    """The object and its colour, the words on it, and the colour of their letters, which not every prompt names."""

    colour: str
    thing: str
    words: tuple[str, ...]
    ink: str
    names_ink: bool


def read_prompt(prompt: str) -> PromptFacts:
    """PromptFacts of a prompt that ``prompt_for`` made; raises ValueError for any other."""
    match = _PROMPT.fullmatch(prompt)
    if match is None:
        raise ValueError(f"not a prompt of the tiny task: {prompt!r}")
    usual = "white" if match["colour"] in DARK else "black"
    return PromptFacts(
        match["colour"], match["thing"], tuple(match["text"].split()), match["ink"] or usual, match["ink"] is not None
    )


def matches(asked: str, shown: str | None) -> list[bool]:
    """Whether the picture has the colour, the object, each letter and the ink (if named) of ``asked``, in order.

    ``shown`` is the prompt that the picture was rendered for, with as many words; None, if damage may have changed it,
    gives an empty list.
    """
    if shown is None:
        return []
    want, have = read_prompt(asked), read_prompt(shown)
    letters = [
        a == b
        for word, seen in zip(want.words, have.words, strict=True)
        for a, b in zip_longest(word, seen[: len(word)])
    ]
    return [
        want.colour == have.colour,
        want.thing == have.thing,
        *letters,
        *([want.ink == have.ink] if want.names_ink else []),
    ]


def before(words: tuple[str, ...]) -> list[str]:
    """The letter to the left of each letter, a space for the first of a word."""
    return [letter for word in words for letter in f" {word}"[:-1]]
