"""One experiment in Python. It holds nothing but the id: whoever knows that finds all of it, also in a new kernel."""

from __future__ import annotations

import os
import time
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.konsil.line import OpenSession, blame_plainly, show_nothing
from messages.ground.errors import KonsilError, RequestError

if TYPE_CHECKING:
    from deploy.story.story import ExperimentStory

WITHIN = 30.0
"""Seconds to wait for the coordinator's word."""
Place = str | os.PathLike[str]


class ExperimentHandle:
    """An experiment, by its id.

    Every call reads what the broker keeps, and opens a connection for it. What has ended is read once. All calls raise
    the errors of the commands: `RequestError`, `Unreachable`, `WorkFailed`, each with what, where and what to do.

    Args:
        identity: the experiment's id.
        connect: opens a session as the person.
    """

    def __init__(self, identity: str, connect: OpenSession) -> None:
        self.id = identity
        self._connect = connect
        self._over: ExperimentStory | None = None

    def story(self) -> ExperimentStory:
        """Everything that the event log tells of it up to now; RequestError where nobody knows it."""
        from deploy.session.history import story_of

        if self._over is not None:
            return self._over
        with blame_plainly(), self._connect() as opened:
            return self._keep_ended(story_of(opened, self.id))

    def _keep_ended(self, story: ExperimentStory) -> ExperimentStory:
        self._over = story if story.over else None
        return story

    @property
    def state(self) -> str:
        """recruiting, running, evaluating, paused, complete, failed, aborted or refused."""
        return self.story().phase

    def summary(self) -> dict[str, Any]:
        """The whole story as plain types: state, scores, bytes, digests; as `experiment report --json`."""
        from deploy.story.summary import story_as_plain

        return story_as_plain(self.story())

    def follow(self) -> ExperimentHandle:
        """Watch it until it ends: a picture in a notebook, lines elsewhere. An interrupt ends only the watching."""
        from deploy.cli.live import follow_live
        from deploy.konsil.notebook import choose_view

        with blame_plainly(), self._connect() as opened:
            try:
                self._keep_ended(follow_live(opened, self.id, choose_view()))
            except KeyboardInterrupt:
                return self
        return self

    def rounds(self) -> Any:
        """A row for each round: state, contributors, cases, loss, validation, seconds, bytes, the model's digest."""
        from deploy.story.figures import list_rounds

        return self._tell_rows(list_rounds(self.story()), "round")

    def sites(self) -> Any:
        """A row for each site: state, reason, cases, rounds that it contributed to, scores."""
        from deploy.konsil.tables import list_sites

        return self._tell_rows(list_sites(self.story()), "site")

    def curve(self) -> Any:
        """Validation by round, all cases and each site, in the main metric; `curve().plot()` draws it."""
        from deploy.konsil.tables import list_curve

        return self._tell_rows(list_curve(self.story()), "round")

    def updates(self) -> Any:
        """A row for each site's update in each round, with how it stands beside the others'."""
        from deploy.story.figures import list_updates

        return self._tell_rows(list_updates(self.story()))

    def scores(self) -> Any:
        """Every score, a row a value: split, rounds, site, metric, target."""
        from deploy.story.figures import list_scores

        return self._tell_rows(list_scores(self.story()))

    def _tell_rows(self, rows: list[dict[str, Any]], index: str | None = None) -> Any:
        from deploy.konsil.tables import make_frame

        return make_frame(rows, index)

    def pause(self, within: float = WITHIN) -> str:
        """Let it wait; returns the state that the coordinator announces."""
        return self._command("pause", within)

    def resume(self, within: float = WITHIN) -> str:
        """Go on after `pause`."""
        return self._command("resume", within)

    def abort(self, within: float = WITHIN) -> str:
        """End it for good, without a model."""
        return self._command("abort", within)

    def finish(self, within: float = WITHIN) -> str:
        """End it now, with the model that there is."""
        return self._command("finish", within)

    def _command(self, verb: str, within: float) -> str:
        from deploy.cli.requests import command_experiment

        with blame_plainly(), self._connect() as opened:
            return command_experiment(opened, verb, self.id, within)

    def report(self, path: Place | None = None) -> Path:
        """Write the report, one HTML file (default: ID.html); returns its path."""
        from deploy.report import write_report

        out = Path(path or f"{self.id}.html")
        with blame_plainly():
            write_report(self.story(), out)
        return out

    def model(self, path: Place | None = None, *, rounds: int | None = None) -> Path:
        """Fetch the trained model as safetensors (default: ID.safetensors), its digest checked; returns its path.

        Args:
            rounds: the model after so many rounds, where the coordinator keeps it.
        """
        from deploy.session import model_file

        out = Path(path or (f"{self.id}.safetensors" if rounds is None else f"{self.id}-round-{rounds}.safetensors"))
        with blame_plainly(), self._connect() as opened:
            if rounds is None:
                model_file.fetch_model(opened, self.id, out, show_nothing)
            else:
                model_file.fetch_round(opened, self.id, rounds, out, show_nothing)
        return out

    def log(self, path: Place | None = None) -> Path:
        """Write its event log to one file that verifies by itself (default: ID.konsil); returns its path."""
        from coordinator.record.evidence import write_evidence
        from deploy.session.history import read_audit

        out = Path(path or f"{self.id}.konsil")
        with blame_plainly():
            with self._connect() as opened:
                entries = read_audit(opened)
            if write_evidence(out, entries, self.id)[2] is None:
                raise RequestError(f"no experiment {self.id!r} in this log", where="the broker's audit stream")
        return out

    def __repr__(self) -> str:
        return f"<konsil experiment {self.id}>"

    def _repr_html_(self) -> str:
        from deploy.konsil.notebook import render_story

        try:
            return render_story(self.story(), time.time())
        except KonsilError as error:
            return f"<div><strong>{escape(self.id)}</strong><p>{escape(str(error))}</p></div>"
