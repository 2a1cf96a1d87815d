"""Records of an exported log are examined on all of the machine's cores, and come back in their order.

What comes back does not depend on the number of cores: each batch is examined under the register that was in force when
all before it was taken. A few batches are under way at a time, so memory is bounded whatever the file's size.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import fields
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import Any

from messages.chain import Entry
from messages.ground.errors import WorkFailed
from messages.ground.in_order import begin_worker
from messages.log.examining import Examined, Extract, examine_frames
from messages.log.exports import BESIDE, FramedRecord, LogRecord
from messages.trust.register import Register

BATCH, BATCH_BYTES = 256, 2**20
"""Records and bytes that are examined together, at the most; one record may be larger."""
UNDER_WAY = 2**26
"""Bytes handed out and not yet back, at the most, but for one batch."""
LARGE = 2**23
"""Bytes of a file from which on processes are worth their start."""
MOST = 16
Flat = tuple[tuple[Any, ...] | None, tuple[Any, ...] | None, tuple[Any, ...]]
"""What was found of a record: its record without the entry, its entry, the rest."""
_ENTRY = [one.name for one in fields(Entry)]
_RECORD = [one.name for one in fields(LogRecord) if one.name != "entry"]
_BESIDE = b"\x93" + bytes([0xA0 + len(BESIDE)]) + BESIDE.encode()
"""How a record begins that may bring another register."""


def count_processes(path: Path) -> int:
    """How many processes to examine a file with: one for each core that this process may use; 1: none beside it.

    Small files need none; a daemonic process of `multiprocessing` may have none.
    """
    try:
        size = path.stat().st_size
    except OSError:
        return 1
    return 1 if size < LARGE or current_process().daemon else min(len(os.sched_getaffinity(0)), MOST)


def examine_in_order(
    frames: Iterable[FramedRecord], form: int, register: Callable[[], Register | None], extract: Extract, processes: int
) -> Generator[tuple[FramedRecord, Examined], None, None]:
    """Each record with what was found of it, in the file's order.

    Args:
        register: the one in force once all that came back was taken; asked again behind each record that may change it.
        processes: 1: the work is done here.

    Raises:
        WorkFailed: a process that examined ended.
    """
    if processes == 1:
        for frame in frames:
            yield frame, examine_frames([frame], form, register(), extract)[0]
        return
    under_way: deque[tuple[list[FramedRecord], Future[list[Flat]]]] = deque()
    waiting = 0
    with ExitStack() as stack:
        # "spawn": the same on every system, and whatever threads this process has.
        pool = ProcessPoolExecutor(processes, get_context("spawn"), begin_worker, (os.getpid(),))
        stack.callback(pool.shutdown, cancel_futures=True)
        for batch in _gather(frames):
            alone = batch[0].data.startswith(_BESIDE)
            while under_way and (alone or len(under_way) > 2 * processes or waiting > UNDER_WAY):
                waiting -= sum(len(one.data) for one in under_way[0][0])
                yield from _take_back(*under_way.popleft())
            if alone:
                yield from zip(batch, examine_frames(batch, form, register(), extract), strict=True)
                continue
            under_way.append(
                (batch, pool.submit(_examine_there, [tuple(one) for one in batch], form, register(), extract))
            )
            waiting += sum(len(one.data) for one in batch)
        while under_way:
            yield from _take_back(*under_way.popleft())


def _gather(frames: Iterable[FramedRecord]) -> Iterator[list[FramedRecord]]:
    """Batches; a record that may bring another register is one by itself."""
    batch, size = list[FramedRecord](), 0
    for frame in frames:
        alone = frame.data.startswith(_BESIDE)
        if batch and (alone or len(batch) == BATCH or size + len(frame.data) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(frame)
        size += len(frame.data)
        if alone:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _take_back(batch: list[FramedRecord], found: Future[list[Flat]]) -> Iterator[tuple[FramedRecord, Examined]]:
    try:
        flat = found.result()
    except BrokenProcessPool:
        raise WorkFailed(
            "a process that examined the log ended", advice="Too little memory, perhaps: try again"
        ) from None
    yield from zip(batch, map(_restore, flat), strict=True)


def _examine_there(frames: list[Any], form: int, register: Register | None, extract: Extract) -> list[Flat]:
    """In another process: examine, and answer in plain tuples, which travel at a tenth of the cost."""
    return [
        _flatten(one) for one in examine_frames([FramedRecord(*frame) for frame in frames], form, register, extract)
    ]


def _flatten(one: Examined) -> Flat:
    record = one.record
    entry = None if record is None else record.entry
    plain = None if entry is None else tuple([getattr(entry, name) for name in _ENTRY])
    kept = None if record is None else tuple([getattr(record, name) for name in _RECORD])
    return kept, plain, tuple(one[1:])


def _restore(flat: Flat) -> Examined:
    kept, plain, rest = flat
    entry = None if plain is None else Entry(*plain)
    if kept is None:
        return Examined(None, *rest)
    type_, place, gap, data, experiment, origin = kept
    return Examined(LogRecord(type_, place, gap, entry, data, experiment, origin), *rest)
