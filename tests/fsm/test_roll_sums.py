"""What the coordinator counts site by site is what counting anew would give, whatever happened."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core import decisions as d
from coordinator.core import quorum
from coordinator.core.evolve import evolve
from coordinator.core.roll import Roll
from coordinator.core.state import UPDATES, ExperimentState, Phase, Standing, invite_members
from messages.experiment import Experiment
from messages.reasons import Reason

SITES = tuple(f"site-{letter}" for letter in "abc")
CASES = {site: 10 * place for place, site in enumerate(SITES)}
EXPERIMENT = Experiment.model_validate(
    {
        "schema": 1,
        "id": "exp-1",
        "sites": list(SITES),
        "task": {"kind": "segmentation", "channels": ["T1"], "regions": {"WT": ["ED"]}},
        "data": {"dataset": "glioma"},
        "net": {"name": "UNet", "channels": [4, 8], "strides": [2]},
        "rounds": {"count": 2},
        "quorum": {"least_sites": 2, "least_case_share": 0.5},
    }
)


def opened() -> ExperimentState:
    fresh = ExperimentState(EXPERIMENT, "", "dr-a", b"", 0.0, Phase.INITIALISING, invite_members(SITES))
    away = ("site-b",)
    started = d.RoundStarted(
        number=1, step=UPDATES, cases=CASES, away=away, evaluate=False, time=0.0, accept_due=30.0, deadline=99.0
    )
    state = evolve(fresh, started)
    assert state is not None
    return state


def announced(site: str) -> d.UpdateAnnounced:
    return d.UpdateAnnounced(
        site=site, attempt=1, seal="ab" * 32, chunk_bytes=1024, event="cd" * 16, cases_used=1, validation=None
    )


def happening(site: str) -> st.SearchStrategy[d.AnyDecision]:
    reasons = st.sampled_from([Reason.AWAITS_APPROVAL, Reason.NO_CASES])
    return st.one_of(
        st.just(d.SiteAccepted(site=site)),
        st.just(announced(site)),
        st.just(d.UpdateTaken(site=site)),
        st.just(d.SitesAbsent(sites=(site,))),
        st.just(d.SiteAway(site=site)),
        st.just(d.SiteBack(site=site)),
        st.just(d.SiteJoined(site=site, train=3)),
        st.just(d.SiteEvaluated(site=site, scores={})),
        st.builds(d.SiteFailed, site=st.just(site), reason=reasons),
        st.builds(d.SiteDeclined, site=st.just(site), reason=reasons),
    )


@settings(deadline=None)
@given(st.lists(st.sampled_from(SITES).flatmap(happening), max_size=40))
def test_quorum_and_answers_are_those_of_counting_all_sites_anew(history: list[d.AnyDecision]) -> None:
    state: ExperimentState | None = opened()
    for decision in history:
        state = evolve(state, decision)
        assert state is not None
        assert state.round is not None
        parts = dict(state.round.parts.items())
        reported = [site for site in SITES if parts[site].stored or parts[site].scores is not None]
        share = sum(CASES[site] for site in reported) / sum(CASES.values())
        assert quorum.case_share(state.round) == share
        assert quorum.is_met(state.round, EXPERIMENT) == (len(reported) >= 2 and share >= 0.5)
        heard = [one for site, one in parts.items() if site in reported or one.failed is not None or one.absent]
        assert quorum.everybody_heard(state.round) == (len(heard) == len(SITES))
        undecided = [
            one
            for one in state.members.values()
            if one.standing is Standing.INVITED or one.reason is Reason.AWAITS_APPROVAL
        ]
        assert state.everybody_answered == (not undecided)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=4), st.integers()), st.data())
def test_a_roll_is_its_records_in_the_order_of_their_names(records: dict[str, int], data: st.DataObject) -> None:
    roll = Roll(records, lambda _name, number: number)
    assert list(roll) == sorted(records)
    if records:
        name = data.draw(st.sampled_from(sorted(records)))
        changed = roll.with_replaced(name, 7)
        assert changed == records | {name: 7}
        assert changed.sums == (sum(changed.values()),)
        assert roll == records, "what was there before must stay as it was"


def test_a_roll_takes_no_new_name() -> None:
    with pytest.raises(KeyError):
        Roll({"site-a": 1}).with_replaced("site-b", 2)
