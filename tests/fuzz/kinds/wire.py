"""What reaches a reader from who holds a valid key: events and what is in them, chunks, entries, heads, registers,
exports, proofs, experiment files, manifests with their tensors, model files. Read, or refused with a reason."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from pydantic import ValidationError
from safetensors.numpy import save

from coordinator.loop.file_checks import check_file
from coordinator.record.heads import read_published, read_witnessed
from coordinator.record.story import tell_entry
from messages import chain, codec, kinds, names, scores
from messages.envelope import check_origin, decode_event, decode_stored, digest_facts, wrap_payload
from messages.experiment import parse_experiment
from messages.ground.errors import KonsilError
from messages.ground.shown import escape_controls, escape_json
from messages.kinds import KINDS
from messages.log import exports, forks, heads, proofs, verification, witness
from messages.tensors import layout, transfer
from messages.tensors.layout import Manifest
from messages.trust.notes import read_note
from messages.trust.register import parse_register
from messages.trust.verifier import Verifier
from nets.model_file import read_model
from tests.fuzz import wire_damage as damaged
from tests.fuzz.harness import Kind
from tests.fuzz.text_damage import damage_text

SLOW = 2.0
"""Seconds of a processor that one input may take."""
MOST_TENSORS = 2**20
"""Bytes of tensors that are decoded; a manifest may announce more, which is bounded elsewhere."""
ORIGIN = "konsil/demo"
OPERATOR = bytes.fromhex(damaged.LOG.with_name("operator.hex").read_text().strip())
NOW = 2_000_000_000.0


@cache
def _verifier() -> Verifier:
    note = next(one for one in damaged.read_notes() if one.startswith(b"konsil register"))
    register = parse_register(read_note(note))
    return Verifier(register.consortium, OPERATOR, register)


def open_event(raw: bytes, _folder: Path) -> None:
    """An event, and all that its receivers read of its body."""
    event = decode_event(raw)
    decode_stored(raw, 1 if event.newer else None)
    digest_facts(event), wrap_payload(raw)
    check_file(event)
    body = event.body
    for one in body.events if isinstance(body, kinds.Standing) else ():
        _refused(lambda one=one: open_event(one, _folder))
    if isinstance(body, kinds.ExperimentAccepted):
        _refused(lambda: open_event(body.original, _folder))
    if isinstance(body, kinds.LogHead):
        _judge_head(body)
    if isinstance(body, kinds.RegisterAnnounced):
        _refused(lambda: _verifier().take_register(body.note))
    _look_into(body)
    _refused(lambda: check_origin(event, event.key, event.sender, event.consortium))
    queue = KINDS[event.kind].queue if event.known else names.UPLINK
    _refused(lambda: _verifier().check_event(event, queue, NOW))


def _refused(what: Callable[[], object]) -> None:
    with suppress(KonsilError, ValidationError):
        what()


def _judge_head(body: kinds.LogHead) -> None:
    shown = witness.Shown(
        body.note, body.old_size, tuple(body.proof), 1, ("exp-1", 1, body.opening), body.witnessed,
        tuple(body.witness_proof), body.fork, tuple(body.fork_proof),
    )  # fmt: skip
    known = {size: note for note in damaged.read_notes()[:2] if (size := exports.size_of(note))}
    witness.judge_head(witness.Seen(known, 1), shown, ORIGIN, OPERATOR, lambda name: ())


def _look_into(value: Any) -> None:
    """Manifests and scores, wherever they stand in a body; words as a terminal and JSON show them."""
    if isinstance(value, Manifest):
        _decode_tensors(value)
    elif isinstance(value, scores.SplitScores):
        if scores.is_sound(value):
            scores.pool_scores([value, value])
    elif isinstance(value, str):
        escape_json(json.dumps(escape_controls(value), ensure_ascii=False))
    elif isinstance(value, list | tuple):
        for one in value[:50]:
            _look_into(one)
    elif isinstance(value, dict):
        _look_into(list(value)), _look_into(list(value.values()))
    elif hasattr(value, "model_fields_set"):
        _look_into([getattr(value, name) for name in type(value).model_fields])


def _decode_tensors(manifest: Manifest) -> None:
    layout.seal_transfer(manifest, [])
    if manifest.nbytes <= MOST_TENSORS:
        for tensor in layout.each_tensor(manifest, np.full(manifest.nbytes, 0x7F, np.uint8)):
            tensor.read_all()


def open_chunk(raw: bytes, folder: Path) -> None:
    """A chunk, into the file of its transfer."""
    header, data = transfer.decode_chunk(raw)
    if header.total <= MOST_TENSORS:  # a receiver's bound on the disk
        incoming = transfer.Incoming(folder, header.key, size=header.size, total=header.total)
        incoming.add_chunk(header, data)
        incoming.list_missing()
        incoming.discard()


def open_entry(raw: bytes, _folder: Path) -> None:
    """An entry of a journal, and what is told of it."""
    entry = chain.decode_entry(raw)
    _refused(lambda: chain.check_hash(entry))
    read_published(entry), read_witnessed(entry)
    tell_entry(entry)


def open_note(raw: bytes, _folder: Path) -> None:
    """A head, a declared fork or a register."""
    note = read_note(raw)
    _refused(lambda: heads.read_head(note, ORIGIN))
    _refused(lambda: heads.open_head(raw, ORIGIN, [OPERATOR]))
    _refused(lambda: forks.read_fork(raw, ORIGIN, OPERATOR))
    _refused(lambda: _verifier().take_register(raw))
    parse_register(note)


def open_plain(raw: bytes, _folder: Path) -> None:
    """A bare msgpack value under the bounds of events."""
    codec.unpack(raw)


def open_manifest(raw: bytes, _folder: Path) -> None:
    """A manifest, and its tensors."""
    _decode_tensors(Manifest.model_validate(codec.unpack(raw)))


def open_text(raw: bytes, _folder: Path) -> None:
    """An experiment file as its researcher writes it."""
    parse_experiment(raw.decode("utf-8", "replace"))


def open_model(raw: bytes, folder: Path) -> None:
    """A model file."""
    path = folder / "model.safetensors"
    path.write_bytes(raw)
    read_model(path)


def open_export(raw: bytes, folder: Path) -> None:
    """An exported log."""
    path = folder / "log.konsil"
    path.write_bytes(raw)
    verification.verify_export(path, OPERATOR)


def open_proof(raw: bytes, folder: Path) -> None:
    """A proof of one entry."""
    path = folder / "entry.proof"
    path.write_bytes(raw)
    proofs.verify_proof(path, OPERATOR)


@dataclass(frozen=True)
class Way:
    """One way in: of so many inputs in 1,000 it is taken. `inside`: damage to the values, beside that to the bytes."""

    name: str
    share: int
    examples: Callable[[], Sequence[bytes]]
    open: Callable[[bytes, Path], None]
    inside: Callable[[random.Random, bytes], bytes]


@cache
def _manifests() -> tuple[bytes, ...]:
    bodies = (msgpack.unpackb(msgpack.unpackb(one)[0])["body"] for one in damaged.read_words(".event"))
    said = {msgpack.packb(one["transfer"]["manifest"]) for one in bodies if "manifest" in one.get("transfer", {})}
    return tuple(sorted(said))


@cache
def _models() -> tuple[bytes, ...]:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((), np.int64)}
    told = {"format": 1, "tensors": ["a", "b"], "model_digest": "0" * 64, "net": {"name": "unet"}, "channels": ["t1"]}
    metadata = {"konsil": json.dumps({**told, "out_channels": 3, "patch": [8, 8, 8]})}
    return (save(arrays, metadata=metadata),)


@cache
def _proofs() -> tuple[bytes, ...]:
    return tuple(json.dumps(proofs.prove_entry(damaged.LOG, index)).encode() for index in (1, 7))


@cache
def _texts() -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in damaged.FILES)


WAYS = (
    Way("event", 600, lambda: damaged.read_words(".event"), open_event, damaged.damage_event),
    Way("chunk", 120, lambda: damaged.read_words(".chunk"), open_chunk, damaged.damage_bytes),
    Way("entry", 80, lambda: damaged.read_words(".entry"), open_entry, damaged.inside()),
    Way("note", 80, damaged.read_notes, open_note, damaged.damage_note),
    Way("plain", 60, lambda: damaged.read_words(".event"), open_plain, damaged.inside()),
    Way("manifest", 40, _manifests, open_manifest, damaged.inside()),
    Way("model", 12, _models, open_model, damaged.damage_container),
    Way("proof", 4, _proofs, open_proof, damaged.damage_json),
    Way("text", 3, _texts, open_text, lambda rng, data: damage_text(rng, data.decode())),
    Way("export", 1, lambda: (damaged.LOG.read_bytes(),), open_export, damaged.damage_export),
)


def damage(rng: random.Random) -> bytes:
    """Which way, a byte, and what comes in by it."""
    [way] = rng.choices(WAYS, [one.share for one in WAYS])
    data = rng.choice(way.examples())
    changed = (way.inside if rng.random() < 0.7 else damaged.damage_bytes)(rng, data)
    return bytes([WAYS.index(way)]) + changed


def attempt(folder: Path, inputs: Sequence[bytes]) -> Counter[str]:
    """Read each as its receivers do."""
    told: Counter[str] = Counter()
    for one in inputs:
        way = WAYS[one[0]]
        began = time.thread_time()
        try:
            way.open(one[1:], folder)
            told[f"{way.name} read"] += 1
        except (KonsilError, ValidationError):
            told[f"{way.name} refused"] += 1
        if time.thread_time() - began > SLOW:
            raise TimeoutError(f"{way.name}: took {time.thread_time() - began:.1f} s")
    return told


KIND = Kind("wire", damage, attempt, batch=2000, seconds=0.02, memory=64 * 2**20)
