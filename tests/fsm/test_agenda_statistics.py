"""A site's part in statistics: what its job does when it is asked, and when the experiment is configured."""

from __future__ import annotations

from agenda_kit import PREPARED, STATISTICS, WAYS, accepted, after, does, round_start, statistics_pooled
from agenda_kit import statistics_start as asked

from messages.reasons import Reason
from site_agent.core.effects import CloseTrainer, RunMeasure, RunPrepare, Say
from site_agent.core.inputs import CasesMeasured, Restarted, TrainerDied
from site_agent.core.jobs import Phase, experiment_of


def test_a_site_that_is_asked_measures_and_tells() -> None:
    agenda, todo = after([accepted(), PREPARED, asked()])
    assert todo[-1] == RunMeasure("e")
    phase, kinds, todo = does(agenda, CasesMeasured("e", STATISTICS))
    assert (phase, kinds) == (Phase.IDLE, ["statistics-ready"])
    (said,) = [one for one in todo if isinstance(one, Say)]
    assert (said.round, said.attempt, said.body) == (0, 2, STATISTICS)


def test_a_site_below_its_floor_says_so() -> None:
    agenda, _ = after(WAYS[Phase.MEASURING])
    phase, kinds, todo = does(agenda, CasesMeasured("e", None))
    assert (phase, kinds) == (Phase.IDLE, ["round-failed"])
    (said,) = [one for one in todo if isinstance(one, Say)]
    assert said.body.reason is Reason.PRIVACY_BELOW_FLOOR  # type: ignore[attr-defined]


def test_a_site_goes_on_with_the_configured_experiment_and_another_trainer() -> None:
    agenda, _ = after([accepted(), PREPARED, asked(), CasesMeasured("e", STATISTICS)])
    agenda, todo = after([statistics_pooled()], agenda)
    assert todo == [CloseTrainer("e")]
    assert experiment_of(agenda.jobs["e"]).net.name == "DynUNet"
    assert agenda.jobs["e"].file["net"]["name"] == "UNet", "the file stays"
    assert after([round_start()], agenda)[0].phase_of("e") is Phase.FETCHING


def test_what_is_still_measured_when_the_others_are_enough_is_dropped() -> None:
    agenda, _ = after(WAYS[Phase.MEASURING])
    agenda, todo = after([statistics_pooled()], agenda)
    assert agenda.phase_of("e") is Phase.IDLE
    assert CloseTrainer("e") in todo


def test_a_site_that_joins_late_reads_its_data_and_then_trains_what_was_configured() -> None:
    agenda, todo = after([accepted(), statistics_pooled(), round_start()])
    assert agenda.phase_of("e") is Phase.PREPARING
    assert todo == [RunPrepare("e")]
    agenda, todo = after([PREPARED], agenda)
    assert agenda.phase_of("e") is Phase.FETCHING
    assert CloseTrainer("e") in todo, "it may have read its data before there was a net"


def test_a_site_that_is_restarted_or_whose_trainer_dies_measures_again() -> None:
    agenda, _ = after(WAYS[Phase.MEASURING])
    _, todo = after([TrainerDied("e")], agenda)
    assert todo == [RunMeasure("e")]
    from site_agent.core.agenda import restore_agenda

    _, todo = after([Restarted()], restore_agenda(agenda))
    assert todo == [RunMeasure("e")]
