"""Metadata of a sample: a JSON object of bounded size and depth that a caller hands to the reward beside the prompt.

Numbers travel as doubles: an integer is exact up to 2^53.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

Metadata = Mapping[str, Any]

MAX_BYTES = 16 * 2**10  # as compact JSON in UTF-8
MAX_DEPTH = 8  # the object itself counts as one
_MAX_WIRE_BYTES = 8 * MAX_BYTES  # no smaller JSON makes a longer message: a number of two bytes is eleven on the wire


class MetadataError(ValueError):
    """The metadata cannot be taken; the message says which bound it breaks, without quoting it."""


def check_metadata(metadata: object) -> None:
    """Raise MetadataError unless ``metadata`` is a JSON object within the bounds."""
    if not isinstance(metadata, Mapping):
        raise MetadataError(f"metadata: want an object, got {type(metadata).__name__}")
    if not metadata:
        return
    _check_values(metadata, MAX_DEPTH)
    try:
        size = len(
            json.dumps(metadata, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()
        )
    except (TypeError, ValueError) as error:
        raise MetadataError(f"metadata: no JSON: {error}") from error
    if size > MAX_BYTES:
        raise MetadataError(f"metadata: {size} bytes as JSON, at most {MAX_BYTES} are taken")


def to_struct(metadata: Metadata) -> Struct:
    """The message that holds checked metadata."""
    struct = Struct()
    struct.update(metadata)
    return struct


def from_struct(struct: Struct) -> Metadata:
    """The metadata that a message holds, whole numbers as int; raises MetadataError where it breaks a bound."""
    if struct.ByteSize() > _MAX_WIRE_BYTES:
        raise MetadataError(f"metadata: more than {MAX_BYTES} bytes as JSON")
    found = _object(struct)
    check_metadata(found)
    return found


def _object(struct: Struct) -> dict[str, Any]:
    return {name: _value(value) for name, value in struct.fields.items()}


def _value(value: Value) -> object:
    """A value as JSON would have it; whole numbers are integers again.

    Protobuf itself bounds how deep messages nest.
    """
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= 2**53 else number
        case "struct_value":
            return _object(value.struct_value)
        case "list_value":
            return [_value(child) for child in value.list_value.values]
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _check_values(value: object, levels: int) -> None:
    """Objects and lists stand in each other at most ``levels`` deep, and every integer fits a double."""
    if isinstance(value, int) and abs(value) >= 2**1023:
        raise MetadataError("metadata: an integer that is too large for a double")
    if not isinstance(value, (Mapping, list, tuple)):
        return
    if levels == 0:
        raise MetadataError(f"metadata: nested more than {MAX_DEPTH} deep")
    for child in value.values() if isinstance(value, Mapping) else value:
        _check_values(child, levels - 1)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON type")
