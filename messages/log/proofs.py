"""A proof that one entry is in the log, which gives nothing of the others away (RFC 9162, section 2.1.3).

The file is JSON: the entry's bytes, its place, the audit path, a signed head, and the operator's register that was in
force. Pure, but for the files.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from messages import codec
from messages.chain import MAX_ENTRY, Entry, check_hash, decode_entry, name_entry
from messages.ground.errors import LogBroken, MalformedMessage, RequestError
from messages.log import exports
from messages.log.examining import register_in
from messages.log.heads import list_witnesses, origin_of, read_head
from messages.log.tree import hash_leaf, hash_node, list_path, split_range, verify_inclusion
from messages.names import COORDINATOR
from messages.trust.notes import read_note
from messages.trust.register import parse_register, read_register

FORMAT = "konsil proof 1"


@dataclass(frozen=True, slots=True)
class ProvenEntry:
    """What a proof showed. `witnesses`: site → when it cosigned the head, by its clock."""

    entry: Entry
    size: int
    witnesses: Mapping[str, int]
    pinned: bool


@dataclass
class _Sparse:
    """The hashes of a tree that an export gives: (level, place in it) → hash."""

    nodes: dict[tuple[int, int], bytes] = field(default_factory=dict)
    size: int = 0

    def add_gap(self, end: int, hashes: bytes) -> None:
        for place, (start, level) in enumerate(split_range(self.size, end)):
            self.nodes[level, start >> level] = hashes[32 * place : 32 * place + 32]
        self.size = end

    def hash_range(self, start: int, count: int) -> bytes:
        level = (count - 1).bit_length()
        known = self.nodes.get((level, start >> level)) if count == 1 << level else None
        if known is not None:
            return known
        left = 1 << (level - 1)
        return hash_node(self.hash_range(start, left), self.hash_range(start + left, count - left))


def prove_entry(path: Path, index: int) -> dict[str, Any]:
    """The proof of an experiment's entry out of an export that holds (`verification.verify_export`): by the first head
    that covers it, and the register at that head.

    Raises:
        RequestError: the export has no such entry, or no head covers it.
    """
    tree, note, register, found = _Sparse(), b"", None, None
    for record in exports.read_records(path):
        if record.type == exports.HEAD:
            tree.add_gap(exports.size_of(record.data), record.gap)
            note = record.data
            if found is not None:
                break
        elif record.entry is not None:
            entry = record.entry
            if record.type == exports.ENTRY and entry.index == index:
                found = entry
            if record.type == exports.BESIDE:
                register = register_in(entry.type, codec.unpack(entry.body, max_bytes=MAX_ENTRY)) or register
            tree.add_gap(entry.number - 1, record.gap)
            tree.nodes[0, entry.number - 1] = hash_leaf(entry.encode())
            tree.size = entry.number
    if found is None:
        raise RequestError(f"the log has no entry {index}", where=str(path))
    size = exports.size_of(note)
    if found.number > size:
        raise RequestError(f"no signed head covers entry {index}", where=str(path), advice="Export it again later")
    steps = [tree.hash_range(start, count) for start, count in list_path(found.number - 1, size)]
    return {
        "format": FORMAT,
        "entry": base64.b64encode(found.encode()).decode(),
        "path": [one.hex() for one in steps],
        "head": note.decode(),
        "register": None if register is None else register.decode(),
    }


def verify_proof(path: Path, operator: bytes | None = None) -> ProvenEntry:
    """Check a proof of one entry.

    Raises:
        RequestError: it cannot be read, or is no proof.
        LogBroken: it does not hold.
    """
    try:
        plain = json.loads(path.read_text("utf-8"))
        if plain["format"] != FORMAT:
            raise ValueError(plain["format"])
        entry = decode_entry(base64.b64decode(plain["entry"], validate=True))
        steps = [bytes.fromhex(one) for one in plain["path"]]
        note = read_note(plain["head"].encode())
        head = read_head(note, note.text.split("\n", 1)[0])
        register_note = read_note(plain["register"].encode())
    except OSError as error:
        raise RequestError(f"cannot be read ({error.strerror})", where=str(path)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error, MalformedMessage):
        raise RequestError("is no proof of an entry", where=str(path), advice="Use `konsil audit prove`") from None
    where = name_entry(entry)
    check_hash(entry)
    consortium = head.origin.removeprefix(origin_of(""))
    try:
        if operator is None:
            register = parse_register(register_note, consortium)
        else:
            register = read_register(register_note.encode(), operator, consortium)
    except MalformedMessage as error:
        raise LogBroken(f"its register cannot be used: {error.what}", where=where) from None

    def keys_of(name: str) -> tuple[bytes, ...]:
        """Keys that were good at the entry's time or later: a head is made after its entries."""
        return tuple(
            one.public for one in register.keys if one.name == name and one.is_good(max(entry.time, one.since))
        )

    if not any(note.is_signed_by(head.origin, key) for key in keys_of(COORDINATOR)):
        raise LogBroken("no key that the register has for the coordinator signed the head", where=where)
    if not verify_inclusion(hash_leaf(entry.encode()), entry.number - 1, head.size, steps, head.root):
        raise LogBroken("it is not in the log that the head is of", where=where)
    witnesses = list_witnesses(note, keys_of)
    return ProvenEntry(entry, head.size, witnesses, operator is not None)
