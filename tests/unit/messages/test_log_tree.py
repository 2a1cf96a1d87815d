"""The Merkle tree of RFC 9162 against a naive one, written from the RFC's definitions, and against known vectors."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from messages.log.tree import (
    EMPTY,
    Frontier,
    Tree,
    hash_leaf,
    split_range,
    verify_consistency,
    verify_inclusion,
)

CT_LEAVES = [bytes.fromhex(one) for one in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
"""The eight leaves of the test vectors of Certificate Transparency."""
CT_ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
CT_PATHS = {
    (0, 1): (),
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (5, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (1, 5): (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
CT_CONSISTENT = {
    (1, 1): (),
    (1, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of section 2.1.1."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = naive_split(len(leaves))
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def naive_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = naive_split(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_proof(m: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    """SUBPROOF of section 2.1.4.1."""
    if m == len(leaves):
        return [] if whole else [naive_root(leaves)]
    k = naive_split(len(leaves))
    if m <= k:
        return [*naive_proof(m, leaves[:k], whole), naive_root(leaves[k:])]
    return [*naive_proof(m - k, leaves[k:], False), naive_root(leaves[:k])]


def grown(leaves: list[bytes]) -> Tree:
    tree = Tree()
    for one in leaves:
        tree.append_leaf(hash_leaf(one))
    return tree


def plain_leaves(count: int) -> list[bytes]:
    return [str(number).encode() for number in range(count)]


def test_the_tree_has_the_roots_and_proofs_of_certificate_transparencys_vectors() -> None:
    tree = grown(CT_LEAVES)
    assert [tree.root(size).hex() for size in range(1, 9)] == list(CT_ROOTS)
    assert tree.root(0) == EMPTY == sha256(b"").digest()
    for (index, size), path in CT_PATHS.items():
        assert tuple(one.hex() for one in tree.prove_inclusion(index, size)) == path
    for (old, size), path in CT_CONSISTENT.items():
        assert tuple(one.hex() for one in tree.prove_consistency(old, size)) == path


@given(st.integers(1, 70), st.data())
def test_roots_and_proofs_are_those_of_the_rfcs_definitions_and_verify(size: int, data: st.DataObject) -> None:
    leaves = plain_leaves(size + 3)
    tree = grown(leaves)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    root, path = tree.root(size), tree.prove_inclusion(index, size)
    assert root == naive_root(leaves[:size])
    assert path == naive_path(index, leaves[:size])
    assert verify_inclusion(hash_leaf(leaves[index]), index, size, path, root)
    proof = tree.prove_consistency(old, size)
    assert proof == naive_proof(old, leaves[:size])
    assert verify_consistency(old, tree.root(old), size, root, proof)


@given(st.integers(2, 40), st.data())
def test_no_other_leaf_place_size_root_or_proof_verifies(size: int, data: st.DataObject) -> None:
    leaves = plain_leaves(size)
    tree = grown(leaves)
    root, index = tree.root(), data.draw(st.integers(0, size - 1))
    path, leaf = tree.prove_inclusion(index, size), hash_leaf(leaves[index])
    other = data.draw(st.integers(0, size - 1).filter(lambda one: one != index))
    assert not verify_inclusion(leaf, other, size, path, root)
    assert not verify_inclusion(leaf, index, size, [*path, root], root)
    assert not verify_inclusion(leaf, index, size, path[:-1], root)
    assert not verify_inclusion(hash_leaf(b"else"), index, size, path, root)
    assert not verify_inclusion(leaf, size, size, path, root)
    old = data.draw(st.integers(1, size - 1))
    proof = tree.prove_consistency(old, size)
    forked = grown([b"else", *leaves[1:]])
    assert not verify_consistency(old, forked.root(old), size, root, proof)
    assert not verify_consistency(old, tree.root(old), size, forked.root(), proof)
    assert not verify_consistency(old, tree.root(old), size, root, proof[:-1])
    assert not verify_consistency(old, tree.root(old), size, root, [*proof, root])
    assert not verify_consistency(size + 1, root, size, root, [])


def test_the_empty_tree_begins_every_tree_and_a_tree_itself() -> None:
    tree = grown(plain_leaves(5))
    assert verify_consistency(0, EMPTY, 5, tree.root(), [])
    assert verify_consistency(5, tree.root(), 5, tree.root(), [])
    assert not verify_consistency(5, tree.root(4), 5, tree.root(), [])
    assert not verify_consistency(0, tree.root(), 5, tree.root(), [])


@given(st.integers(0, 60), st.sets(st.integers(0, 59)))
def test_a_frontier_reads_some_leaves_and_the_hashes_of_the_gaps_to_the_same_root(size: int, kept: set[int]) -> None:
    leaves = plain_leaves(size)
    tree, frontier = grown(leaves), Frontier()
    for place in [*sorted(one for one in kept if one < size), size]:
        gap = b"".join(tree.hash_gap(frontier.size, place))
        assert not frontier.cross_gap(place, gap + bytes(32))
        assert frontier.cross_gap(place, gap)
        if place < size:
            frontier.push(hash_leaf(leaves[place]))
    assert (frontier.size, frontier.root()) == (size, tree.root())


@given(st.integers(0, 200), st.integers(0, 200))
def test_a_range_is_split_into_few_complete_subtrees(start: int, count: int) -> None:
    parts = list(split_range(start, start + count))
    assert sum(1 << level for _at, level in parts) == count
    assert all(at % (1 << level) == 0 for at, level in parts)
    assert len(parts) <= 2 * max(1, count.bit_length())
