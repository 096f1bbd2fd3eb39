"""Stack, marks and memo of a pickle of plain data, and the checks that each step makes."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_ELEMENTS = 65_536  # of all arrays together
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9][0-9]{0,6}")


class RestrictedPickleError(ValueError):
    """The bytes are no pickle of plain data and arrays within the limits."""


class _Global(Enum):
    """The only names that a pickle may speak; none is ever imported or called."""

    DTYPE = "numpy.dtype"
    NDARRAY = "numpy.ndarray"
    RECONSTRUCT = "_reconstruct"
    FROMBUFFER = "_frombuffer"  # of pickle protocol 5
    SCALAR = "scalar"


_GLOBALS: Mapping[tuple[str, str], _Global] = {
    ("numpy", "dtype"): _Global.DTYPE,
    ("numpy", "ndarray"): _Global.NDARRAY,
    **{
        (f"numpy.{core}.multiarray", each.value): each
        for core in ("core", "_core")
        for each in (_Global.RECONSTRUCT, _Global.SCALAR)
    },
    **{(f"numpy.{core}.numeric", _Global.FROMBUFFER.value): _Global.FROMBUFFER for core in ("core", "_core")},
}


class _DType:
    """A dtype as the pickle builds it up."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "|"

    def build(self) -> np.dtype[Any]:
        """The numpy dtype."""
        return np.dtype(self.order + self.code)


class Array(list[Any]):
    """An array's elements, nested as its dimensions; empty until its state comes."""

    built = False


class Machine:
    """Stack, marks and memo of one pickle."""

    def __init__(self, size: int) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._array_bytes, self._elements = size, MAX_ELEMENTS

    def mark(self) -> None:
        """Note the height of the stack."""
        self._marks.append(len(self.stack))

    def append(self) -> None:
        """One item to the list below it."""
        self._extend([self.stack.pop()])

    def appends(self) -> None:
        """The items above the mark to the list below it."""
        self._extend(self._above_mark())

    def setitem(self) -> None:
        """One key and value to the dict below them."""
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def setitems(self) -> None:
        """The keys and values above the mark to the dict below it."""
        self._update(self._above_mark())

    def tuple_of(self, count: int | None) -> None:
        """The topmost items as a tuple; None: those above the mark."""
        items = self._above_mark() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(items))

    def put(self, index: int | None) -> None:
        """Remember the top; None: under the next number."""
        self._memo[len(self._memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        """What was remembered."""
        self.stack.append(self._memo[index])

    def name(self, module: object, name: object) -> None:
        """One of the few names that are allowed."""
        if not isinstance(module, str) or not isinstance(name, str) or (module, name) not in _GLOBALS:
            raise RestrictedPickleError(
                f"{str(module)[:80]}.{str(name)[:80]} is not allowed; plain data and numpy arrays are"
            )
        self.stack.append(_GLOBALS[module, name])

    def stack_name(self) -> None:
        """The same, with module and name on the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def reduce(self) -> None:
        """A dtype, an array, whose elements may come later, or a scalar; nothing is called."""
        arguments, function = self.stack.pop(), self.stack.pop()
        match function, arguments:
            case _Global.DTYPE, (str() as code, bool(), bool()) if _DTYPE.fullmatch(code):
                self.stack.append(_DType(code))
            case _Global.RECONSTRUCT, (_Global.NDARRAY, (0,), b"b"):
                self.stack.append(Array())
            case _Global.FROMBUFFER, (bytes() as data, _DType() as dtype, tuple() as shape, "C" | "F" as order):
                self.stack.append(Array(self._elements_of(dtype, shape, order == "F", data)))
                self.stack[-1].built = True
            case _Global.SCALAR, (_DType() as dtype, bytes() as data):
                self.stack.append(self._elements_of(dtype, (1,), False, data)[0])
            case _:
                raise RestrictedPickleError(
                    "a call that is not part of a plain numpy array; object arrays are not taken, send lists"
                )

    def build(self) -> None:
        """The byte order of a dtype or the elements of an array."""
        state, target = self.stack.pop(), self.stack[-1]
        match target, state:
            case _DType(), (3, "<" | ">" | "|" | "=" as order, None, None, None, int(), int(), int()):
                target.order = order
            case Array(built=False), (1, tuple() as shape, _DType() as dtype, bool() as fortran, bytes() as data):
                target.built = True
                target[:] = self._elements_of(dtype, shape, fortran, data)
            case _:
                raise RestrictedPickleError("a state that is not that of a plain numpy array")

    def _elements_of(self, dtype: _DType, shape: tuple[Any, ...], fortran: bool, data: bytes) -> list[Any]:
        if not 1 <= len(shape) <= 4 or not all(type(side) is int and side >= 0 for side in shape):
            raise RestrictedPickleError("an array must have 1 to 4 dimensions")
        kind, count = dtype.build(), math.prod(shape)
        self._array_bytes -= len(data)
        self._elements -= count
        if count * kind.itemsize != len(data) or self._array_bytes < 0 or self._elements < 0:
            raise RestrictedPickleError(
                f"an array of {count} elements in {len(data)} bytes; together arrays may have {MAX_ELEMENTS}"
            )
        if not count:
            return []
        if kind.kind == "U":
            _check_code_points(np.frombuffer(data, np.dtype(np.uint32).newbyteorder(kind.byteorder)))
        array = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
        elements: list[Any] = array.tolist()
        return elements

    def _above_mark(self) -> list[Any]:
        at = self._marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise RestrictedPickleError("items are added to something that is no list")
        target.extend(items)

    def _update(self, items: list[Any]) -> None:
        target, keys = self.stack[-1], items[::2]
        if type(target) is not dict or len(items) % 2 or not all(type(key) is str for key in keys):
            raise RestrictedPickleError("a dict must have strings for keys")
        target.update(zip(keys, items[1::2], strict=True))


def _check_code_points(points: npt.NDArray[np.uint32]) -> None:
    """Numpy hands on whatever number stands for a character, and CPython makes a broken str of it."""
    if (points > sys.maxunicode).any() or ((points >= 0xD800) & (points <= 0xDFFF)).any():
        raise RestrictedPickleError("an array of texts that are none")


def checked_text(text: str) -> str:
    """The text; raises ValueError where it holds half a surrogate pair, which no JSON and no protobuf can carry on."""
    text.encode()
    return text
