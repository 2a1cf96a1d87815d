"""An experiment under FedAdam: what is made, kept, pruned, replayed and resumed; and FedAvg's journal, byte by byte."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from brokers import PATIENCE
from coordinator_kit import ARRAYS, MANIFEST, SITES, ScriptedSite, plain
from coordinator_rig import Consortium, body_of, calm_digest, coordinator, running
from machine_run import Run
from numpy.typing import NDArray

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.state import ExperimentState
from coordinator.record import archive
from coordinator.record.journal import Journal, open_readonly
from coordinator.record.recovery import recover_states
from coordinator.record.replay import Status, replay
from coordinator.service import Coordinator
from coordinator.work.blobs import Blobs
from coordinator.work.strategies.base import Strategy
from coordinator.work.strategies.block import Block, Values
from coordinator.work.strategies.table import STRATEGIES
from messages import chain, codec, kinds
from messages.chain import Entry
from messages.reasons import Reason
from messages.strategies import FedAvgSpec, StrategySpec
from messages.tensors.codecs import CodecName
from messages.tensors.layout import TensorSpec, view_tensors
from messages.tensors.transfer import TransferKey
from messages.tensors.travelling import Tensors

LR, BETA1, BETA2, TAU = 0.5, 0.8, 0.9, 0.01
PLAN = {"strategy": {"name": "FedAdam", "lr": LR, "beta1": BETA1, "beta2": BETA2, "tau": TAU}}
ALL = {"least_sites": "all"}
ROUNDS = 3
GAINS = {site: ord(site[-1]) % 7 for site in SITES}
SHARES = {site: (number + 1) / 6 for number, site in enumerate(SITES)}
FEDAVG_JOURNAL = "53be5456406b32fec2106b00223d98b0d9f92721bd9a67809be123d6330a96bc"
"""SHA-256 of the own inputs and the decisions that 03d2e43 journaled, when no strategy had a memory."""


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to 8 significant bits, as all values here are in bfloat16's normal range."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.rint(fraction * 256) / 256, exponent).astype(np.float32)


def models(codec_: CodecName) -> list[NDArray[np.float32]]:
    """The coordinator's weights before each round and after the last: the paper's algorithm in plain NumPy."""
    x = ARRAYS["conv.weight"]
    found, m, v = [x], np.zeros(x.shape), np.full(x.shape, TAU * TAU)
    for number in range(1, ROUNDS + 1):
        received = x if codec_ == "float32" else bfloat16(x)
        d = np.zeros(x.shape)
        for site in SITES:
            trained = received + np.float32(GAINS[site] + number)
            if codec_ == "bfloat16":
                trained = bfloat16(trained)
            change = (trained - received).astype(np.float64)
            d = d + SHARES[site] * (bfloat16(trained - received) if codec_ == "bfloat16-difference" else change)
        m, v = BETA1 * m + (1 - BETA1) * d, BETA2 * v + (1 - BETA2) * d * d
        x = (x + LR * m / (np.sqrt(v) + TAU)).astype(np.float32)
        m, v = m.astype(np.float32).astype(float), v.astype(np.float32).astype(float)
        found.append(x)
    return found


def start_of(codec_: CodecName = "float32", **changes: object) -> kinds.ExperimentStart:
    rounds = {"count": ROUNDS, "enrol_within": 100.0, "train_within": 1000.0, "grace": 50.0}
    content = plain(quorum=ALL, plan=PLAN, wire={"codec": codec_}, rounds=rounds, **changes)
    return kinds.ExperimentStart(experiment=content)


def run(consortium: Consortium, given: kinds.ExperimentStart) -> kinds.ExperimentComplete:
    consortium.start()
    consortium.join()
    consortium.say("experiment-start", given)
    complete = body_of(consortium.until("experiment-complete"))
    consortium.until("model-ready")
    return complete


def checks(consortium: Consortium) -> list[tuple[int, Status, str]]:
    steps = list(replay(open_readonly(consortium.folder), Blobs(consortium.folder / "blobs")))
    return [(one.round, one.status, one.problem) for step in steps if (one := step.aggregate) is not None]


def state_of(consortium: Consortium) -> ExperimentState:
    return recover_states(open_readonly(consortium.folder))["exp-1"]


@pytest.mark.parametrize("codec_", ["float32", "bfloat16", "bfloat16-difference"])
def test_fedadam_makes_what_plain_numpy_makes_and_the_replay_makes_model_and_memory_again(
    consortium: Consortium, codec_: CodecName
) -> None:
    run(consortium, start_of(codec_))
    consortium.stop()
    state, blobs = state_of(consortium), Blobs(consortium.folder / "blobs")
    for number, expected in enumerate(models(codec_), 1):
        stored = view_tensors(MANIFEST, blobs.open_blob("exp-1", state.models[number].seal, MANIFEST))
        np.testing.assert_array_equal(stored["conv.weight"], expected)
    assert [state.models[number].memory is None for number in range(1, ROUNDS + 2)] == [True, False, False, False]
    assert checks(consortium) == [(number, Status.RECOMPUTED, "") for number in (1, 2, 3)]
    told = [step.what for step in replay(open_readonly(consortium.folder))]
    assert any(f"tensors travel as {codec_}; strategy FedAdam" in line for line in told)


@pytest.mark.parametrize("lost", ["gone", "changed"])
def test_a_round_cannot_be_replayed_without_the_memory_that_it_began_with_and_says_so(
    consortium: Consortium, lost: str
) -> None:
    run(consortium, start_of())
    consortium.stop()
    memory = Blobs(consortium.folder / "blobs").path_of("exp-1", str(state_of(consortium).models[3].memory))
    content = bytearray(memory.read_bytes())
    content[0] ^= 1
    memory.unlink()
    if lost == "changed":
        memory.write_bytes(content)
    found = checks(consortium)
    assert [status for _number, status, _problem in found] == [Status.RECOMPUTED, Status.RECOMPUTED, Status.MISSING]
    told = "should be kept and is not there" if lost == "gone" else "was changed"
    assert found[2][2] == f"what FedAdam kept from before round 3 {told}"


def test_a_memory_that_the_log_names_wrongly_is_found_by_replay(consortium: Consortium) -> None:
    run(consortium, start_of())
    consortium.stop()
    entries = list(open_readonly(consortium.folder))
    names = [one.memory for one in state_of(consortium).models.values() if one.memory is not None]
    lied = forged(entries, names[0].encode(), names[1].encode())
    steps = list(replay(lied, Blobs(consortium.folder / "blobs")))
    problems = [step.problem for step in steps if step.problem]
    assert problems[0] == "the updates of round 1 do not make the memory of FedAdam that the log names"


def forged(entries: list[Entry], old: bytes, new: bytes) -> Iterator[Entry]:
    """The same log with one name for another, its chain made anew."""
    last: dict[str, bytes] = {}
    before = chain.ZERO
    for entry in entries:
        body = entry.body.replace(old, new)
        previous = last.get(entry.experiment, chain.ZERO)
        made = replace(entry, body=body, previous=previous, before=before).with_hash()
        last[entry.experiment] = before = made.hash
        yield made


def test_what_a_strategy_keeps_is_pruned_with_the_models(consortium: Consortium) -> None:
    run(consortium, start_of(keep_updates=1))
    consortium.stop()
    state = state_of(consortium)
    there = {path.name for path in (consortium.folder / "blobs" / "exp-1").iterdir()}
    # Of the last round the updates, and what it began with; the selected and the final model, and what is kept beside
    # the final one.
    kept = {one.seal for one in state.kept} | {state.models[number].seal for number in (2, 3, 4)}
    assert there == kept | {state.models[number].memory for number in (3, 4)}
    assert [status for _number, status, _problem in checks(consortium)] == [
        Status.DIGEST_ONLY,
        Status.DIGEST_ONLY,
        Status.RECOMPUTED,
    ]


def test_a_backup_holds_the_memory(consortium: Consortium, tmp_path: Path) -> None:
    run(consortium, start_of())
    memory = str(running(consortium).shell.steps.states["exp-1"].models[3].memory)
    archive.backup(consortium.folder, tmp_path / "backup")
    assert (tmp_path / "backup" / "blobs" / "exp-1" / memory).is_file()


def test_a_round_whose_memory_is_gone_fails_the_experiment_and_says_why(
    consortium: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    consortium.start()
    consortium.join()
    held = consortium.sites[2]
    held.spoil = lambda number, buffer: (held.lost_chunks.update({1} if number == 2 else ()), buffer)[1]
    consortium.say("experiment-start", start_of())
    held.news.until(lambda: 2 in held.updates, "round 2")
    memory = running(consortium).shell.steps.states["exp-1"].models[2].memory
    assert memory is not None
    Blobs(consortium.folder / "blobs").path_of("exp-1", memory).unlink()
    held.find_chunks("exp-1", 2)
    failed = consortium.until("experiment-failed").body
    assert isinstance(failed, kinds.ExperimentFailed)
    assert failed.reason is Reason.AGGREGATION_FAILED
    assert "what FedAdam kept from before round 2 is gone" in capsys.readouterr().out


def ask_again(site: ScriptedSite) -> None:
    """Ask for the model of an open round: the coordinator may have died in the middle of sending it."""
    for identity, body in list(site.starts.items()):
        if isinstance(body, kinds.RoundStart) and identity not in site.done:
            one = body.transfer
            wanted = kinds.ChunksWanted(round=one.round, attempt=one.attempt, seal=one.seal)
            event = site.author.write_event("chunks-wanted", wanted, time=0.0, experiment="exp-1")
            site.bus.publish(event.key_to("coordinator"), event.raw)


class Killed(BaseException):
    """Stands for SIGKILL: nothing after the entry is done."""


class Killer:
    """Lets a coordinator live until an entry is on disk, and no effect of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: int | None = None
        append = Journal.append_entry

        def killing(journal: Journal, *arguments: object, **more: object) -> Entry:
            entry: Entry = append(journal, *arguments, **more)  # type: ignore[arg-type]
            if entry.number == self.at:
                raise Killed
            return entry

        monkeypatch.setattr(Journal, "append_entry", killing)

    def run_until(self, consortium: Consortium, entry: int) -> None:
        """Start a coordinator and see it die."""
        self.at = entry
        made: list[Coordinator] = []

        def live() -> None:
            try:
                made.append(coordinator(consortium.broker, consortium.folder))
                made[0].run()
            except Killed:
                pass

        thread = threading.Thread(target=live)
        thread.start()
        deadline = time.monotonic() + PATIENCE
        while thread.is_alive():
            thread.join(1.0)
            assert time.monotonic() < deadline, f"entry {entry} never came"
            for site in consortium.sites:
                ask_again(site)
        for one in made:
            one._parts.work._pool.await_end()
        self.at = None


def test_a_coordinator_that_dies_after_every_entry_ends_with_the_model_of_the_calm_run(
    consortium: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = calm_digest(tmp_path / "calm", start_of())
    killer = Killer(monkeypatch)
    consortium.join()
    consortium.say("experiment-start", start_of())
    died, entries = 0, list[Entry]()
    while (state := recover_states(entries).get("exp-1")) is None or state.ended is None:
        # A start makes entries of its own: its term, and the time given back to timers.
        own = 1 + (state is not None and bool(state.timers))
        killer.run_until(consortium, len(entries) + own + 1)
        entries = list(open_readonly(consortium.folder))
        died += 1
    assert died > 20
    assert state.models[ROUNDS + 1].digest == calm
    assert checks(consortium) == [(number, Status.RECOMPUTED, "") for number in (1, 2, 3)]
    np.testing.assert_array_equal(
        view_tensors(MANIFEST, Blobs(consortium.folder / "blobs").open_blob("exp-1", state.models[4].seal, MANIFEST))[
            "conv.weight"
        ],
        models("float32")[-1],
    )


def test_fedavgs_journal_has_the_bytes_that_it_had_before_strategies_kept_anything() -> None:
    bodies: list[bytes] = []

    class Recorded(Run):
        def put(self, given: i.AnyInput) -> tuple[d.AnyDecision, ...]:
            decided = super().put(given)
            own = None if isinstance(given, i.Received) else i.to_plain(given)
            told = [d.to_plain(one) for one in decided]
            for joined in (one for one in told if one["decision"] == "site-joined"):
                del joined["abilities"], joined["validation"], joined["test"]  # logic 3 notes them
            bodies.append(codec.pack([own, told]))
            return decided

    one = Recorded()
    one.join()
    one.initial()
    for number in (1, 2):
        for site in SITES:
            one.report(site, number)
        one.aggregated(number)
    for site in SITES:
        one.evaluated(site)
    assert len(bodies) == 22
    assert sha256(b"".join(bodies)).hexdigest() == FEDAVG_JOURNAL


def only_weights(_spec: StrategySpec, built: Tensors) -> Tensors:
    """Keeps `norm.count` at the sites and lets a vector beside the weights travel: FedBN's need, and SCAFFOLD's."""
    weights = tuple(spec for spec in built if spec.name.startswith("conv"))
    return weights + tuple(TensorSpec(name=f"c.{one.name}", shape=one.shape, dtype=one.dtype) for one in weights)


class HalfBeside(Strategy):
    """Halves what travels beside the weights."""

    def combine(self, block: Block) -> Values:
        mean = block.mean()
        if block.target.name.startswith("c."):
            np.multiply(mean, 0.5, out=mean)
        return mean


def test_a_strategy_says_which_tensors_travel_and_those_that_it_adds_begin_as_zeros(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STRATEGIES, FedAvgSpec, HalfBeside)
    monkeypatch.setattr(FedAvgSpec, "choose_travelling", only_weights)
    consortium.start()
    consortium.join()
    content = plain(quorum=ALL, rounds={"count": 1, "enrol_within": 100.0, "train_within": 1000.0})
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=content))
    consortium.until("experiment-complete")
    consortium.stop()
    state = state_of(consortium)
    assert state.manifest is not None
    assert [spec.name for spec in state.manifest.tensors] == ["conv.weight", "c.conv.weight"]
    got = consortium.sites[0].chunks[TransferKey("exp-1", 1, "coordinator", 1)]
    sent = view_tensors(state.manifest, b"".join(got[index] for index in sorted(got)))
    np.testing.assert_array_equal(sent["conv.weight"], ARRAYS["conv.weight"])
    assert not sent["c.conv.weight"].any()
    made = view_tensors(
        state.manifest, Blobs(consortium.folder / "blobs").open_blob("exp-1", state.models[2].seal, state.manifest)
    )
    mean = sum(SHARES[site] * np.float64(GAINS[site] + 1) for site in SITES)
    np.testing.assert_array_equal(made["c.conv.weight"], np.full((10, 100), mean * 0.5, np.float32))
