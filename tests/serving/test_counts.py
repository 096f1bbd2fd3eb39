"""What a JSON body would become is told from its text: against the parsed value, and at little cost whatever it is."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from varl.services.serving.http.counts import MAX_KEYS, check_json
from varl.services.serving.status import RequestRejectedError

MOST = 3
PADDING = b" " * 8 * 2**10  # smaller bodies are not looked at

texts = st.text(st.sampled_from('ab"\\\\,:[]{}\n\u00fc\u2028\U0001f600'), max_size=6)
keys = texts | st.just("metadata")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=30,
)


def refused(text: bytes, most: int = MOST) -> str | None:
    """The first fault; None where there is none."""
    try:
        check_json(text + PADDING, most)
    except RequestRejectedError as error:
        return f"{error.faults[0].field}: {error.faults[0].detail}"
    return None


def too_long(value: object) -> Iterator[None]:
    """One for each list that is longer than ``MOST`` and does not stand in metadata."""
    if isinstance(value, list):
        yield from [None] * (len(value) > MOST)
        for item in value:
            yield from too_long(item)
    if isinstance(value, dict):
        for key, item in value.items():
            yield from () if key == "metadata" else too_long(item)


@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_a_text_is_refused_exactly_if_its_value_has_too_long_a_list(value: object, escaped: bool, indent: int) -> None:
    text = json.dumps(value, ensure_ascii=escaped, indent=indent).encode()
    assert (refused(text) is not None) == any(True for _ in too_long(value))


MANY = {
    "items": (b'{"samples":[0,0,0,0]}', "samples: more than 3 items"),
    "items of a list itself": (b"[0,0,0,0]", "body: more than 3 items"),
    "items in an item": (b'{"samples":[{"a":1},{"b":{"target_words":[1,2,3,4]}}]}', "samples[1].b.target_words: "),
    "keys": (b"{" + b",".join(b'"%d":0' % n for n in range(65)) + b"}", f"body: more than {MAX_KEYS} fields"),
    "keys of an item": (b'[{},{"a":{' + b'"a":0,' * 64 + b'"a":0}}]', "[1].a: more than 64 fields"),
    "a long key": (b'{"' + b"k" * 10**6 + b'":[0,0,0,0]}', "k" * 100 + "…: "),
    "a key with a quote": (b'{"a\\"b":[0,0,0,0]}', 'a\\"b: more'),
    "values": (b"[" + b"[0]," * 2**18, "body: more than 262144 values"),
    "depth": (b"[" * 300_000, "body: more than 262144 values"),
    "quotes": (b'"' * 2**21, "body: more than 1048576 quotes"),
    "escaped quotes": (b'"' + b'\\"' * 2**21, "body: more than 1048576 quotes"),
}


@pytest.mark.parametrize(("text", "fault"), MANY.values(), ids=MANY)
def test_the_fault_names_what_there_is_too_much_of(text: bytes, fault: str) -> None:
    most = 2**20 if "values" in fault else MOST
    assert (refused(text, most) or "").startswith(fault)


FEW = {
    "what stands in a text": b'{"prompt":"[,,,,[{,,,"}',
    "behind an escaped quote": b'{"prompt":"\\"[0,0,0,0]"}',
    "behind an escaped backslash": b'{"a":"\\\\","b":[0,0,0]}',
    "in metadata": b'{"metadata":{"a":[0,0,0,0,[0,0,0,0]]},"b":[0]}',
    "lists side by side": b"[[0,0,0],[0,0,0],[0,0,0]]",
    "a text without an end": b'["' + b"\\\\" * 10**6,
    "brackets that close nothing": b"]]]}}},,,,",
    "many quotes": b'"' * 10**6,
}


@pytest.mark.parametrize("text", FEW.values(), ids=FEW)
def test_what_is_not_too_much_passes(text: bytes) -> None:
    assert refused(text) is None
