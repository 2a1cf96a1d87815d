"""A researcher, auditor or viewer in Python: who they are, and the experiments of their consortium."""

from __future__ import annotations

from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.konsil.handle import WITHIN, ExperimentHandle, Place
from deploy.konsil.line import OpenSession, blame_plainly, show_nothing
from messages.ground.errors import KonsilError, RequestError
from messages.ground.naming import EXPERIMENT_ID

if TYPE_CHECKING:
    from deploy.cli.checking import CheckedExperiment
    from deploy.session.profile import Profile


def connect(profile: Place | None = None) -> ConnectedPerson:
    """Log in, as the commands do: a profile's file, else $KONSIL_PROFILE, else ~/.config/konsil/profile.toml.

    Raises:
        ConfigError: there is no profile, or it says what is not allowed.
        Unreachable: the broker does not answer, or refuses the login.
    """
    from deploy.session.connection import open_session
    from deploy.session.profile import load_profile

    path = None if profile is None else Path(profile)
    person = ConnectedPerson(load_profile(path), partial(open_session, path))
    person.try_line()
    return person


class ConnectedPerson:
    """A person of one consortium; what the commands do, as calls.

    Args:
        profile: who they are.
        open_line: opens a session as them.
    """

    def __init__(self, profile: Profile, open_line: OpenSession) -> None:
        self.name, self.role, self.consortium = profile.name, profile.role, profile.consortium
        self._open = open_line

    def try_line(self) -> None:
        """Open a session and close it; Unreachable where the broker does not answer, or refuses the login."""
        with blame_plainly(), self._open():
            pass

    def check(self, file: Place, *, ask_sites: bool = True, within: float = 8.0) -> CheckedExperiment:
        """Validate an experiment file, estimate what it takes, ask the sites; starts nothing.

        Raises:
            ConfigError: each mistake of the file, with its key.
        """
        from deploy.cli.checking import check_experiment
        from messages.experiment import read_experiment
        from nets.registry import check_net

        with blame_plainly():
            experiment = read_experiment(Path(file))
            check_net(experiment)
            return check_experiment(experiment, self._open if ask_sites else None, within, show_nothing)

    def start(self, file: Place, *, within: float = WITHIN) -> ExperimentHandle:
        """Publish an experiment file, and wait until the coordinator accepts it. The same file again changes nothing.

        Raises:
            RequestError: refused, with the reason. Unreachable: no coordinator answers.
        """
        from deploy.cli.requests import start_experiment
        from messages.experiment import read_experiment
        from nets.registry import check_net

        with blame_plainly():
            experiment = read_experiment(Path(file))
            check_net(experiment)
            with self._open() as opened:
                start_experiment(opened, experiment, within, show_nothing)
        return ExperimentHandle(experiment.id, self._open)

    def experiment(self, identity: str) -> ExperimentHandle:
        """An experiment by its id, whoever started it and however long ago; RequestError where nobody knows it."""
        if not EXPERIMENT_ID.fullmatch(identity):
            raise RequestError(f"{identity!r} is no experiment's id", advice="An id is 1 to 64 of a-z, 0-9 and '-'")
        handle = ExperimentHandle(identity, self._open)
        handle.story()
        return handle

    def experiments(self) -> Any:
        """A row for each experiment of the consortium: state, rounds, researcher, when it started."""
        from deploy.konsil.tables import make_frame

        return make_frame(self._list_experiments(), "experiment")

    def _list_experiments(self) -> list[dict[str, Any]]:
        from deploy.session.history import stories_of
        from messages.names import AUDIT, DOWNLINK

        with blame_plainly(), self._open() as opened:
            found = stories_of(opened.read_history(DOWNLINK if self.role == "researcher" else AUDIT))
        return [
            {
                "experiment": story.id,
                "state": story.phase,
                "rounds": story.completed_rounds,
                "planned": story.rounds_planned,
                "researcher": story.researcher,
                "started": story.started,
            }
            for story in found.values()
        ]

    def __repr__(self) -> str:
        return f"<konsil {self.role} {self.name} in {self.consortium}>"

    def _repr_html_(self) -> str:
        from deploy.report.html import make_table

        try:
            rows = [["" if cell is None else str(cell) for cell in one.values()] for one in self._list_experiments()]
        except KonsilError as error:
            return f"<p>{escape(repr(self))}</p><p>{escape(str(error))}</p>"
        head = ["experiment", "state", "rounds", "planned", "researcher", "started"]
        return f"<p>{escape(repr(self))}</p>{make_table('', head, rows)}"
