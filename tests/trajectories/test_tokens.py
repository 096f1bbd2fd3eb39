from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varl.trajectories.tokens import MAX_BITS, pack, site_bytes, unpack

BITS = st.integers(1, MAX_BITS)


@given(BITS, st.data())
def test_tokens_of_any_width_come_back(bits: int, data: st.DataObject) -> None:
    tokens = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=9))
    packed = pack(np.array(tokens, np.uint64).view(np.int64), bits)
    assert len(packed) == len(tokens) * site_bytes(bits)
    assert unpack(packed, bits).tolist() == tokens


def test_bytes_are_little_endian_and_no_more_than_a_site_needs() -> None:
    assert pack([0x0102, 0x01FF], 9) == b"\x02\x01\xff\x01"
    assert pack([-1], 64) == b"\xff" * 8 and unpack(b"\xff" * 8, 64).view(np.int64).tolist() == [-1]
    assert [site_bytes(bits) for bits in (1, 8, 9, 32, 56, 64)] == [1, 1, 2, 4, 7, 8]


def test_a_part_of_a_site_is_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes are no multiple of the 2"):
        unpack(b"123", 16)
