"""Reads pickles of plain data without the power to call anything.

The pickle module's own Unpickler, even with a closed ``find_class``, hashes what the pickle uses as dict keys, and
hashing a deeply nested tuple ends the interpreter with a stack overflow. Hence an interpreter of its own for the
thirty-odd opcodes that plain data needs, over the standard library's ``pickletools.genops``, which only reads.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from varl.services.serving.compat.unpickle_machine import Array, Machine, RestrictedPickleError, checked_text

MAX_OPCODES = 50_000
MAX_DEPTH = 16
MAX_VALUES = 200_000  # counted as often as they are referred to: what is shared here is not where it goes
_LEAVES = (str, bytes, int, float, bool, type(None))

_Step = Callable[[Machine, Any], None]
_STEPS: dict[str, _Step] = {
    "MARK": lambda machine, _: machine.mark(),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "APPEND": lambda machine, _: machine.append(),
    "APPENDS": lambda machine, _: machine.appends(),
    "SETITEM": lambda machine, _: machine.setitem(),
    "SETITEMS": lambda machine, _: machine.setitems(),
    "TUPLE": lambda machine, _: machine.tuple_of(None),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "MEMOIZE": lambda machine, _: machine.put(None),
    "GLOBAL": lambda machine, names: machine.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.stack_name(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, index: machine.put(index)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, index: machine.get(index)),
    **dict.fromkeys(
        ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        lambda machine, text: machine.stack.append(checked_text(text)),
    ),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        lambda machine, value: machine.stack.append(value),
    ),
    "BYTEARRAY8": lambda machine, value: machine.stack.append(bytes(value)),
}


def load(data: bytes) -> Any:  # noqa: ANN401
    """The dict, list, tuple, str, bytes, int, float, bool or None that a pickle holds; numpy arrays come as lists.

    Raises:
        RestrictedPickleError: the pickle names anything else, is damaged, or goes beyond the limits.

    """
    try:
        value = _run(data)
        _check(value)
    except RestrictedPickleError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise RestrictedPickleError(f"no pickle of plain data: {type(error).__name__}") from error
    return value


def _run(data: bytes) -> Any:  # noqa: ANN401
    machine = Machine(len(data))
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data), 1):
        if opcode.name not in _STEPS:
            raise RestrictedPickleError(f"opcode {opcode.name} is not allowed; pickle protocol 3 or later, plain data")
        if count > MAX_OPCODES:
            raise RestrictedPickleError(f"more than {MAX_OPCODES} opcodes")
        _STEPS[opcode.name](machine, argument)
    (value,) = machine.stack
    return value


class _Size(NamedTuple):
    """Values of a container, and how deep they are nested."""

    values: int
    depth: int


_UNKNOWN = _Size(MAX_VALUES, MAX_DEPTH)  # of a container that is being looked at: one within itself has no end


def _check(value: object) -> None:
    """Only finished plain data, nested no deeper than MAX_DEPTH, of no more than MAX_VALUES values.

    Each container is looked at once, however often it is referred to, but counts as often.
    """
    if type(value) not in _LEAVES:
        _measure(value, 1, {})


def _measure(value: object, depth: int, known: dict[int, _Size]) -> _Size:
    values, below = 1, 0
    known[id(value)] = _UNKNOWN
    for item in _inside(value):
        if type(item) in _LEAVES:
            values += 1
            continue
        if depth >= MAX_DEPTH:
            raise RestrictedPickleError(f"nested deeper than {MAX_DEPTH}")
        size = known.get(id(item)) or _measure(item, depth + 1, known)
        values, below = values + size.values, max(below, size.depth)
        if depth + below > MAX_DEPTH:
            raise RestrictedPickleError(f"nested deeper than {MAX_DEPTH}")
        if values > MAX_VALUES:
            raise RestrictedPickleError(f"more than {MAX_VALUES} values, each as often as it is referred to")
    known[id(value)] = _Size(values, below + 1)
    return known[id(value)]


def _inside(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list | tuple) and (not isinstance(value, Array) or value.built):
        return value
    if type(value) not in _LEAVES:
        raise RestrictedPickleError("a half-built array, or the name of a function, in place of data")
    return ()
