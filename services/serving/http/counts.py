"""How much a body would become as objects and faults, told before it is validated."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from varl.services.serving.status import MAX_SHOWN, FieldFault, cut, invalid

MAX_ITEMS = 4096  # of a list
MAX_KEYS = 64  # of an object, apart from what may hold anything
MAX_VALUES = 256 * 2**10  # of a body: commas, and lists and objects that begin
MAX_QUOTES = 4 * MAX_VALUES  # of a body, escaped ones included: a key and a text of each value
_FREE = "metadata"  # has bounds of its own: varl.metadata
_SMALL = 8 * 2**10  # bytes that cannot become much
_MAX_KEY = 256  # bytes of a key that are looked at
_SIGN = re.compile(rb"[\[\]{},]")
_QUOTE, _ESCAPE = b'"', ord("\\")


@dataclass
class _Level:
    """A list or an object of a body that is being read."""

    place: int | bytes  # in the one outside: how many stand before it, or its key
    most: float  # values that it may have
    is_list: bool
    values: int = 1


def check_json(text: bytes, max_items: int) -> None:
    """Check that a body has no more values, items of a list, and keys of an object, than a request may have.

    Nothing is made of the body, which may be long: only what stands between its strings is looked at. What is no JSON
    may pass: validating it says so.

    Raises:
        RequestRejectedError: INVALID_REQUEST, naming what there is too much of.

    """
    if len(text) <= _SMALL:
        return
    if text.count(_QUOTE) > MAX_QUOTES:
        raise invalid(_too_many("body", MAX_QUOTES, "quotes"))
    levels, values = list[_Level](), 0
    for sign, key in _signs(text):
        values += sign not in b"]}"
        if values > MAX_VALUES:
            raise invalid(_too_many("body", MAX_VALUES, "values"))
        if sign in b"[{":
            levels.append(_level(levels, sign == b"[", text[key], max_items))
        elif levels and sign == b",":
            levels[-1].values += 1
            if levels[-1].values > levels[-1].most:
                raise invalid(_too_many(_path(levels), levels[-1].most, "items" if levels[-1].is_list else "fields"))
        elif levels:
            levels.pop()


def _signs(text: bytes) -> Iterator[tuple[bytes, slice]]:
    """Brackets and commas outside of strings, each with where the last string before it begins."""
    at, key = 0, slice(0)
    while True:
        begin = text.find(_QUOTE, at)
        for match in _SIGN.finditer(text, at, begin if begin >= 0 else len(text)):
            yield match[0], key
        if begin < 0:
            return
        end = _end(text, begin + 1)
        key, at = slice(begin + 1, min(end, begin + 1 + _MAX_KEY)), end + 1


def _end(text: bytes, at: int) -> int:
    """Where a string ends that goes on at ``at``: at a quote behind an even number of backslashes."""
    while (end := text.find(_QUOTE, at)) >= 0:
        begin = end
        while text[begin - 1] == _ESCAPE:
            begin -= 1
        if (end - begin) % 2 == 0:
            return end
        at = end + 1
    return len(text)


def _level(outer: Sequence[_Level], is_list: bool, key: bytes, max_items: int) -> _Level:
    place = outer[-1].values - 1 if outer and outer[-1].is_list else key
    if place == _FREE.encode() or (outer and outer[-1].most == math.inf):
        return _Level(place, math.inf, is_list)
    return _Level(place, max_items if is_list else MAX_KEYS, is_list)


def _too_many(path: str, most: float, what: str) -> FieldFault:
    return FieldFault(path, f"more than {most} {what}, at most so many are taken")


def _path(levels: Sequence[_Level]) -> str:
    return "".join(_step(level.place) for level in levels[1:]).removeprefix(".") or "body"


def _step(place: int | bytes) -> str:
    return f"[{place}]" if isinstance(place, int) else "." + cut(place.decode(errors="replace"), MAX_SHOWN)


def check_counts(value: object, max_items: int, path: str = "", levels: int = 4) -> None:
    """Check the lengths of a value's lists, and the numbers of its objects' keys, down to a few levels.

    Raises:
        RequestRejectedError: INVALID_REQUEST, naming what there is too much of.

    """
    if isinstance(value, list):
        if len(value) > max_items:
            raise invalid(FieldFault(path or "body", f"{len(value)} given, at most {max_items} are taken"))
        children = [(f"{path}[{index}]", child) for index, child in enumerate(value) if isinstance(child, list | dict)]
    elif isinstance(value, dict):
        if len(value) > MAX_KEYS:
            raise invalid(FieldFault(path or "body", f"{len(value)} fields, at most {MAX_KEYS} are taken"))
        found = [(name, child) for name, child in value.items() if isinstance(child, list | dict) and name != _FREE]
        children = [(f"{path}.{cut(str(name), MAX_SHOWN)}" if path else name, child) for name, child in found]
    else:
        return
    for name, child in children if levels else ():
        check_counts(child, max_items, name, levels - 1)
