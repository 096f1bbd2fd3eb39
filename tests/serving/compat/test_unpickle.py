"""What hostile pickles come to: a typed refusal, and nothing else."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varl.services.serving.compat.unpickle import MAX_DEPTH, MAX_OPCODES, load
from varl.services.serving.compat.unpickle_machine import MAX_ELEMENTS, RestrictedPickleError

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
DTYPES = ("?", "i1", "<i8", ">u2", "<f4", "<f8", "<U3", ">U3", "S4")


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(name) + b"\x93"


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:  # noqa: ANN401
        self.made = (function, arguments)

    def __reduce__(self) -> Any:  # noqa: ANN401
        return self.made


class Points:
    """Pickled by a persistent id."""


class PersistentPickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:  # noqa: ANN401
        return "id" if isinstance(obj, Points) else None


def persistent(protocol: int) -> bytes:
    import io

    buffer = io.BytesIO()
    PersistentPickler(buffer, protocol).dump([Points()])
    return buffer.getvalue()


def array_pickle(shape: bytes, code: str, data: bytes) -> bytes:
    """A numpy array as protocol 4 writes it, with a free shape, dtype and content."""
    dtype = (
        named("numpy", "dtype")
        + text(code)
        + b"\x89\x88\x87R"
        + b"(K\x03"
        + text("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    empty = named("numpy._core.multiarray", "_reconstruct") + named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    return b"\x80\x04" + empty + b"(K\x01" + shape + dtype + b"\x89B" + struct.pack("<I", len(data)) + data + b"tb."


def lists_of_lists(depth: int) -> bytes:
    return b"\x80\x04" + b"]" * depth + b"a" * (depth - 1) + b"."


BILLION = (
    b"\x80\x04]\x94"
    + b"".join(b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"e\x94" for i in range(30))
    + b"."
)
HUGE = struct.pack("<I", 0xFFFFFFFF)
HOSTILE = {
    "os.system": pickle.dumps(Calls(os.system, "touch {path}")),
    "eval": pickle.dumps(Calls(eval, "__import__('os').system('touch {path}')")),
    "exec, protocol 3": pickle.dumps(Calls(exec, "open('{path}', 'w')"), 3),
    "getattr": pickle.dumps(Calls(getattr, "", "format")),
    "open": pickle.dumps(Calls(open, "{path}", "w")),
    "global in protocol 0": b"cos\nsystem\n(S'touch {path}'\ntR.",
    "INST": b"(S'touch {path}'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch {path}'\no.",
    "NEWOBJ": b"\x80\x04" + named("os", "system") + b")\x81.",
    "NEWOBJ_EX": b"\x80\x04" + named("numpy", "ndarray") + b")}\x92.",
    "a dotted name": b"\x80\x04" + named("numpy", "dtype.__reduce__") + b".",
    "a module beside the allowed ones": b"\x80\x04" + named("numpy.core.multiarray", "fromfile") + b".",
    "numpy.load": b"\x80\x04" + named("numpy", "load") + text("{path}") + b"\x85R.",
    "a module that is no text": b"\x80\x04K\x01" + text("dtype") + b"\x93.",
    "a name in a list": b"\x80\x04]" + text("dtype") + b"\x93.",
    "copyreg": b"\x80\x04" + named("copyreg", "_reconstructor") + b".",
    "EXT1": b"\x80\x04\x82\x01.",
    "EXT2": b"\x80\x04\x83\x01\x01.",
    "EXT4": b"\x80\x04\x84\x01\x01\x01\x01.",
    "PERSID": persistent(0),
    "BINPERSID": persistent(4),
    "an object array": pickle.dumps(np.array([{"a": 1}, None], object)),
    "a structured array": pickle.dumps(np.zeros(2, [("a", "i4")])),
    "a date array": pickle.dumps(np.zeros(2, "datetime64[s]")),
    "an object scalar": b"\x80\x04"
    + named("numpy.core.multiarray", "scalar")
    + named("numpy", "dtype")
    + text("O8")
    + b"\x89\x88\x87RC\x01x\x86R.",
    "a huge array of nothing": array_pickle(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", "u1", b""),
    "a huge array of empty texts": array_pickle(b"J\xff\xff\xff\x7f\x85", "U0", b""),
    "an empty array with a huge side": array_pickle(b"J\xff\xff\xff\x7fK\x00\x86", "u1", b"")[:-2] + b"u.",
    "a negative side": array_pickle(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86", "u1", b"x"),
    "too many elements": array_pickle(
        b"J" + struct.pack("<i", MAX_ELEMENTS + 1) + b"\x85", "u1", b"x" * (MAX_ELEMENTS + 1)
    ),
    "no unicode": array_pickle(b"K\x01\x85", "U1", b"\xff\xff\xff\x7f"),
    "the array's class alone": b"\x80\x04" + named("numpy", "ndarray") + b".",
    "an array that is never built": array_pickle(b"K\x00\x85", "u1", b"").split(b"(")[0] + b".",
    "state for a function": b"\x80\x04"
    + named("numpy._core.multiarray", "scalar")
    + b"}"
    + text("__code__")
    + text("x")
    + b"sb.",
    "state for a dict": b"\x80\x04}}" + text("a") + text("b") + b"sb.",
    "a buffer of objects": b"\x80\x05"
    + named("numpy._core.numeric", "_frombuffer")
    + b"(C\x08"
    + b"x" * 8
    + named("numpy", "dtype")
    + text("O8")
    + b"\x89\x88\x87RK\x01\x85"
    + text("C")
    + b"tR.",
    "a buffer of another size": pickle.dumps(np.zeros(4), 5).replace(b"K\x04\x85", b"K\x05\x85"),
    "a buffer that is no bytes": b"\x80\x05" + named("numpy._core.numeric", "_frombuffer") + b"(N)N)tR.",
    "nested lists": lists_of_lists(MAX_DEPTH + 2),
    "very deep lists": lists_of_lists(MAX_OPCODES // 2 - 10),
    "very deep tuples": b"\x80\x04)" + b"\x85" * (MAX_OPCODES - 10) + b".",
    "a deep tuple for a key": b"\x80\x04})" + b"\x85" * (MAX_OPCODES - 10) + b"Ns.",
    "a tuple of tuples for a key": b"\x80\x04})" + b"\x94h\x00\x86" * 1 + b"2\x86" * 60 + b"Ns.",
    "a billion laughs": BILLION,
    "a list inside itself": b"\x80\x04]\x94h\x00ah\x00\x85\x94h\x01" + b".",
    "too many opcodes": b"\x80\x04](" + b"N" * MAX_OPCODES + b"e.",
    "a memo far away": b"\x80\x04]r" + HUGE + b"j" + struct.pack("<I", 0xFFFFFFFE) + b".",
    "a long text that is not there": b"\x80\x04X" + HUGE + b"a.",
    "very long bytes that are not there": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"a.",
    "a long number that is not there": b"\x80\x04\x8b" + HUGE + b".",
    "a decimal of a million digits": b"L" + b"9" * 10**6 + b"L\n.",
    "a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "an out-of-band buffer": b"\x80\x05\x97.",
    "an int for a key": pickle.dumps({1: 2}),
    "a set": pickle.dumps({1}),
    "no end": b"\x80\x04]",
    "two values": b"\x80\x04NN.",
    "nothing on the stack": b"\x80\x04.",
    "marks without end": b"\x80\x04" + b"(" * 1000 + b".",
    "empty": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_and_does_nothing(name: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    data = HOSTILE[name].replace(b"{path}", str(made).encode())
    tracemalloc.start()
    try:
        with pytest.raises(RestrictedPickleError) as refusal:
            load(data)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not made.exists()
    assert most < 64 * 2**20
    assert 0 < len(str(refusal.value)) < 400


@given(PLAIN, st.sampled_from([3, 4, 5]))
def test_plain_data_comes_back(value: object, protocol: int) -> None:
    assert load(pickle.dumps(value, protocol)) == value


@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from([3, 4, 5]),
)
def test_arrays_come_back_as_lists(dtype: str, shape: list[int], fortran: bool, protocol: int) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    expected = array.tolist() if array.size else []
    assert load(pickle.dumps({"prompts": np.asfortranarray(array) if fortran else array}, protocol)) == {
        "prompts": expected
    }
    if array.size:
        scalar = array.reshape(-1)[0]
        assert load(pickle.dumps([scalar], protocol)) == [scalar.item()]


def test_the_older_name_of_numpys_core_is_the_same() -> None:
    data = pickle.dumps({"prompts": np.array(["a", "b"])}, 3)
    assert b"numpy._core" in data or b"numpy.core" in data
    for core in (b"numpy.core", b"numpy._core"):
        assert load(data.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", core)) == {"prompts": ["a", "b"]}


def test_protocol_5_has_arrays_and_files_as_bytearrays() -> None:
    frozen = np.array(["a", "bü"])
    frozen.flags.writeable = False
    for prompts in (np.array(["a", "bü"]), frozen):
        data = pickle.dumps({"images": [bytearray(b"x")], "prompts": prompts}, 5)
        assert b"_frombuffer" in data
        for core in (b"numpy.core", b"numpy._core"):
            moved = data.replace(b"\x13numpy._core", bytes([len(core) + 8]) + core)
            assert load(moved) == {"images": [b"x"], "prompts": ["a", "bü"]}
    assert type(load(pickle.dumps(bytearray(b"x"), 5))) is bytes


def test_shared_values_and_an_empty_array_are_fine() -> None:
    image = b"x" * 1000
    assert load(pickle.dumps([image, image])) == [image, image]
    assert load(pickle.dumps([np.zeros((0, 5)), 7])) == [[], 7]


SEEDS = [
    pickle.dumps(
        {"images": [b"\xff\xd8" * 200, b"x"], "prompts": np.array(["a", "bü"]), "metadata": {"k": (1, 2.5, None)}},
        protocol,
    )
    for protocol in (3, 4, 5)
] + [pickle.dumps([np.str_("a"), np.float32(1), np.arange(6).reshape(2, 3)], 4)]
MUTATIONS = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "insert", "copy"]), st.integers(0, 2000), st.integers(0, 255)),
    min_size=1,
    max_size=6,
)


def mutated(data: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    for kind, place, value in changes:
        at = place % (len(data) or 1)
        middle = {
            "set": bytes([value]),
            "cut": b"",
            "insert": bytes([value]) + data[at : at + 1],
            "copy": data[at : at + value] * 2,
        }[kind]
        data = data[:at] + middle + data[at + (value if kind == "copy" else 1) :]
    return data


@given(st.sampled_from(SEEDS), MUTATIONS)
def test_any_damage_is_a_refusal_or_plain_data(seed: bytes, changes: list[tuple[str, int, int]]) -> None:
    plain_or_refused(mutated(seed, changes))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_refusal_or_plain_data(data: bytes) -> None:
    plain_or_refused(data)


@given(
    st.lists(
        st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes]) | st.binary(max_size=3),
        max_size=60,
    )
)
def test_any_opcodes_are_a_refusal_or_plain_data(parts: list[bytes]) -> None:
    plain_or_refused(b"\x80\x04" + b"".join(parts) + b".")


def plain_or_refused(data: bytes) -> None:
    try:
        value = load(data)
    except RestrictedPickleError:
        return
    assert plain(value)


def plain(value: object, depth: int = 0) -> bool:
    if isinstance(value, dict | list | tuple) and depth < 2 * MAX_DEPTH:
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        return all(plain(item, depth + 1) for item in inside)
    return depth >= 2 * MAX_DEPTH or type(value) in (str, bytes, int, float, bool, type(None))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("point", [0xFFFFFFFF, 0x110000, 0xD800, 0xDFFF])
def test_texts_of_arrays_are_unicode(order: str, point: int) -> None:
    state = (1, (1,), np.dtype(f"{order}U1"), False, struct.pack(f"{order}I", point))
    data = pickle.dumps(np.array(["x"], dtype=f"{order}U1"), protocol=4)
    broken = data.replace(struct.pack(f"{order}I", ord("x")), struct.pack(f"{order}I", point))
    assert broken != data, state
    with pytest.raises(RestrictedPickleError, match="texts that are none"):
        load(broken)


def test_what_is_shared_counts_as_often_as_it_is_referred_to() -> None:
    level: list[object] = ["x"] * 100
    for _ in range(8):  # 100 ** 9 values in a few hundred references
        level = [level] * 100
    with pytest.raises(RestrictedPickleError, match="as often as it is referred to"):
        load(pickle.dumps(level, protocol=4))
    shared = {"a": ["x"] * 100}
    assert load(pickle.dumps([shared] * 100, protocol=4)) == [shared] * 100


def test_depth_counts_along_the_longest_way() -> None:
    chain: list[object] = []
    links: list[object] = [chain]
    for _ in range(MAX_DEPTH + 1):
        chain = [chain]
        links.append(chain)
    with pytest.raises(RestrictedPickleError, match="nested deeper"):
        load(pickle.dumps(links, protocol=4))  # every link stands right below the top as well
