from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.package.blocks import cut, file_entry
from agent.package.manifest import MAX_BLOCK_BYTES
from agent.package.verify import check_block, digest_of


@given(st.data())
def test_pieces_join_to_the_file_and_never_cross_a_boundary(source: st.DataObject) -> None:
    data = source.draw(st.binary(min_size=1, max_size=500))
    boundaries = source.draw(st.lists(st.integers(0, len(data)), max_size=8))
    limit = source.draw(st.integers(1, 64))
    entry, pieces = file_entry(data, boundaries, limit)
    assert b"".join(pieces) == data
    assert (entry.sha256, entry.size) == (digest_of(data), len(data))
    edges, offset = {0}, 0
    for block, piece in zip(entry.blocks, pieces, strict=True):
        check_block(block, piece)
        assert 1 <= len(piece) <= limit
        offset += len(piece)
        edges.add(offset)
    assert set(boundaries) <= edges


def test_an_equal_tensor_at_another_offset_gives_equal_blocks() -> None:
    tensor = bytes(i % 251 for i in range(10_000))
    before = cut(b"old header" + tensor, [10, 10_010], 4096)
    after = cut(b"a longer new header" + tensor + b"tail", [19, 10_019], 4096)
    assert before[1:] == after[1:-1]


@pytest.mark.parametrize(("boundaries", "limit"), [([-1], 4), ([6], 4), ([], 0), ([], MAX_BLOCK_BYTES + 1)])
def test_cut_refuses_what_does_not_fit(boundaries: list[int], limit: int) -> None:
    with pytest.raises(ValueError, match=r"boundaries|block_bytes"):
        cut(b"12345", boundaries, limit)
