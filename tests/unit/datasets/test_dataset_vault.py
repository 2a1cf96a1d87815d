"""Files encrypted at rest: what went in comes out, and nothing that was touched opens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from site_agent.datasets import vault
from site_agent.datasets.vault import CHUNK, Damaged, Vault

SECRET = bytes(range(32))


@given(st.binary(max_size=300), st.integers(1, 64))
@settings(max_examples=60, deadline=None)
def test_what_was_sealed_opens_as_it_was_whatever_the_chunk(content: bytes, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vault, "CHUNK", chunk)
        assert Vault(SECRET, "x").open(Vault(SECRET, "x").seal(content)) == content


@given(st.binary(min_size=1, max_size=200), st.data())
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_does_not_open(content: bytes, data: st.DataObject) -> None:
    sealed = bytearray(Vault(SECRET, "x").seal(content))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Damaged):
        Vault(SECRET, "x").open(bytes(sealed))


@pytest.mark.parametrize("left", [0, 5, 24, 24 + 16 + CHUNK, 24 + 2 * (16 + CHUNK)])
def test_a_file_that_was_cut_short_does_not_open_even_between_two_chunks(left: int) -> None:
    sealed = Vault(SECRET, "x").seal(bytes(2 * CHUNK + 7))
    with pytest.raises(Damaged):
        Vault(SECRET, "x").open(sealed[:left])


def test_another_secret_and_another_purpose_do_not_open() -> None:
    sealed = Vault(SECRET, "x").seal(b"voxels")
    for other in (Vault(SECRET[::-1], "x"), Vault(SECRET, "y")):
        with pytest.raises(Damaged):
            other.open(sealed)


def test_nothing_of_the_content_shows_and_two_files_of_one_content_differ() -> None:
    first, second = (Vault(SECRET, "x").seal(b"Doe^John" * 50) for _ in range(2))
    assert b"Doe" not in first
    assert first[24:] != second[24:]
