"""How much a serialized ScoreRequest would become as objects, told from its bytes before any is made.

Two bytes are enough for an empty sample, a target word or a value of metadata, and each becomes an object of a hundred:
a request within its size could stall the loop for seconds and take gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from varl.metadata import MAX_BYTES
from varl.services.serving.status import FieldFault, RejectionCode, RequestRejectedError, invalid
from varl.v1 import reward_pb2

MAX_SAMPLE_FIELDS = 4096
_FEW = 64  # fields of a request beside its samples
_SAMPLES = reward_pb2.ScoreRequest.SAMPLES_FIELD_NUMBER
_METADATA = reward_pb2.Sample.METADATA_FIELD_NUMBER
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}


class _Field(NamedTuple):
    """A field's number, and where its content begins and ends; an empty range for a number."""

    number: int
    start: int
    stop: int


def check_counts(data: bytes, max_samples: int) -> None:
    """Check the numbers of samples and of their fields, and the bytes of all metadata.

    Bytes that are no message pass: parsing them says so.

    Raises:
        RequestRejectedError: INVALID_REQUEST, there is too much of something; MALFORMED, groups, which nobody sends.

    """
    samples = metadata = 0
    most = MAX_BYTES * max(8, max_samples)
    for count, field in enumerate(_fields(data, 0, len(data)), 1):
        if field.number == _SAMPLES:
            samples += 1
            metadata += _metadata_bytes(data, field, samples - 1)
        if samples > max_samples or count > max_samples + _FEW:
            raise invalid(FieldFault("samples", f"more than {max_samples} given, at most so many are taken"))
        if metadata > most:
            raise invalid(FieldFault("samples", f"more than {most} bytes of metadata together"))


def _metadata_bytes(data: bytes, sample: _Field, index: int) -> int:
    total = 0
    for count, field in enumerate(_fields(data, sample.start, sample.stop), 1):
        if count > MAX_SAMPLE_FIELDS:
            raise invalid(FieldFault(f"samples[{index}]", f"more than {MAX_SAMPLE_FIELDS} fields and target words"))
        if field.number == _METADATA:
            total += field.stop - field.start
    return total


def _fields(data: bytes, at: int, end: int) -> Iterator[_Field]:
    """The fields one after the other, up to the first that is none."""
    while at < end:
        tag, at = _varint(data, at, end)
        kind = tag & 7
        if kind == _BYTES:
            size, at = _varint(data, at, end)
            stop = at + size
        elif kind == _VARINT:
            stop = at = _varint(data, at, end)[1]
        elif kind in _FIXED:
            stop = at = at + _FIXED[kind]
        else:
            raise RequestRejectedError(RejectionCode.MALFORMED, "no request: a group, or no field")
        if stop > end:
            return
        yield _Field(tag >> 3, at, stop)
        at = stop


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number and where it ends; beyond the end where it does not."""
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    return 0, end + 1
