"""An experiment under each codec: what travels, what the coordinator makes of it, and that replay makes the same."""

from __future__ import annotations

import numpy as np
import pytest
from coordinator_kit import ARRAYS, MANIFEST, SITES, plain
from coordinator_kit import transfer as sealed
from coordinator_kit import weights as ready
from coordinator_rig import Consortium, body_of
from machine_run import Run
from numpy.typing import NDArray

from coordinator.core import decisions as d
from coordinator.record.journal import open_readonly
from coordinator.record.replay import Status, replay
from coordinator.work.blobs import Blobs
from messages import kinds
from messages.reasons import Reason
from messages.tensors.codecs import CODECS, CodecName
from messages.tensors.layout import tensors_of, view_tensors
from messages.tensors.transfer import TransferKey
from nets.digest import model_digest

WEIGHTS = ARRAYS["conv.weight"]

GAINS = {site: ord(site[-1]) % 7 for site in SITES}

SHARES = {site: (number + 1) / 6 for number, site in enumerate(SITES)}


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to 8 significant bits, as all values here are in bfloat16's normal range."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.rint(fraction * 256) / 256, exponent).astype(np.float32)


def models(codec: CodecName, rounds: int) -> list[NDArray[np.float32]]:
    """The coordinator's weights before each round and after the last, in plain NumPy."""
    found = [WEIGHTS]
    for number in range(1, rounds + 1):
        master, mean = found[-1], np.zeros(WEIGHTS.shape)
        received = master if codec in ("float32", "exact") else bfloat16(master)
        for site in SITES:
            trained = received + np.float32(GAINS[site] + number)
            sent = {
                "float32": trained,
                "exact": trained,
                "bfloat16": bfloat16(trained),
                "bfloat16-difference": bfloat16(trained - received),
            }[codec]
            mean = mean + SHARES[site] * sent.astype(np.float64)
        if codec == "bfloat16-difference":
            mean = mean + master
        found.append(mean.astype(np.float32))
    return found


def run(consortium: Consortium, codec: CodecName, **changes: object) -> kinds.ExperimentComplete:
    consortium.start()
    consortium.join()
    for site in consortium.sites:
        site.judged = {"final": 0.4, "selected": 0.5}  # so the model of an earlier round is the one that is yielded
    content = plain(quorum={"least_sites": "all"}, wire={"codec": codec}, rounds={"count": 3}, **changes)
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=content))
    complete = body_of(consortium.until("experiment-complete"))
    consortium.until("model-ready")
    return complete


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "bfloat16-difference"])
def test_models_are_those_of_plain_numpy_and_the_replay_agrees(consortium: Consortium, codec: CodecName) -> None:
    complete = run(consortium, codec)
    site = consortium.sites[0]
    consortium.stop()
    expected = models(codec, 3)
    blobs = Blobs(consortium.folder / "blobs")
    # Selected on validation: the model of one round. It is evaluated and published exactly, whatever its round sent.
    assert (complete.model.label, complete.model_round) == ("selected", 1)
    chosen = complete.model.transfer
    assert chosen.manifest == MANIFEST
    stored = blobs.open_blob("exp-1", chosen.seal, MANIFEST)
    np.testing.assert_array_equal(view_tensors(MANIFEST, stored)["conv.weight"], expected[1])
    heard = site.chunks[TransferKey("exp-1", 2, "coordinator", chosen.attempt)]
    received = b"".join(heard[index] for index in range(MANIFEST.chunks))
    assert model_digest(MANIFEST, received) == complete.model.model_digest
    final = site.chunks[TransferKey("exp-1", 4, "coordinator", 1)]
    buffer = b"".join(final[index] for index in range(MANIFEST.chunks))
    np.testing.assert_array_equal(view_tensors(MANIFEST, buffer)["conv.weight"], expected[3])
    steps = list(replay(open_readonly(consortium.folder), blobs))
    assert [step.problem for step in steps if not step.agrees] == []
    checks = [step.aggregate for step in steps if step.aggregate is not None]
    assert [(one.round, one.status, one.agrees) for one in checks] == [
        (number, Status.RECOMPUTED, True) for number in (1, 2, 3)
    ]
    assert any(f"accepted; tensors travel as {codec}" in step.what for step in steps)


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "bfloat16-difference"])
def test_rounds_send_the_codecs_bytes_both_ways(consortium: Consortium, codec: CodecName) -> None:
    run(consortium, codec)
    site = consortium.sites[0]
    expected = models(codec, 3)
    item = 4 if codec in ("float32", "exact") else 2
    for number in (1, 2, 3):
        got = site.chunks[TransferKey("exp-1", number, "coordinator", 1)]
        buffer = b"".join(got[index] for index in sorted(got))
        manifest, update = site.updates[number]
        assert len(buffer) == len(update) == item * WEIGHTS.size + 8
        assert manifest.codec == codec
        sent = tensors_of(MANIFEST.in_codec(CODECS[codec].model), buffer)["conv.weight"].read_all()
        master = expected[number - 1]
        np.testing.assert_array_equal(sent, master if codec in ("float32", "exact") else bfloat16(master))


@pytest.mark.parametrize("lost", ["gone", "changed"])
def test_a_difference_cannot_be_replayed_without_the_model_it_is_from_and_says_so(
    consortium: Consortium, lost: str
) -> None:
    run(consortium, "bfloat16-difference")
    state = consortium.coordinator.shell.steps.states["exp-1"]
    consortium.stop()
    blobs = Blobs(consortium.folder / "blobs")
    master = blobs.path_of("exp-1", state.models[2].seal)
    if lost == "gone":
        master.unlink()
    else:
        content = bytearray(master.read_bytes())
        content[0] ^= 1
        master.write_bytes(content)
    checks = [one for step in replay(open_readonly(consortium.folder), blobs) if (one := step.aggregate) is not None]
    assert [one.status for one in checks] == [Status.RECOMPUTED, Status.MISSING, Status.RECOMPUTED]
    told = "should be kept and is not there" if lost == "gone" else "was changed"
    assert "model that round 2 began with" in checks[1].problem
    assert told in checks[1].problem


def test_models_are_pruned_with_the_updates_that_are_differences_from_them(consortium: Consortium) -> None:
    run(consortium, "bfloat16-difference", keep_updates=1)
    state = consortium.coordinator.shell.steps.states["exp-1"]
    consortium.stop()
    blobs = Blobs(consortium.folder / "blobs")
    there = {path.name for path in (consortium.folder / "blobs" / "exp-1").iterdir()}
    # Of rounds 1 to 3 the last one's updates and model; the final and the yielded model; no copy that a round sent.
    assert there == {one.seal for one in state.kept} | {state.models[number].seal for number in (2, 3, 4)}
    checks = [one for step in replay(open_readonly(consortium.folder), blobs) if (one := step.aggregate) is not None]
    assert [one.status for one in checks] == [Status.DIGEST_ONLY, Status.DIGEST_ONLY, Status.RECOMPUTED]


def test_an_update_that_decodes_to_infinity_is_refused(consortium: Consortium) -> None:
    consortium.start()
    consortium.join()

    def infinite(_number: int, buffer: bytearray) -> bytearray:
        buffer[:2] = (0x7F80).to_bytes(2, "little")
        return buffer

    consortium.sites[0].spoil = infinite
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain(wire={"codec": "bfloat16-difference"})))
    complete = consortium.until("round-complete").body
    assert isinstance(complete, kinds.RoundComplete)
    assert complete.left_out == {"site-a": Reason.NOT_FINITE_UPDATE}


@pytest.mark.parametrize("codec", ["bfloat16", "bfloat16-difference"])
def test_an_update_in_another_codec_than_the_experiments_is_refused(codec: CodecName) -> None:
    run = Run()
    run.join()
    run.initial()
    given = sealed(1)
    other = kinds.Transfer(round=1, seal=given.seal, manifest=MANIFEST.in_codec(codec))
    decided = run.wire(ready(1, transfer=other), "site-a", number=1)
    assert any(isinstance(one, d.Refused) and one.reason is Reason.WRONG_CODEC for one in decided)
    assert run.state.round.parts["site-a"].failed is Reason.WRONG_CODEC
