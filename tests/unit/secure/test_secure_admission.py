"""What cannot be masked is refused when the file is read, in one line; an older site, when it joins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import build, counts
from machine_run import PLATFORM, Run
from pydantic import ValidationError
from secure_run import secure_file

from coordinator.config import Limits
from coordinator.core import inputs as i
from coordinator.core.effects import Initialise
from coordinator.work.blobs import Blobs
from coordinator.work.pool import Work
from messages import kinds
from messages.abilities import OURS, WORDS_7
from messages.envelope import Author
from messages.experiment import Experiment
from messages.ground.clock import SystemClock
from messages.reasons import Reason
from messages.trust.keys import derive_key

KEY = derive_key(bytes(32))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plan": {"kind": "sequential"}}, 'masks go with plan.kind = "aggregation" or'),
        ({"plan": {"kind": "asynchronous", "buffer": 2}}, 'masks go with plan.kind = "aggregation" or'),
        ({"plan": {"strategy": "Median"}}, "Median needs more than the sum"),
        ({"plan": {"strategy": "SCAFFOLD"}}, "SCAFFOLD needs more than the sum"),
        ({"plan": {"strategy": "FedNova"}}, "FedNova needs more than the sum"),
        ({"wire": {"codec": "bfloat16"}}, 'leave wire.codec = "bfloat16" out'),
        ({"least": 2, "sites": ["site-a", "site-b", "site-c"]}, "a sum of fewer than 3 updates hides none of them"),
        ({"privacy": {"secure_aggregation": "bfv"}}, 'write "masks", under which no key opens every update'),
        ({"least": 3}, "of 5 sites 4 have to reveal, and [quorum] lets a round close with 3"),
    ],
)
def test_a_file_that_cannot_be_masked_is_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as error:
        Experiment.model_validate(secure_file(**({"least": 4} | changes)))
    (mistake,) = error.value.errors()
    assert words in mistake["msg"]
    assert "\n" not in mistake["msg"]


def test_a_majority_lets_a_round_close_with_fewer() -> None:
    file = secure_file(least=3, privacy={"threshold": "majority"})
    assert Experiment.model_validate(file).privacy.threshold == "majority"


@pytest.mark.parametrize(
    ("author", "reason"),
    [
        (Author("demo", "site-a", can=OURS - {WORDS_7}, key=KEY), Reason.UNKNOWN_FIELD),
        (Author("demo", "site-a"), Reason.SIGNATURE_MISSING),
    ],
)
def test_a_site_that_cannot_read_secure_rounds_or_does_not_sign_is_refused_as_it_joins(
    author: Author, reason: Reason
) -> None:
    run = Run(**secure_file(("site-a", "site-b", "site-c")))
    joined = kinds.Joined(cases=counts(10), platform=PLATFORM)
    event = author.write_event("joined", joined, time=1.0, experiment="exp-1", seq=1)
    decided = run.put(i.Received(time=run.time, raw=event.raw))
    assert [getattr(one, "reason", None) for one in decided][:1] == [reason]


def test_a_net_with_numbers_that_are_no_float32_ends_the_experiment_with_a_code(tmp_path: Path) -> None:
    experiment = Experiment.model_validate(secure_file(("site-a", "site-b", "site-c")))
    work = Work(Blobs(tmp_path), Limits(disk_reserve=0), lambda *_: None, SystemClock(), build=build)
    made = work._build_initial(Initialise(experiment))
    assert isinstance(made, i.InitialisationFailed)
    assert made.reason is Reason.NET_NOT_MASKABLE
