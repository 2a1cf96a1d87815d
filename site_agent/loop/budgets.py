"""Keeps the privacy ledger along with the agenda: what is decided is reserved, charged and freed in its transaction.

`site_agent.core.budget` says what fits; this asks it with what the ledger has, and writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import structlog

from messages.experiment import Experiment
from messages.reasons import Reason
from site_agent.config import SiteConfig
from site_agent.core import policy
from site_agent.core.budget import Account, Price
from site_agent.core.decisions import Decision, Decline, End, Join, Keep
from site_agent.core.inputs import AnyInput, Prepared, TrainerFailed
from site_agent.core.jobs import Agenda, Job, Phase, Trained, experiment_of
from site_agent.disk.spool import Spool

log = structlog.get_logger()


class Budgets:
    """Owned by the main loop; every method but `open_account` works inside a transaction of the spool."""

    def __init__(self, config: SiteConfig, spool: Spool) -> None:
        self._budgets, self._floors, self._ledger = config.budgets, config.policy.floors, spool.privacy

    def open_account(self, dataset: str) -> Account:
        """The account of a data set as it is now. Any thread."""
        return self._ledger.open_account(dataset, self._budgets)

    def judge_input(self, agenda: Agenda, given: AnyInput) -> AnyInput:
        """What an input comes to, given what is left: data that are ready, or an update that would leave, may cost too
        much."""
        job = agenda.job_of(given.experiment) if isinstance(given, Prepared | Trained) else None
        if job is None or agenda.running != job.experiment or experiment_of(job).privacy.dp is None:
            return given
        if isinstance(given, Prepared) and job.phase is Phase.PREPARING and given.lack is None:
            return replace(given, lack=self._judge_joining(job, given.price))
        if isinstance(given, Trained) and (given.round, given.attempt) == (job.round, job.attempt):
            reason = self._judge_update(job, given) if job.phase is Phase.TRAINING else None
            return given if reason is None else TrainerFailed(job.experiment, reason)
        return given

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

    def _judge_update(self, job: Job, update: Trained) -> Reason | None:
        if self._ledger.has_charged(job.experiment, update.round, update.transfer.seal):
            return None
        account = self.open_account(experiment_of(job).data.dataset)
        return account.judge_charge(job.experiment, update.steps)

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
                self._ledger.charge(one.experiment, update.round, update.transfer.seal, update.steps, now)
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
            shut = {self.open_account(name).ledger for name, one in self._budgets.items() if one.limits}
            self._ledger.close(shut, now)
            if shut:
                log.critical(
                    "what was spent of these privacy ledgers is not known any more: their data sets are closed",
                    ledgers=sorted(shut),
                    advice="docs/privacy.md, Budgets",
                )


def explain_price(account: Account, experiment: Experiment, price: Price) -> str:
    """What an experiment would spend, and where that passes what is left, in words."""
    words = f"epsilon {price.epsilon:.2f} at delta {price.delta:.1e} in {experiment.rounds.count} rounds"
    if not account.budget.limits:
        return f"{words}; ledger {account.ledger} has no budget"
    if account.closed:
        return f"{words}; ledger {account.ledger} is closed"
    limit = account.budget.epsilon_lifetime
    passed = account.find_overrun(experiment.id, price)
    if passed is not None:
        return (
            f"{words}; round {passed} would pass the {limit:g} of ledger {account.ledger} ({account.bound:.2f} taken)"
        )
    left = "" if limit is None else f"; {account.bound:.2f} of {limit:g} of ledger {account.ledger} taken before"
    return words + left
