"""Each strategy through an experiment: it ends, and the replay makes every aggregate again."""

from __future__ import annotations

import pytest
from coordinator_kit import plain
from coordinator_rig import Consortium

from coordinator.record.journal import open_readonly
from coordinator.record.replay import Status, replay
from coordinator.work.blobs import Blobs
from messages import kinds
from messages.strategies import KNOWN, KrumSpec, MultiKrumSpec

BOUND = {"name": "NormBound", "bound": 5.0}
"""The one strategy that has no default for its parameter."""
ROUNDS = {"count": 2, "enrol_within": 100.0, "train_within": 1000.0}


def test_every_strategy_ends_and_its_aggregates_are_made_again_by_replay(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    for spec in (KrumSpec, MultiKrumSpec):  # three sites are too few to bear anything, and enough to see it work
        monkeypatch.setattr(spec, "least_updates", 3)
    consortium.start()
    consortium.join()
    names = {f"exp-{number}": name for number, name in enumerate(KNOWN, 1)}
    for number, (experiment, name) in enumerate(names.items(), 1):
        strategy = BOUND if name == "NormBound" else name
        content = plain(id=experiment, quorum={"least_sites": "all"}, plan={"strategy": strategy}, rounds=ROUNDS)
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=content), experiment=experiment)
        consortium.until("experiment-complete", number)
    consortium.stop()
    steps = list(replay(open_readonly(consortium.folder), Blobs(consortium.folder / "blobs")))
    assert [step.problem for step in steps if step.problem] == []
    made = [(names[step.entry.experiment], step.aggregate) for step in steps if step.aggregate is not None]
    assert [(name, one.round, one.status) for name, one in made] == [
        (name, number, Status.RECOMPUTED) for name in KNOWN for number in (1, 2)
    ]
    assert len({one.model_digest for _name, one in made}) > len(KNOWN)  # they do differ
