"""The Merkle tree of RFC 9162, section 2.1, over a growing list: roots, proofs, and how they are verified. Pure.

A leaf is SHA-256(0x00 ‖ bytes), a node SHA-256(0x01 ‖ left ‖ right). Every complete subtree's hash is kept, 64 bytes a
leaf in all, so that a leaf is appended, and a proof made, in O(log n) hashes and lookups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

HASH = 32
"""Bytes."""
EMPTY = sha256(b"").digest()
"""The root of a tree without leaves."""


def hash_leaf(data: bytes) -> bytes:
    """A leaf's hash."""
    return sha256(b"\x00" + data).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees side by side."""
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree that grows at its right edge. `levels[h]` holds the hashes of the complete subtrees of 2^h leaves."""

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        """Leaves."""
        return len(self._levels[0]) // HASH

    def append_leaf(self, leaf: bytes) -> None:
        """Add a leaf's hash."""
        level, node = 0, leaf
        while True:
            if level == len(self._levels):
                self._levels.append(bytearray())
            here = self._levels[level]
            here += node
            if len(here) // HASH % 2:
                return
            node = hash_node(bytes(here[-2 * HASH : -HASH]), node)
            level += 1

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` leaves; default: all."""
        size = self.size if size is None else size
        return self._hash_range(0, self._within(size)) if size else EMPTY

    def prove_inclusion(self, index: int, size: int) -> list[bytes]:
        """The audit path of leaf `index`, from 0, in the tree of the first `size` leaves (section 2.1.3.1)."""
        if not 0 <= index < self._within(size):
            raise ValueError(f"leaf {index} of {size}")
        return [self._hash_range(start, count) for start, count in list_path(index, size)]

    def prove_consistency(self, old: int, size: int) -> list[bytes]:
        """That the first `size` leaves begin with the first `old` (section 2.1.4.1). Nothing proves itself: empty."""
        if not 0 <= old <= self._within(size):
            raise ValueError(f"{old} leaves of {size}")
        if old in (0, size):
            return []
        start, count, whole, path = 0, size, True, list[bytes]()
        while old != count:
            left = _split(count)
            if old <= left:
                path.append(self._hash_range(start + left, count - left))
                count = left
            else:
                path.append(self._hash_range(start, left))
                start, old, count, whole = start + left, old - left, count - left, False
        return path[::-1] if whole else [self._hash_range(start, count), *path[::-1]]

    def hash_gap(self, start: int, end: int) -> list[bytes]:
        """The hashes that stand for leaves from `start` to before `end`: of the subtrees of `split_range`."""
        self._within(end)
        return [self._hash_range(at, 1 << level) for at, level in split_range(start, end)]

    def _within(self, size: int) -> int:
        if not 0 <= size <= self.size:
            raise ValueError(f"{size} leaves of {self.size}")
        return size

    def _hash_range(self, start: int, count: int) -> bytes:
        if count & (count - 1) == 0:
            level = count.bit_length() - 1
            at = (start >> level) * HASH
            return bytes(self._levels[level][at : at + HASH])
        left = _split(count)
        return hash_node(self._hash_range(start, left), self._hash_range(start + left, count - left))


def _split(count: int) -> int:
    """The largest power of two below `count`, which is at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


def list_path(index: int, size: int) -> list[tuple[int, int]]:
    """(first leaf, leaves) of the subtrees in an audit path, from the leaf upwards."""
    start, path = 0, list[tuple[int, int]]()
    while size > 1:
        left = _split(size)
        if index < left:
            path.append((start + left, size - left))
            size = left
        else:
            path.append((start, left))
            start, index, size = start + left, index - left, size - left
    return path[::-1]


def split_range(start: int, end: int) -> Iterator[tuple[int, int]]:
    """(first leaf, level) of the largest complete subtrees that make up the leaves from `start` to before `end`."""
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        yield start, level
        start += 1 << level


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether a leaf's hash is at a place of the tree with this size and root (section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last = leaf, size - 1
    for step in path:
        if last == 0:
            return False
        if index & 1 or index == last:
            node = hash_node(step, node)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = hash_node(node, step)
        index, last = index >> 1, last >> 1
    return last == 0 and node == root


def verify_consistency(old: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the tree of `size` and `root` begins with that of `old` and `old_root` (section 2.1.4.2)."""
    if not 0 <= old <= size or (old == 0 and old_root != EMPTY):
        return False
    if old in (0, size):
        return not path and (old == 0 or old_root == root)
    steps = list(path) if old & (old - 1) else [old_root, *path]
    if not steps:
        return False
    first, last = old - 1, size - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    was = now = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            was, now = hash_node(step, was), hash_node(step, now)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            now = hash_node(now, step)
        first, last = first >> 1, last >> 1
    return last == 0 and was == old_root and now == root


class Frontier:
    """The right edge of a tree that is read once, from left to right, in O(log n) memory: leaves, and hashes that
    stand for the leaves of a gap."""

    def __init__(self) -> None:
        self.size = 0
        self._nodes: list[tuple[int, bytes]] = []

    def push(self, node: bytes, level: int = 0) -> None:
        """Add a leaf, or a complete subtree of 2^level leaves, which begins at a multiple of its size."""
        self.size += 1 << level
        while self._nodes and self._nodes[-1][0] == level:
            node = hash_node(self._nodes.pop()[1], node)
            level += 1
        self._nodes.append((level, node))

    def cross_gap(self, end: int, hashes: bytes) -> bool:
        """Go on to before leaf `end` by the hashes that stand for what lies between; False where they do not fit."""
        steps = list(split_range(self.size, end))
        if end < self.size or len(hashes) != HASH * len(steps):
            return False
        for place, (_start, level) in enumerate(steps):
            self.push(hashes[place * HASH : (place + 1) * HASH], level)
        return True

    def root(self) -> bytes:
        """The root over all that was read."""
        if not self._nodes:
            return EMPTY
        node = self._nodes[-1][1]
        for _level, left in reversed(self._nodes[:-1]):
            node = hash_node(left, node)
        return node
