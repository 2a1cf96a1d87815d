"""A site that allows researchers by key: whom it lets in, and that it remembers by whose key."""

from __future__ import annotations

from pathlib import Path

import pytest
import site_consortium as script

from messages.envelope import Author, Event
from messages.experiment import Experiment
from messages.ground.clock import SystemClock
from messages.kinds import ExperimentAccepted, ExperimentStart
from messages.reasons import Reason
from site_agent.core.agenda import decide
from site_agent.core.evolve import fold_decisions
from site_agent.core.inputs import Heard
from site_agent.core.jobs import Agenda, Job
from site_agent.loop.rules import Rules

KEY = "5c" * 32


def accepted() -> Event:
    plain = script.experiment_file()
    start = Author(script.CONSORTIUM, "dr-a").write_event(
        "experiment-start", ExperimentStart(experiment=plain), time=1.0, experiment="exp-1"
    )
    digest = Experiment.model_validate(plain).digest()
    body = ExperimentAccepted(experiment=plain, digest=digest, researcher="dr-a", original=start.raw, enrol_within=60.0)
    said = Author(script.CONSORTIUM, "coordinator", 1, 1)
    return said.write_event("experiment-accepted", body, time=1.0, experiment="exp-1")


@pytest.mark.parametrize(
    ("signed_by", "reason"),
    [(KEY, None), ("00" * 32, Reason.RESEARCHER_NOT_ALLOWED), (None, Reason.RESEARCHER_NOT_ALLOWED)],
)
def test_only_what_an_allowed_key_has_signed_is_let_in_now_and_in_later_rounds(
    tmp_path: Path, signed_by: str | None, reason: Reason | None
) -> None:
    allow = {"approval": "auto", "allow": [{"researchers": ["dr-a"], "researcher_keys": [KEY]}]}
    rules = Rules(script.site_config(tmp_path, policy=allow), SystemClock(), lambda _event: signed_by)
    event = accepted()
    assert isinstance(event.body, ExperimentAccepted)
    verdict = rules.judge_accepted(event.body)
    assert verdict.reason is reason
    agenda = Agenda("site-a")
    job = fold_decisions(agenda, decide(agenda, Heard(event, verdict))).jobs["exp-1"]
    assert job.signer == signed_by
    kept = Job.model_validate(job.model_dump(mode="python"))  # as the spool keeps it
    assert rules.judge_experiment(kept.file, kept.researcher, kept.signer).reason is reason


def test_a_job_without_a_known_key_reads_as_it_did() -> None:
    assert "signer" not in Job(experiment="e", digest="d", file={}, researcher="dr-a").model_dump()
