"""Toy rounds for the tests of strategies: what the sites received and send, and what a strategy makes of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coordinator.work.aggregate import Memory, aggregate, share_weights
from coordinator.work.strategies.base import BLOCK, Strategy
from messages.tensors.codecs import CODECS, CodecName
from messages.tensors.layout import Manifest, manifest_of, tensors_of, write_into

Arrays = dict[str, NDArray]
Sites = dict[str, int]

CASES = {"site-a": 3, "site-b": 11, "site-c": 5}


def numbers(seed: int, *shape: int) -> NDArray[np.float64]:
    """Between -1/2 and 1/2, from integers alone: the same on every machine and under every NumPy."""
    mixed = (np.arange(np.prod(shape, dtype=int), dtype=np.uint64) * 7919 + seed) * 2654435761 % 2**32
    return (mixed / 2.0**32 - 0.5).reshape(shape)


def model(seed: int) -> Arrays:
    return {
        "w": numbers(seed, BLOCK + 77).astype(np.float32),
        "half": numbers(seed + 1, 3, 5).astype(np.float16),
        "norm.running_var": np.abs(numbers(seed + 2, 9)).astype(np.float32),
        "wide": numbers(seed + 3, 9),
        "count": (numbers(seed + 4, 4) * 200).astype(np.int64),
        "on": numbers(seed + 5, 7) > 0,
    }


def written(arrays: Arrays, manifest: Manifest, received: Arrays | None = None) -> NDArray[np.uint8]:
    buffer = np.zeros(manifest.nbytes, np.uint8)
    base = None
    if received is not None:
        exact = manifest.in_codec("float32")
        base = tensors_of(exact, written(received, exact))
    write_into(arrays, manifest, buffer.data, base)
    return buffer


def read(manifest: Manifest, buffer: NDArray[np.uint8]) -> Arrays:
    return {name: one.read_all() for name, one in tensors_of(manifest, buffer).items()}


class Round:
    """One round: what each site received and sends, and what a strategy makes of it."""

    def __init__(self, master: Arrays, seed: int, codec: CodecName = "float32", cases: Sites = CASES) -> None:
        self.manifest = manifest_of(master)
        self.codec, self.master = codec, master
        self.shares = share_weights(cases)
        self.copy = self.manifest.in_codec(CODECS[codec].model)
        self.update = self.manifest.in_codec(codec)
        self.received = read(self.copy, written(master, self.copy))
        self.sent = {site: self._sent(seed + 10 * number) for number, site in enumerate(self.shares)}

    def _sent(self, seed: int) -> NDArray[np.uint8]:
        changed = model(seed)
        if self.received.keys() != changed.keys():
            changed = {name: numbers(seed, *array.shape) for name, array in self.received.items()}
        trained = {
            name: array if array.dtype.kind in "bi" else (array + changed[name] / 8).astype(array.dtype)
            for name, array in self.received.items()
        }
        return written(trained, self.update, self.received)

    def make(
        self,
        strategy: Strategy,
        before: NDArray[np.uint8] | None = None,
        threads: int = 1,
        *,
        steps: tuple[int, ...] | None = None,
        parties: int | None = None,
    ) -> bool:
        layout = strategy.memory(self.manifest)
        self.out = np.zeros(self.manifest.nbytes, np.uint8)
        self.wire = np.zeros(self.copy.nbytes, np.uint8)
        self.memory = None if layout is None else np.zeros(layout.nbytes, np.uint8)
        return aggregate(
            self.manifest,
            [(share, self.sent[site]) for site, share in self.shares.items()],
            self.out,
            codec=self.codec,
            master=written(self.master, self.manifest),
            wire=self.wire,
            threads=threads,
            strategy=strategy,
            memory=None if self.memory is None else Memory(before, self.memory),
            steps=steps,
            parties=parties,
        )

    def send(self, sent: dict[str, Arrays]) -> None:
        """What the sites send instead."""
        self.sent = {site: written(arrays, self.update, self.received) for site, arrays in sent.items()}

    def changes(self, name: str) -> list[NDArray[np.float64]]:
        """What each site's training changed, as the coordinator reads it, in the order of the sites' names."""
        difference = CODECS[self.codec].difference and self.master[name].dtype == np.float32
        base = 0.0 if difference else self.received[name].astype(float)
        return [read(self.update, self.sent[site])[name].astype(float) - base for site in self.shares]

    @property
    def made(self) -> Arrays:
        return read(self.manifest, self.out)
