"""An experiment that is over, as a coordinator's login left it in the broker."""

from __future__ import annotations

import numpy as np
from storytelling import MANIFEST, complete, events

from messages import kinds
from messages.bus.memory import MemoryBus
from messages.envelope import Author
from messages.tensors import layout
from messages.tensors.transfer import ChunkHeader, TransferKey, encode_chunk
from nets.digest import model_digest

VHOST = "test"
COORDINATOR = Author(VHOST, "coordinator", incarnation=1, term=1)


def finished(bus: MemoryBus, *, announced: str | None = None, chunks: int | None = None) -> str:
    """A complete experiment whose model lies in `models`; returns the model's digest."""
    buffer = np.arange(300, dtype="<f4").tobytes()
    digests = layout.chunk_digests(MANIFEST, buffer)
    digest = model_digest(MANIFEST, buffer)
    for event in events(complete()):
        if isinstance(event.body, kinds.ExperimentComplete):
            transfer = kinds.Transfer(
                round=3, attempt=1, seal=layout.seal_transfer(MANIFEST, digests), manifest=MANIFEST
            )
            model = kinds.Candidate(label="final", transfer=transfer, model_digest=announced or digest)
            body = event.body.model_copy(update={"model": model, "final_digest": announced or digest})
            event = COORDINATOR.write_event(event.kind, body, time=9.0, experiment="try", round_number=2)
        if event.sender == "coordinator":
            bus.publish(
                event.key,
                Author(VHOST, "coordinator")
                .write_event(event.kind, event.body, time=event.time, experiment="try", round_number=event.round)
                .raw,
            )
    for index, one in list(enumerate(digests))[:chunks]:
        first, end = MANIFEST.chunk_range(index)
        header = ChunkHeader(TransferKey("try", 3, "coordinator", 1), index, MANIFEST.chunk_bytes, MANIFEST.nbytes, one)
        bus.publish("model-chunk.coordinator.try", encode_chunk(header, buffer[first:end]))
    return digest
