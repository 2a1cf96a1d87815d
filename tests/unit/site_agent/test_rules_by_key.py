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
from messages.trust.keys import SigningKey, derive_key
from messages.trust.register import KeyEntry, Register
from messages.trust.verifier import Verifier
from site_agent.core.agenda import decide
from site_agent.core.evolve import fold_decisions
from site_agent.core.inputs import Heard
from site_agent.core.jobs import Agenda, Job
from site_agent.loop.rules import Rules

KEY, OTHER = derive_key(bytes([1]) * 32), derive_key(bytes([2]) * 32)
NOW = SystemClock().wall()


def accepted(key: SigningKey | None) -> Event:
    plain = script.experiment_file()
    start = Author(script.CONSORTIUM, "dr-a", key=key).write_event(
        "experiment-start", ExperimentStart(experiment=plain), time=NOW, experiment="exp-1"
    )
    digest = Experiment.model_validate(plain).digest()
    body = ExperimentAccepted(experiment=plain, digest=digest, researcher="dr-a", original=start.raw, enrol_within=60.0)
    said = Author(script.CONSORTIUM, "coordinator", 1, 1)
    return said.write_event("experiment-accepted", body, time=NOW, experiment="exp-1")


def verifier_of(*keys: SigningKey) -> Verifier:
    """Of a register in which these keys are the researcher's."""
    entries = tuple(
        KeyEntry(name="dr-a", role="researcher", key=one.public.hex(), since=NOW - 9e6, until=NOW + 9e6) for one in keys
    )
    register = Register(consortium=script.CONSORTIUM, serial=1, made=1.0, keys=entries)
    return Verifier(script.CONSORTIUM, derive_key(bytes(32)).public, register)


@pytest.mark.parametrize(
    ("signed_by", "known", "reason"),
    [
        (KEY, (KEY, OTHER), None),
        (OTHER, (KEY, OTHER), Reason.RESEARCHER_NOT_ALLOWED),
        (None, (), Reason.RESEARCHER_NOT_ALLOWED),
    ],
)
def test_only_what_an_allowed_key_has_signed_is_let_in_now_and_in_later_rounds(
    tmp_path: Path, signed_by: SigningKey | None, known: tuple[SigningKey, ...], reason: Reason | None
) -> None:
    rule = {"researchers": ["dr-a"], "researcher_keys": [KEY.fingerprint]}
    config = script.site_config(tmp_path, policy={"approval": "auto", "allow": [rule]})
    rules = Rules(config, SystemClock(), verifier_of(*known))
    event = accepted(signed_by)
    assert isinstance(event.body, ExperimentAccepted)
    verdict = rules.judge_accepted(event.body)
    assert verdict.reason is reason
    agenda = Agenda("site-a")
    job = fold_decisions(agenda, decide(agenda, Heard(event, verdict))).jobs["exp-1"]
    assert job.signer == (None if signed_by is None else signed_by.fingerprint)
    kept = Job.model_validate(job.model_dump(mode="python"))  # as the spool keeps it
    assert rules.judge_experiment(kept.file, kept.researcher, kept.signer).reason is reason


def test_a_job_without_a_known_key_reads_as_it_did() -> None:
    assert "signer" not in Job(experiment="e", digest="d", file={}, researcher="dr-a").model_dump()
