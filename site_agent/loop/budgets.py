"""Keeps the privacy ledger along with the agenda: what is decided is reserved, charged and freed in its transaction.

`site_agent.core.budget` says what fits; this asks it with what the ledger has, and writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import structlog

from messages.experiment import Experiment
from messages.kinds import Transfer as Sealed
from messages.reasons import Reason
from site_agent.config import SiteConfig
from site_agent.core import policy
from site_agent.core.budget import Account, Price, name_ledger
from site_agent.core.decisions import Decision, Decline, End, Join, Keep
from site_agent.core.inputs import AnyInput, Prepared, SecureRefused, TrainerFailed, UpdateMasked
from site_agent.core.jobs import Agenda, Job, Phase, Trained, count_charged, experiment_of
from site_agent.desk.spending import explain_price, say_account
from site_agent.disk.spool import Spool

log = structlog.get_logger()


class Budgets:
    """Owned by the main loop; every method but `open_account` works inside a transaction of the spool."""

    def __init__(self, config: SiteConfig, spool: Spool) -> None:
        self._budgets, self._floors, self._ledger = config.budgets, config.policy.floors, spool.privacy
        self._ledgers = {name: name_ledger(name, self._budgets) for name in config.datasets}
        with spool.transaction():
            self._ledger.note_members(self._ledgers)

    def open_account(self, dataset: str) -> Account:
        """The account of a data set as it is now. Any thread."""
        return self._ledger.open_account(dataset, self._budgets)

    def list_words(self) -> list[str]:
        """How much is left where there is a budget, a line for each ledger. Any thread."""
        accounts = {(one := self.open_account(name)).ledger: one for name in self._budgets}
        return [say_account(one) for one in accounts.values() if one.budget.limits]

    def judge_input(self, agenda: Agenda, given: AnyInput) -> AnyInput:
        """What an input comes to, given what is left: data that are ready, or an update that would leave, may cost too
        much."""
        if not isinstance(given, Prepared | Trained | UpdateMasked):
            return given
        job = agenda.job_of(given.experiment)
        if job is None or experiment_of(job).privacy.dp is None:
            return given
        runs = agenda.running == job.experiment
        if isinstance(given, Prepared):
            judged = runs and job.phase is Phase.PREPARING and given.lack is None
            return replace(given, lack=self._judge_joining(job, given.price)) if judged else given
        if (given.round, given.attempt) != (job.round, job.attempt):
            return given
        if isinstance(given, Trained):
            reason = self._judge_update(job, given.transfer, given.steps) if runs else None
            return given if reason is None else TrainerFailed(job.experiment, reason)
        reason = None if job.trained is None else self._judge_update(job, given.transfer, job.trained.steps)
        return given if reason is None else SecureRefused(job.experiment, job.round, job.opening, reason)

    def _judge_joining(self, job: Job, price: Price | None) -> Reason | None:
        if price is None:
            return Reason.PRIVACY_BUDGET_SPENT  # nobody knows what it would cost
        experiment = experiment_of(job)
        account = self.open_account(experiment.data.dataset)
        reason = self.judge_price(account, experiment, price)
        if reason is not None:
            log.warning("its training would cost too much privacy", experiment=job.experiment, reason=reason)
            log.warning(explain_price(account, experiment, price), experiment=job.experiment)
        return reason

    def judge_price(self, account: Account, experiment: Experiment, price: Price) -> Reason | None:
        """Why an experiment may not train here to its end; None where it may."""
        return policy.judge_price(self._floors, experiment, price) or account.judge_joining(experiment.id, price)

    def _judge_update(self, job: Job, update: Sealed, steps: int) -> Reason | None:
        if self._ledger.has_charged(job.experiment, job.round, update.seal):
            return None
        experiment = experiment_of(job)
        if job.round > experiment.rounds.count or self._ledger.has_charged(job.experiment, job.round):
            # Beyond what was priced. Other bytes for a round come of the same draws, so they do not compose with the
            # first ones as independent steps do.
            log.warning(
                "an update that the price does not cover stays here", experiment=job.experiment, round=job.round
            )
            return Reason.PRIVACY_BUDGET_SPENT
        return self.open_account(experiment.data.dataset).judge_charge(job.experiment, count_charged(job, steps))

    def enter_decisions(self, agenda: Agenda, given: AnyInput, decided: Iterable[Decision], now: float) -> None:
        """Reserve, charge and free what was decided on an input.

        Args:
            agenda: after the decisions.
        """
        for one in decided:
            if isinstance(one, Join) and isinstance(given, Prepared) and given.price is not None:
                dataset = experiment_of(agenda.jobs[one.experiment]).data.dataset
                ledger = self.open_account(dataset).ledger
                self._ledger.reserve(one.experiment, dataset, ledger, given.price, now)
            elif isinstance(one, Keep) and experiment_of(agenda.jobs[one.experiment]).privacy.dp is not None:
                update = one.trained
                steps = count_charged(agenda.jobs[one.experiment], update.steps)
                self._ledger.charge(one.experiment, update.round, update.transfer.seal, steps, now)
            elif isinstance(one, End | Decline):
                self._ledger.free_rest(one.experiment)

    def take_restored(self, private: Sequence[str] | None, now: float) -> None:
        """The disk went back in time: what may have left since is charged, all that was reserved of it.

        Args:
            private: the experiments with differential privacy that this site has joined, as the coordinator heard it;
                None: it does not say. Where one is not on record here, what it spent is not known.
        """
        charged = self._ledger.charge_restored(now)
        known = {one.experiment for one in self._ledger.list_holdings()}
        if charged:
            log.warning("charged again, since the state folder is older than the log", experiments=charged)
        if private is None or not known.issuperset(private):
            # Those without a budget, too: it may get one later.
            self._ledger.close(self._ledgers.values(), now)
            if shut := {self._ledgers[name] for name, one in self._budgets.items() if one.limits}:
                log.critical(
                    "what was spent of these privacy ledgers is not known any more: their data sets are closed",
                    ledgers=sorted(shut),
                    advice="docs/privacy.md, Budgets",
                )
