"""A whole experiment told by the real state machine: journal entries, and the events they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coordinator.core import inputs, machine
from coordinator.core.evolve import fold_decisions
from coordinator.core.state import ExperimentState
from coordinator.loop.file_checks import check_file
from coordinator.record.recovery import step_body
from messages import chain, codec, kinds, scores
from messages.chain import Entry
from messages.envelope import Author
from messages.experiment import Experiment
from messages.tensors.layout import Manifest, TensorSpec, seal_transfer

SITES = ("site-a", "site-b")
MANIFEST = Manifest(tensors=(TensorSpec(name="w", shape=(300,), dtype="float32"),), chunk_bytes=1024)
PLAIN: dict[str, Any] = {
    "schema": 1,
    "id": "try",
    "sites": list(SITES),
    "task": {"kind": "segmentation", "channels": ["T1"], "regions": {"WT": ["ED", "NCR"], "TC": ["NCR"]}},
    "data": {"dataset": "glioma"},
    "net": {"name": "UNet", "channels": [8, 16], "strides": [2]},
    "training": {"patch": [16, 16, 16]},
    "evaluation": {"every": 1, "select_by": "last"},
    "rounds": {"count": 2},
}
EXPERIMENT = Experiment.model_validate(PLAIN)
CASES = kinds.CaseCounts(found=10, used=9, left_out={"no-label": 1}, train=6, validation=1, test=2)
PLATFORM = kinds.Platform(device_type="cpu", threads=1, versions={"torch": "2.13.0"}, deterministic=True)


def split(*dice: float) -> scores.SplitScores:
    """Scores of one case a number, the same for both regions."""
    one = scores.sum_scores(list(dice), reference_empty=[False] * len(dice))
    return scores.SplitScores(cases=len(dice), metrics={"dice": {"WT": one, "TC": one}})


class Teller:
    """Feeds the machine, and writes what it decides as the journal does."""

    def __init__(self) -> None:
        self.state: ExperimentState | None = None
        self.entries: list[Entry] = []
        self.time = 1000.0
        self.authors = {name: Author("test", name, incarnation=1) for name in (*SITES, "dr-a")}

    def give(self, given: inputs.AnyInput) -> None:
        decided = machine.decide(self.state, given)
        self.state = fold_decisions(self.state, decided)
        body = step_body(given, decided)
        previous = self.entries[-1].hash if self.entries else chain.ZERO
        number = len(self.entries) + 1
        entry = Entry(number, number, "try", given.time, "step", codec.pack(body), previous, previous)
        self.entries.append(entry.with_hash())

    def tick(self) -> float:
        self.time += 1.0
        return self.time

    def say(self, sender: str, kind: str, body: kinds.Body, round_number: int = 0, **more: Any) -> None:
        event = self.authors[sender].write_event(
            kind, body, time=self.tick(), experiment="try", round_number=round_number
        )
        self.give(inputs.Received(time=self.time, raw=event.raw, file_check=check_file(event), **more))

    def update(
        self, site: str, number: int, dice: float, loss: float, validation: scores.SplitScores | None = None
    ) -> None:
        """A site's weights-ready, and the worker's word that it is stored."""
        digest = seal_transfer(MANIFEST, [bytes([number, len(site)]) * 16, SITES.index(site).to_bytes(32, "big")])
        body = kinds.WeightsReady(
            transfer=kinds.Transfer(round=number, attempt=1, seal=digest, manifest=MANIFEST),
            cases_used=6,
            cases=CASES,
            epochs=1,
            steps=3,
            loss=loss,
            seconds=2.0,
            validation=validation or split(dice),
            platform=PLATFORM,
        )
        self.say(site, "weights-ready", body, number)
        self.give(inputs.UpdateStored(time=self.tick(), site=site, round=number, attempt=1))


def digest(letter: str) -> str:
    return letter * 64


def recruited(cases: kinds.CaseCounts = CASES) -> Teller:
    """Both sites have joined, and round 1 is open."""
    teller = Teller()
    teller.say("dr-a", "experiment-start", kinds.ExperimentStart(experiment=EXPERIMENT.as_plain()), admitted=SITES)
    for site in SITES:
        teller.say(site, "joined", kinds.Joined(cases=cases, platform=PLATFORM))
    teller.give(inputs.Initialised(time=teller.tick(), manifest=MANIFEST, seal=digest("0"), digest=digest("a")))
    return teller


def complete() -> Teller:
    """Two rounds, the evaluation, the end."""
    teller = recruited()
    for number, letter in ((1, "b"), (2, "c")):
        for site in SITES:
            teller.say(site, "round-accepted", kinds.RoundAccepted(), number)
        teller.update("site-a", number, 0.2 * number, 1.0 / number)
        teller.update("site-b", number, 0.4 * number, 3.0 / number)
        teller.give(
            inputs.Aggregated(time=teller.tick(), round=number, seal=digest(str(number)), digest=digest(letter))
        )
    for site, dice in zip(SITES, ((0.6, 0.8), (0.9, 1.0)), strict=True):
        scored = kinds.ModelScores(model_digest=digest("c"), splits={"validation": split(0.7), "test": split(*dice)})
        teller.say(site, "evaluated", kinds.Evaluated(scores={"final": scored}), 3)
    return teller


def events(teller: Teller) -> Iterator[Any]:
    """What the entries tell."""
    from deploy.session.history import HistoryReader

    reader = HistoryReader()
    for entry in teller.entries:
        yield from reader.of_entry(entry)
