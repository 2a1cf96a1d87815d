"""`python -m benchmarks.signatures`: CPU microseconds of signing and checking an event, beside OpenSSL's own.

The event is a weights-ready; for "sign" a small one. "Followed" is what the coordinator adds: the facts, and the
author's chain. The bar: at most 150 microseconds an event above OpenSSL's own sign and verify. The least of five runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from messages import kinds
from messages.envelope import Author, Event, decode_event, digest_facts
from messages.tensors.layout import Manifest, TensorSpec
from messages.tensors.signed_chunks import ChunkCheck, ChunkSigner
from messages.tensors.transfer import ChunkHeader, TransferKey
from messages.trust.chains import Chains
from messages.trust.keys import derive_key
from messages.trust.register import KeyEntry, Register
from messages.trust.signatures import digest_payload
from messages.trust.verifier import Verifier

EVENTS, RUNS = 1000, 5
KEY = derive_key(bytes(32))
TENSORS = tuple(TensorSpec(name=f"net.{number}.weight", shape=(8, 8), dtype="float32") for number in range(20))


def measure(work: Callable[[], object]) -> float:
    """CPU microseconds of one call."""
    best = float("inf")
    for _ in range(RUNS):
        began = time.process_time()
        for _ in range(EVENTS):
            work()
        best = min(best, (time.process_time() - began) / EVENTS)
    return 1e6 * best


def write_event(author: Author) -> Event:
    """A weights-ready of a net of 20 tensors."""
    counts = kinds.CaseCounts(found=9, used=9, train=7, validation=1, test=1)
    platform = kinds.Platform(device_type="cpu", threads=1, versions={}, deterministic=True)
    sent = kinds.Transfer(round=1, seal="ab" * 32, manifest=Manifest(tensors=TENSORS))
    body = kinds.WeightsReady(
        transfer=sent, cases_used=7, cases=counts, epochs=1, steps=9, seconds=1.0, platform=platform
    )
    return author.write_event("weights-ready", body, time=1.0, experiment="e", round_number=1, after="ab" * 32)


def write_small(author: Author) -> Event:
    """An event of a few bytes: what signing adds does not drown in the rest."""
    return author.write_event("leaving", kinds.Leaving(), time=1.0, after="ab" * 32)


def main() -> None:
    """Measure, and print one JSON object."""
    entry = KeyEntry(name="site-a", role="site", key=KEY.public.hex(), since=0.0, until=1e12)
    register = Register(consortium="c", serial=1, made=0.0, keys=(entry,))
    verifier = Verifier("c", KEY.public, register)
    plain, signed = Author("c", "site-a", 1), Author("c", "site-a", 1, key=KEY)
    event = decode_event(write_event(signed).raw)
    chains, openssl = Chains(), Ed25519PublicKey.from_public_bytes(KEY.public)
    signature = KEY.sign_bytes(event.raw)

    def follow() -> None:
        digest_facts(event)
        chains.note_event("site-a", (1, 1), event.id, digest_payload(event.raw), "ab" * 32, 1.0)

    plainly, signing = (measure(lambda who=who: write_small(who)) for who in (plain, signed))
    told = {
        "bytes": len(event.raw),
        "bytes_more": len(event.raw) - len(write_event(plain).raw),
        "sign": signing - plainly,
        "verify": measure(lambda: verifier.check_event(event, "uplink", 1.0)),
        "followed": measure(follow),
        "openssl": measure(lambda: KEY.sign_bytes(event.raw)) + measure(lambda: openssl.verify(signature, event.raw)),
    }
    signer = ChunkSigner("c", KEY, lambda _experiment: True)
    header = ChunkHeader(TransferKey("e", 1, "site-a"), 0, 2**20, 2**20, bytes(32))
    check, signed_header = ChunkCheck("c", verifier, lambda: 1.0), signer.sign(header)
    told["chunk_sign"] = measure(lambda: signer.sign(header))
    told["chunk_check"] = measure(lambda: check.check(signed_header, announced=True))
    told["above_openssl"] = told["sign"] + told["verify"] - told["openssl"]
    print(json.dumps({name: round(value) for name, value in told.items()}))


if __name__ == "__main__":
    main()
