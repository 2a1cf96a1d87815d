"""What the broker's operator, or a login without its key, can do to a consortium that signs: withhold, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import PLATFORM, counts, plain
from signed_consortium import FORGED_TERM, SITES, author, finish, key_of, plant, run_signed, start, uplink_of
from virtual_consortium import VirtualConsortium

from coordinator.record.journal import ASIDE
from coordinator.record.journal_file import open_readonly
from messages import codec, kinds
from messages.chain import MAX_ENTRY
from messages.envelope import Event, decode_event
from messages.experiment import Experiment
from messages.reasons import Reason
from messages.trust.chains import PATIENCE
from messages.trust.signatures import digest_payload, split_event
from site_agent.core.jobs import Phase


def aside(consortium: VirtualConsortium) -> Iterator[dict[str, Any]]:
    for entry in open_readonly(consortium.folder / "coordinator"):
        if entry.type == ASIDE:
            yield codec.unpack(entry.body, max_bytes=MAX_ENTRY)


def reasons(consortium: VirtualConsortium) -> list[str]:
    return [body["reason"] for body in aside(consortium)]


def lies_on(consortium: VirtualConsortium, queue: str, kind: str, sender: str) -> Event:
    found = [decode_event(one.body) for one in consortium.broker.streams[queue].messages]
    return next(one for one in found if (one.kind, one.sender) == (kind, sender))


def test_the_coordinator_refuses_what_its_sender_did_not_write_for_it_and_the_experiment_goes_on(
    tmp_path: Path,
) -> None:
    joined = kinds.Joined(cases=counts(99), platform=PLATFORM)

    def work(consortium: VirtualConsortium) -> None:
        start(consortium)
        consortium.until("round-start", 7200.0)
        true = lies_on(consortium, "uplink", "joined", "site-a")
        now = consortium.clock.wall()
        site = author(consortium, "site-a")
        said = {"time": now, "experiment": "exp-1", "attempt": "forged"}
        unsigned = author(consortium, "site-a", signs=False).write_event("joined", joined, **said)
        stolen = author(consortium, "site-a", key=key_of(consortium, "site-b"))
        by_another = stolen.write_event("joined", joined, **said)
        payload, _signature = split_event(site.write_event("joined", joined, **said).raw)
        torn = decode_event(codec.pack([payload, split_event(true.raw)[1]]))
        mark = kinds.Nonce(nonce="0f" * 16)
        higher = author(consortium, "coordinator", signs=False, term=FORGED_TERM).write_event("nonce", mark, time=now)
        elsewhere = replace(site, consortium="lung").write_event("joined", joined, **said)
        dated = site.write_event("joined", joined, **{**said, "time": -1e9})
        older = site.write_event("joined", joined, **{**said, "time": now - 10 * 86400.0})
        attacks = [
            (unsigned, "uplink", "", "signature-missing"),
            (higher, "uplink", "", "signature-missing"),  # at 0.1 this locked the real coordinator out
            (by_another, "uplink", "", "no-good-key"),
            (torn, "uplink", "", "bad-signature"),
            (true, "inbox.coordinator", "", "wrong-addressee"),
            (true, "uplink", "joined.site-a.exp-2", "sender-mismatch"),
            (true, "uplink", "joined.site-b.exp-1", "sender-mismatch"),
            (elsewhere, "uplink", "", "sender-mismatch"),
            (dated, "uplink", "", "no-good-key"),
            (older, "uplink", "", "out-of-time"),
        ]
        for event, queue, key, _reason in attacks:
            plant(consortium, queue, event, key)
        for _again in range(3):
            plant(consortium, "uplink", true)  # changes nothing
        tally = consortium.coordinator.shell.steps.tally
        assert consortium.clock.wait_until(lambda: tally.set_aside >= len(attacks), 60.0, every=1.0)
        assert sorted(reasons(consortium)) == sorted(reason for _event, _queue, _key, reason in attacks)
        assert [one.sender for one in uplink_of(consortium) if one.kind == "joined"] == [*SITES]
        finish(consortium)

    done = run_signed(tmp_path, work)
    rounds = [one.body for _at, one in done.of("round-complete")]
    assert [set(one.contributors) for one in rounds] == [set(SITES)] * 2  # type: ignore[attr-defined]


def test_a_site_refuses_what_the_coordinator_did_not_write_for_it_and_the_experiment_goes_on(tmp_path: Path) -> None:
    def work(consortium: VirtualConsortium) -> None:
        start(consortium)
        opened = consortium.until("round-start", 7200.0)
        agent, now = consortium.agents["site-b"], consortium.clock.wall()
        refusals = agent._hearing.refusals
        said = {"time": now, "experiment": "exp-1"}
        forged = author(consortium, "coordinator", signs=False, term=FORGED_TERM)
        signed = author(consortium, "coordinator", term=consortium.coordinator.journal.term)
        ended = forged.write_event("experiment-aborted", kinds.ExperimentAborted(), **said)
        standing = kinds.Standing(state="aborted", events=[ended.raw])
        for_another = signed.write_event("refused", kinds.Refused(event="0" * 32, kind="joined", reason=Reason.LATE),
                                         to="site-a", **said)  # fmt: skip
        attacks = [
            (forged.write_event("coordinator-hello", kinds.CoordinatorHello(versions={}), time=now), "downlink"),
            (ended, "downlink"),
            (for_another, "inbox.site-b"),
            (opened, "inbox.site-b"),
            (signed.write_event("standing", standing, to="site-b", **said), "inbox.site-b"),
        ]
        for event, queue in attacks:
            plant(consortium, queue, event, event.key if queue == "downlink" else event.key_to("site-b"))
        wanted = {"signature-missing": 3, "wrong-addressee": 2}
        assert consortium.clock.wait_until(lambda: refusals == wanted, 60.0, every=1.0), refusals
        assert agent.spool.term == consortium.coordinator.journal.term
        finish(consortium)

    done = run_signed(tmp_path, work)
    rounds = [one.body for _at, one in done.of("round-complete")]
    assert [set(one.contributors) for one in rounds] == [set(SITES)] * 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("forged", ["unsigned", "by-the-coordinator", "years-ago"])
def test_no_experiment_begins_in_a_researcher_s_name_without_their_signature(tmp_path: Path, forged: str) -> None:
    def work(consortium: VirtualConsortium) -> None:
        clock, name = consortium.clock, "exp-9"
        clock.sleep(20.0)
        key = None if forged == "unsigned" else key_of(consortium, "coordinator" if "by" in forged else "dr-a")
        file = plain(id=name, sites=[*SITES])
        start_ = author(consortium, "dr-a", key=key).write_event(
            "experiment-start",
            kinds.ExperimentStart(experiment=file),
            time=clock.wall() - (0 if forged != "years-ago" else 400 * 86400.0),
            experiment=name,
        )
        read = Experiment.model_validate(file)
        body = kinds.ExperimentAccepted(
            experiment=read.as_plain(), digest=read.digest(), researcher="dr-a", original=start_.raw, enrol_within=60.0
        )
        signed = author(consortium, "coordinator", term=consortium.coordinator.journal.term)
        accepted = signed.write_event("experiment-accepted", body, time=clock.wall(), experiment=name)
        plant(consortium, "downlink", accepted)
        job = {}

        def heard() -> bool:
            job.update({site: one._steps.agenda.job_of(name) for site, one in consortium.agents.items()})
            return all(job.values())

        assert clock.wait_until(heard, 60.0, every=1.0)
        why = {"unsigned": Reason.SIGNATURE_MISSING, "by-the-coordinator": Reason.NO_GOOD_KEY,
               "years-ago": Reason.EXPERIMENT_EXPIRED}[forged]  # fmt: skip
        assert [(one.phase, one.reason) for one in job.values()] == [(Phase.DECLINED, why)] * 2

    run_signed(tmp_path, work)


def test_a_site_that_signs_two_versions_of_one_event_is_told_and_both_are_kept(tmp_path: Path) -> None:
    def work(consortium: VirtualConsortium) -> None:
        start(consortium)
        consortium.until("round-start", 7200.0)
        true = lies_on(consortium, "uplink", "joined", "site-a")
        assert isinstance(true.body, kinds.Joined)
        site, said = author(consortium, "site-a"), {"time": true.time, "experiment": "exp-1"}
        again = site.write_event("joined", true.body, seq=77, **said)  # one fact, said in another place
        other = site.write_event("joined", kinds.Joined(cases=counts(99), platform=PLATFORM), **said)
        assert again.id == other.id == true.id
        plant(consortium, "uplink", again)
        plant(consortium, "uplink", other)
        tally = consortium.coordinator.shell.steps.tally
        assert consortium.clock.wait_until(lambda: tally.refused_events["equivocation"] == 1, 60.0, every=1.0)
        (kept,) = [body for body in aside(consortium) if body["reason"] == "equivocation"]
        assert (kept["what"]["bytes"], kept["what"]["event"]) == (other.raw, true.id)
        finish(consortium)

    run_signed(tmp_path, work)


def test_a_site_that_is_shown_two_models_under_one_event_keeps_both_and_takes_no_more_part(tmp_path: Path) -> None:
    def work(consortium: VirtualConsortium) -> None:
        start(consortium)
        true = consortium.until("round-start", 7200.0)
        assert isinstance(true.body, kinds.RoundStart)
        signed = author(consortium, "coordinator", term=consortium.coordinator.journal.term)
        fields = {"time": true.time, "experiment": "exp-1", "round_number": 1, "attempt": true.attempt}
        harmless = signed.write_event("round-start", replace_sites(true.body), **fields)
        other = signed.write_event("round-start", true.body.model_copy(update={"model_digest": "ee" * 32}), **fields)
        assert other.id == harmless.id == true.id
        plant(consortium, "downlink", harmless)
        plant(consortium, "downlink", other)
        agents = consortium.agents.values()

        def over() -> bool:
            jobs = [one._steps.agenda.job_of("exp-1") for one in agents]
            return all(job is not None and job.phase is Phase.ENDED for job in jobs)

        assert consortium.clock.wait_until(over, 60.0, every=1.0)
        for agent in agents:
            ((identity, reason, first, second),) = agent.spool.list_evidence()
            assert (identity, reason, second) == (true.id, "equivocation", other.raw)
            assert decode_event(first).body == true.body
        said = lies_on(consortium, "uplink", "declined", "site-a")
        assert said.body == kinds.Declined(reason=Reason.EQUIVOCATION)

    run_signed(tmp_path, work)


def test_an_answer_to_what_the_coordinator_never_said_is_journaled_and_named_and_a_true_one_is_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def work(consortium: VirtualConsortium) -> None:
        start(consortium)
        consortium.until("round-start", 7200.0)
        consortium.start_coordinator_again()  # the round-start that sites go by was said under an earlier term
        site = author(consortium, "site-a", incarnation=1)
        said = {"time": consortium.clock.wall(), "experiment": "exp-1", "round_number": 1, "attempt": "other"}
        strange = site.write_event("round-accepted", kinds.RoundAccepted(), answers="ee" * 32, seq=99, **said)
        plant(consortium, "uplink", strange)
        consortium.clock.sleep(10.0)
        finish(consortium)
        told = [body["what"] for body in aside(consortium) if body["reason"] == "answers-unknown"]
        wanted = {"kind": "round-accepted", "event": strange.id, "round": 1, "sender": "site-a", "answers": "ee" * 32}
        assert told == [wanted]

    done = run_signed(tmp_path, work)
    assert "an event answers what was not said here" in "".join(capfd.readouterr())
    rounds = [one.body for _at, one in done.of("round-complete")]
    assert [set(one.contributors) for one in rounds] == [set(SITES)] * 2  # type: ignore[attr-defined]


def replace_sites(body: kinds.RoundStart) -> kinds.RoundStart:
    """As a coordinator says it again after a restart, when a site was excluded meanwhile."""
    return body.model_copy(update={"sites": body.sites[:-1]})


def test_what_is_held_back_of_a_sender_is_missed_and_journaled_and_what_comes_late_is_not(tmp_path: Path) -> None:
    def work(consortium: VirtualConsortium) -> None:
        start(consortium)
        consortium.until("experiment-complete", 7200.0)
        clock = consortium.clock
        consortium.agents["site-b"].stop()
        site = author(consortium, "site-b", incarnation=5)
        chain: list[Event] = []
        for number in range(1, 6):
            last = digest_payload(chain[-1].raw) if chain else None
            place = {"attempt": f"n-{number}", "seq": number, "after": last}
            chain.append(site.write_event("leaving", kinds.Leaving(), time=clock.wall(), **place))
        for late in (0, 2, 1, 4):  # 2 comes behind 3; 4 never comes
            plant(consortium, "uplink", chain[late])
        clock.sleep(PATIENCE + 5.0)
        missed = [body["what"] for body in aside(consortium) if body["reason"] == "chain-missing"]
        lost = {"sender": "site-b", "incarnation": 5, "seq": 5, "digest": digest_payload(chain[3].raw)}
        assert missed == [lost]
        twin = site.write_event("leaving", kinds.Leaving(), time=clock.wall(), attempt="twin", seq=2,
                                after=digest_payload(chain[0].raw))  # fmt: skip
        plant(consortium, "uplink", twin)
        clock.sleep(5.0)
        assert reasons(consortium).count("chain-forked") == 1

    run_signed(tmp_path, work)
