"""What an experiment file would take, and who would take part, before anything is started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from deploy.cli.foresight import foresee_masks
from deploy.cli.requests import Answer, Show, ask_sites, is_free, show_measuring
from deploy.cli.spending import Foreseen, foresee_privacy
from deploy.estimate import Estimate, estimate, measure_apart
from deploy.extras import MissingExtra
from deploy.session.connection import BrokerSession
from messages.experiment import Experiment


@dataclass(frozen=True, slots=True)
class CheckedExperiment:
    """What was found before anything is started.

    Attributes:
        estimate: what it takes; None: the net follows from the sites' statistics.
        spent: of each patient's privacy; None: it has no differential privacy.
        answers: of the invited sites; None: they were not asked.
        id_free: whether its id is; None: not asked.
        missing: what could not be found out, since what it takes is not installed; in words.
    """

    experiment: Experiment
    estimate: Estimate | None
    spent: Foreseen | None
    answers: Sequence[Answer] | None
    id_free: bool | None
    missing: tuple[str, ...] = ()

    @property
    def enough(self) -> bool:
        """Whether enough sites would accept, as far as they were asked."""
        return self.answers is None or sum(one.accepts for one in self.answers) >= self.experiment.least_sites

    @property
    def could_begin(self) -> bool:
        """Whether nothing that was found stands against a start now."""
        return self.enough and self.id_free is not False

    def as_plain(self) -> dict[str, Any]:
        """For --json."""
        bounds = foresee_masks(self.experiment)
        return {
            "experiment": self.experiment.id,
            "digest": self.experiment.digest(),
            "valid": True,
            "id_free": self.id_free,
            **({} if bounds is None else {"masks": asdict(bounds)}),
            **({"not_installed": list(self.missing)} if self.missing else {}),
            **({} if self.spent is None else {"privacy": self.spent.as_plain()}),
            "estimate": None if self.estimate is None else self.estimate.as_plain(),
            "asked": self.answers is not None,
            "enough": self.enough,
            "sites": {one.site: one.as_plain() for one in self.answers or ()},
        }


def check_experiment(
    experiment: Experiment,
    connect: Callable[[], AbstractContextManager[BrokerSession]] | None,
    within: float,
    show: Show,
) -> CheckedExperiment:
    """Estimate what it takes, and ask its sites; a net is measured in a process of its own.

    Args:
        connect: opens a session; None: the sites are not asked.
        within: seconds to wait for their answers.

    Raises:
        ConfigError: the net cannot be built, or privacy would be spent past the file's own bound.
        Unreachable: neither coordinator nor sites answer. WorkFailed: a process failed.
    """
    found = spent = answers = free = None
    missing = []
    if not experiment.measures_first:
        show("measuring the net, in a process of its own")
        try:
            found = estimate(experiment, partial(measure_apart, show=partial(show_measuring, show)))
        except MissingExtra as error:
            missing.append(str(error))
    if experiment.privacy.dp is not None:
        show("asking what it spends")
        try:
            spent = foresee_privacy(experiment)
        except MissingExtra as error:
            missing.append(str(error))
    if connect is not None:
        show(f"asking {len(experiment.sites)} sites")
        with connect() as opened:
            free = is_free(opened, experiment)
            answers = ask_sites(opened, experiment, within, show)
    return CheckedExperiment(experiment, found, spent, answers, free, tuple(missing))
