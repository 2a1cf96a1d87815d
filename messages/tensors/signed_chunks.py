"""Chunks that their author signs: checked before anything else is done with the data.

The signature is over the line `konsil chunk 1` and the header: consortium, transfer, number, sizes, and the digest of
the data. Which key signed it stands in the header, as in an event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from messages import codec
from messages.ground.errors import MalformedMessage
from messages.reasons import Reason
from messages.tensors.transfer import ChunkHeader
from messages.trust.keys import SigningKey
from messages.trust.signatures import name_key
from messages.trust.verifier import Verifier

CONTEXT = "konsil chunk 1"
CHUNKS, SIGNED = "chunks", "signed"
"""In the `ext` of the event that opens a step: the chunks of its models are signed."""


@dataclass(frozen=True, slots=True)
class ChunkSigner:
    """What signs a party's chunks.

    Args:
        wanted: asked with an experiment: whether all who are to read its chunks can read signed ones. Any thread.
    """

    consortium: str
    key: SigningKey
    wanted: Callable[[str], bool]

    def sign(self, header: ChunkHeader) -> ChunkHeader:
        """The header with its signature; as it was where some reader could not read it."""
        if not self.wanted(header.key.experiment):
            return header
        signature = self.key.sign_message(CONTEXT, _cover(self.consortium, header))
        return replace(header, signer=name_key(self.key.fingerprint), signature=signature)


class ChunkCheck:
    """Whether chunks were written by whom they name. Any thread."""

    def __init__(self, consortium: str, verifier: Verifier, now: Callable[[], float]) -> None:
        self._consortium, self._verifier, self._now = consortium, verifier, now

    def check(self, header: ChunkHeader, *, announced: bool) -> None:
        """Refuse a chunk before its data are looked at.

        Args:
            announced: whether its author has said that it signs them.

        Raises:
            MalformedMessage: signature-missing (where signatures are required), no-good-key, bad-signature.
        """
        register = self._verifier.register
        if register is None:
            return
        if not header.signature:
            if announced and register.signatures == "required":
                raise MalformedMessage(Reason.SIGNATURE_MISSING, "a chunk without a signature")
            return
        message = _cover(self._consortium, header)
        self._verifier.check_message(header.key.sender, header.signer, CONTEXT, message, header.signature, self._now())


def _cover(consortium: str, header: ChunkHeader) -> bytes:
    key = header.key
    place = [consortium, key.experiment, key.round, key.sender, key.attempt]
    return codec.pack([*place, header.index, header.size, header.total, header.digest])
