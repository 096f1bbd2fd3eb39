"""How much a JSON body would become as objects and faults, told before it is validated."""

from __future__ import annotations

from pydantic_core import from_json

from varl.services.serving.status import FieldFault, invalid, shown

MAX_ITEMS = 4096  # of a list
MAX_KEYS = 64  # of an object, apart from what may hold anything
MAX_VALUES = 256 * 2**10  # commas and opening brackets of a body, those in its texts included
_FREE = frozenset(("metadata",))  # has bounds of its own: varl.metadata
_SMALL = 8 * 2**10  # bytes that cannot become much
_PIECE = 64 * 2**10  # bytes, which stay in a core's cache and are no new memory
_SIGNS = b",[{"


def check_json(text: bytes, max_items: int) -> None:
    """Check that a body has no more values, items of a list, and keys of an object, than a request may have.

    What is no JSON passes: validating it says so.

    Raises:
        RequestRejectedError: INVALID_REQUEST, naming what there is too much of.

    """
    if len(text) <= _SMALL:
        return
    pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
    values = sum(len(piece) - len(piece.translate(None, _SIGNS)) for piece in pieces)
    if values > MAX_VALUES:
        raise invalid(FieldFault("body", f"{values} values, at most {MAX_VALUES} are taken"))
    try:
        found = from_json(text)
    except ValueError:
        return
    check_counts(found, max_items)


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
        found = [(name, child) for name, child in value.items() if isinstance(child, list | dict) and name not in _FREE]
        children = [(f"{path}.{shown(name)[1:-1]}" if path else name, child) for name, child in found]
    else:
        return
    for name, child in children if levels else ():
        check_counts(child, max_items, name, levels - 1)
