"""The privacy ledger in the spool: reserved, charged and freed together with the agenda, whatever happens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import agenda_kit as kit
import pytest
from privacy_kit import A_ROUND, STEP, Site, accepted, prepared, trained

from messages.ground.errors import RequestError
from messages.kinds import ExperimentAborted
from messages.reasons import Reason
from messages.secure import section
from site_agent.core.budget import measure_epsilon
from site_agent.core.inputs import Heard, UpdateLost
from site_agent.desk.purse import check_budgets
from site_agent.disk.privacy_ledger import read_accounts


@pytest.fixture(autouse=True)
def carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(section, "CARRIED_OUT", frozenset({"dp"}))


def ended(name: str) -> Heard:
    return Heard(kit.said("experiment-aborted", ExperimentAborted(), name=name))


def cost(steps: int) -> float:
    return measure_epsilon([(steps, STEP)], 1e-5)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    budget = {"ledger": "patients", "epsilon_lifetime": cost(10 * A_ROUND)}
    one = Site(tmp_path / "state", {"glioma": budget, "glioma-2": budget, "free": None})
    yield one
    one.end()


def charged(site: Site, name: str = "e") -> int:
    return next((one.charged for one in site.account().holdings if one.experiment == name), 0)


def test_joining_reserves_leaving_charges_and_the_end_frees_the_rest(site: Site) -> None:
    site.take(accepted())
    site.take(prepared())
    assert (site.phase(), site.account().spent) == ("idle", 0)
    assert site.account().bound == cost(5 * A_ROUND)
    site.train(1)
    assert site.phase() == "sending"
    assert (site.account().spent, site.account().bound) == (cost(A_ROUND), cost(5 * A_ROUND))
    site.take(kit.ENDINGS[0])
    assert site.account().spent == site.account().bound == cost(A_ROUND)


def test_two_experiments_on_data_sets_of_one_ledger_share_it(site: Site) -> None:
    for name, dataset in (("e", "glioma"), ("f", "glioma-2"), ("g", "free")):
        site.take(accepted(name, dataset))
        site.take(prepared(name))
        assert site.phase(name) == "idle"
    assert site.account("glioma-2").bound == cost(10 * A_ROUND) == site.account().bound
    assert site.account("free").bound == cost(5 * A_ROUND)
    site.take(accepted("h", rounds=1))
    site.take(prepared("h", rounds=1))
    job = site.steps.agenda.jobs["h"]
    assert (job.phase.value, job.reason) == ("declined", Reason.PRIVACY_BUDGET_SPENT)


def test_a_restart_after_the_charge_charges_nothing_twice(site: Site) -> None:
    site.take(accepted())
    site.take(prepared())
    site.train(1)
    for _again in range(3):
        site.restart()
        assert (site.phase(), charged(site)) == ("sending", A_ROUND)


def test_the_same_bytes_again_are_charged_once_and_others_do_not_leave(site: Site) -> None:
    """Other bytes for a round come of the same draws: two of them tell more than two steps do."""
    site.take(accepted())
    site.take(prepared())
    site.train(1)
    for attempt, seal, phase in ((2, "a", "sending"), (3, "b", "idle")):
        site.take(UpdateLost("e", 1, attempt - 1))
        site.take(kit.model_ready(1))
        site.take(trained(1, attempt=attempt, seal=seal))
        assert (site.phase(), charged(site)) == (phase, A_ROUND)
    assert site.steps.agenda.jobs["e"].reason is Reason.PRIVACY_BUDGET_SPENT


def test_rounds_beyond_the_experiments_last_are_not_trained_for(site: Site) -> None:
    site.take(accepted(rounds=2))
    site.take(prepared(rounds=2))
    for number in (1, 2):
        site.train(number)
        site.deliver(number)
    site.train(3)
    assert (site.phase(), charged(site)) == ("idle", 2 * A_ROUND)


def test_an_update_beyond_the_budget_stays_and_the_round_is_given_up(site: Site) -> None:
    for name in ("e", "f"):
        site.take(accepted(name))
        site.take(prepared(name))
    for number in range(1, 6):
        site.train(number)
        site.deliver(number)
    site.train(6)  # more than it has reserved, and the rest is the other's
    job = site.steps.agenda.jobs["e"]
    assert (job.phase.value, job.reason, charged(site)) == ("idle", Reason.PRIVACY_BUDGET_SPENT, 5 * A_ROUND)
    assert site.account().bound <= cost(10 * A_ROUND)


@pytest.mark.parametrize("step", ["joins", "leaves", "ends"])
def test_struck_at_any_statement_agenda_and_ledger_are_both_before_or_both_behind(tmp_path: Path, step: str) -> None:
    for number in range(1, 60):
        site = Site(tmp_path / str(number), {"glioma": {"epsilon_lifetime": 1e3}})
        site.take(accepted())
        given = prepared()
        if step != "joins":
            site.take(given)
            site.take(kit.round_start(1))
            site.take(kit.model_ready(1))
            given = trained(1) if step == "leaves" else kit.ENDINGS[0]
        struck = site.take_until_struck(given, number)
        site.restart()
        account = site.account()
        if step == "joins":
            assert (site.phase() == "idle") == (account.bound > 0)
        elif step == "leaves":
            assert (site.phase() == "sending") == (charged(site) > 0)
        else:
            assert (site.phase() == "ended") == (account.bound == 0)
        site.end()
        if not struck:
            assert number > 3
            return
    raise AssertionError("it never came to its end")


def test_whatever_happens_and_whenever_it_is_killed_the_ledger_is_right(tmp_path: Path) -> None:
    for seed in range(4):
        draw = random.Random(seed)
        most = cost(draw.randint(2, 6) * A_ROUND)
        site = Site(tmp_path / str(seed), {"glioma": {"epsilon_lifetime": most}})
        left: dict[str, set[tuple[int, str]]] = {name: set() for name in "efg"}
        for name in left:
            site.take(accepted(name))
        before: dict[str, int] = {}
        for _turn in range(60):
            name = draw.choice("efg")
            job = site.steps.agenda.jobs[name]
            given = {
                "preparing": prepared(name, draw.randint(1, 2)),
                "idle": ended(name) if draw.random() < 0.2 else kit.round_start(job.round + 1, name),
                "fetching": kit.model_ready(job.round, name),
                "training": trained(job.round, name, job.attempt, draw.choice("ab")),
                "sending": UpdateLost(name, job.round, job.attempt),
            }.get(job.phase.value)
            running = site.steps.agenda.running
            if given is None or (job.phase.value in ("preparing", "training") and running != name):
                continue
            site.take_until_struck(given, draw.randint(1, 25))
            if draw.random() < 0.3:
                site.restart()
            now = site.steps.agenda.jobs[name]
            if now.phase.value == "sending" and now.update is not None:
                left[name].add((now.round, now.update.transfer.seal))
            account = site.account()
            assert 0 <= account.spent <= account.bound <= most
            for one in account.holdings:
                assert one.charged == A_ROUND * len(left[one.experiment]) >= before.get(one.experiment, 0)
                before[one.experiment] = one.charged
        site.end()


def test_a_disk_that_went_back_in_time_is_charged_for_all_that_it_had_reserved(site: Site) -> None:
    site.take(accepted())
    site.take(prepared())
    site.train(1)
    with site.spool.transaction():
        site.budgets.take_restored(["e"], 1.0)
    assert charged(site) == 5 * A_ROUND
    assert not site.account().closed
    site.take(accepted("f"))
    site.take(prepared("f"))
    assert site.phase("f") == "idle"


def test_a_disk_that_goes_back_a_second_time_is_charged_for_what_left_since_the_first(site: Site) -> None:
    site.take(accepted())
    site.take(prepared())
    with site.spool.transaction():
        site.budgets.take_restored(["e"], 1.0)
        site.budgets.take_restored(["e"], 2.0)
    assert charged(site) == 10 * A_ROUND


def test_data_sets_that_part_take_along_what_they_spent_together(tmp_path: Path) -> None:
    """They have the same patients, whatever their ledgers are called now."""
    shared = {"ledger": "patients", "epsilon_lifetime": 9.0}
    site = Site(tmp_path / "state", {"glioma": shared, "glioma-2": shared})
    site.take(accepted("e", "glioma-2"))
    site.take(prepared())
    site.train(1)
    site.end()
    site = Site(tmp_path / "state", {"glioma": {**shared, "ledger": "own"}, "glioma-2": shared})
    assert site.account("glioma").spent == site.account("glioma-2").spent == cost(A_ROUND)
    site.end()


def test_a_budget_that_comes_after_what_was_spent_was_lost_is_closed(site: Site, tmp_path: Path) -> None:
    with site.spool.transaction():
        site.budgets.take_restored(None, 1.0)
    assert not site.account("free").budget.limits
    site.end()
    later = Site(site.state, {"free": {"epsilon_lifetime": 9.0}})
    assert later.account("free").closed
    later.end()
    site.begin()


@pytest.mark.parametrize("told", [None, ["e", "another"]])
def test_where_it_is_not_known_what_left_data_sets_with_a_budget_are_closed(site: Site, told: list[str] | None) -> None:
    site.take(accepted())
    site.take(prepared())
    with site.spool.transaction():
        site.budgets.take_restored(told, 1.0)
    site.restart()
    assert site.account().closed
    for name, dataset, phase in (("f", "glioma-2", "declined"), ("g", "free", "preparing")):
        site.take(accepted(name, dataset))
        site.take(prepared(name, 1))
        assert site.phase(name) == ("idle" if phase == "preparing" else phase)


def test_another_name_of_the_ledger_resets_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path / "state", {"glioma": {"epsilon_lifetime": 9.0}})
    site.take(accepted())
    site.take(prepared())
    site.train(1)
    site.end()
    for name in ("other", None):
        site = Site(tmp_path / "state", {"glioma": {"ledger": name, "epsilon_lifetime": 9.0}})
        assert site.account().spent == cost(A_ROUND)
        site.end()


def test_what_is_old_is_forgotten_and_what_was_spent_never(site: Site) -> None:
    site.take(accepted())
    site.take(prepared())
    site.train(1)
    site.spool.prune_old(1e12, 1.0)
    assert charged(site) == A_ROUND


def test_the_ledger_is_read_while_its_agent_runs_and_refused_where_there_is_none(site: Site, tmp_path: Path) -> None:
    site.take(accepted())
    site.take(prepared())
    (account, free) = read_accounts(site.state, ["glioma", "glioma-2", "free"], site.config.budgets)
    assert (account.ledger, account.bound, free.ledger) == ("patients", cost(5 * A_ROUND), "free")
    with pytest.raises(RequestError, match="no agent has worked here"):
        read_accounts(tmp_path / "nowhere", ["glioma"], {})


def test_the_preflight_tells_what_is_left_and_warns_of_a_site_that_notices_no_backup(site: Site) -> None:
    def look() -> list[tuple[str, str]]:
        return [(one.grade.value, one.what) for one in check_budgets(site.config)]

    (warned, (grade, left)) = look()
    assert warned[0] == "warn"
    assert "does not notice a state folder out of a backup" in warned[1]
    assert (grade, left.startswith("patients: epsilon 0.00 of ")) == ("ok", True)
    with site.spool.transaction():
        site.budgets.take_restored(None, 1.0)
    assert look()[1][0] == "fail"
    assert "CLOSED" in look()[1][1]
