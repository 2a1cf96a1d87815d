"""Watching an experiment: a live picture in a terminal, plain lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from deploy.cli.words import (
    OUTSIDE_HOURS,
    closing_lines,
    finish_words,
    headline_words,
    progress_words,
    recruiting_words,
    silence_words,
    update_lines,
    waiting_words,
)
from deploy.console import emit_json, format_moment, format_score, say_line
from deploy.session.connection import BrokerSession
from deploy.session.following import Follower
from deploy.session.history import require_known
from deploy.story.doubts import list_doubts
from deploy.story.parts import Moment
from deploy.story.story import ExperimentStory
from deploy.story.summary import point_as_plain, round_summary, story_as_plain, waiting_as_plain
from messages.contradictions import CONTRADICTION_ADVICE
from messages.ground.shown import escape_controls
from messages.ground.starting import reader_went
from messages.ground.units import human_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

UNKNOWN_AFTER = 3.0
"""Seconds without any history until the experiment counts as unknown."""
SETTLE = 1.5
"""Seconds to read on after the end: `audit` may come a little behind `downlink`."""
CAUGHT_UP = 0.5
"""Seconds without any more history until what happened before is shown, in the order in which it happened."""
PICTURE_EVERY = 0.25
LINE_EVERY = 10.0


class View(Protocol):
    """Something that shows a story as it grows."""

    def show_story(self, story: ExperimentStory, now: float, coordinator_at: float | None) -> None:
        """The story as it is now; called often."""

    def close_view(self, story: ExperimentStory) -> None:
        """The last word."""


def choose_view(as_json: bool) -> View:
    """The view that fits where the output goes."""
    if as_json:
        return JsonLines()
    return Picture() if sys.stdout.isatty() else Lines()


def follow_live(
    session: BrokerSession, experiment: str, shown: View, clock: Callable[[], float] = time.time
) -> ExperimentStory:
    """Read history and live messages until the experiment is over; returns the whole story.

    Ends before that where nobody reads what is shown (`| head`).

    Raises:
        RequestError: nothing is known of the experiment.
    """
    follower = Follower(session, experiment, clock)
    follower.listen_from_start()
    begun = follower.history_at
    caught_up = False
    try:
        while not (follower.story.over and clock() - follower.history_at > SETTLE):
            follower.hear_next(PICTURE_EVERY)
            now = clock()
            quiet = now - follower.history_at
            if follower.story.phase == "unknown" and quiet > UNKNOWN_AFTER:
                require_known(follower.story)
            caught_up = caught_up or quiet > CAUGHT_UP or now - begun > UNKNOWN_AFTER
            if caught_up:
                shown.show_story(follower.story, now, follower.coordinator_at)
                if reader_went():
                    break
    finally:
        shown.close_view(follower.story)
    return follower.story


class _News:
    """Hands out each moment of a story once; those that come together by their time, whatever stream they came from."""

    def __init__(self) -> None:
        self._told = 0

    def take_news(self, story: ExperimentStory) -> tuple[Moment, ...]:
        news = story.moments[self._told :]
        self._told = len(story.moments)
        return tuple(sorted(news, key=lambda moment: moment.time))


TROUBLE = {
    "absent": "no sign of life",
    "stuck": "it is alive, but its work does not move",
    "slow": "its work moves, but takes much longer than that of the others",
}
LATE = "its work moves, but by its own estimate will not be done by the deadline"


class NewDoubts:
    """Tells, once each, where a site's scores contradict the others'."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str, str]] = set()

    def tell_new(self, story: ExperimentStory) -> None:
        """A line each, and what to do."""
        news = [one for one in list_doubts(story) if (one.split, *one.found.key) not in self._told]
        for one in news:
            self._told.add((one.split, *one.found.key))
            say_line(f"CONTRADICTS the other sites: {one.describe(story.reader.title)}")
        if news:
            say_line(f"  {CONTRADICTION_ADVICE}")


class Lines:
    """Plain lines: one a moment, and now and then what each site does."""

    def __init__(self) -> None:
        self._doubts = NewDoubts()
        self._news = _News()
        self._closed = 0
        self._next = 0.0
        self._told: dict[str, str] = {}
        self._recruiting = self._silent = ""
        self._waits: object = None

    def show_story(self, story: ExperimentStory, now: float, coordinator_at: float | None) -> None:
        for moment in self._news.take_news(story):
            say_line(f"{format_moment(moment.time)} {moment.who}: {moment.what}")
            self._next = now + LINE_EVERY
        if story.completed_rounds > self._closed:
            say_line(f"{headline_words(story, now)}")
            for one in story.round_list:
                if one.state == "complete" and one.number > self._closed:
                    for line in update_lines(story, one.number):
                        say_line(line)
            self._closed = story.completed_rounds
            self._doubts.tell_new(story)
        if (words := recruiting_words(story)) and words != self._recruiting:
            self._recruiting = words
            say_line(words)
        if story.over:
            return
        self._tell_silence(story, now)
        for site in sorted(story.sites):
            self._tell_presence(story, site, story.presence_of(site, now))
        self._tell_waiting(story, now)
        if now >= self._next and not story.deaf:
            self._next = now + LINE_EVERY
            for site in sorted(story.sites):
                words = progress_words(story, site)
                if words and (presence := story.presence_of(site, now)) != OUTSIDE_HOURS:
                    say_line(f"  {site} {presence}: {words}")

    def _tell_silence(self, story: ExperimentStory, now: float) -> None:
        """That the broker or the coordinator is not heard: once, and once that it is again."""
        words = silence_words(story, now)
        what = "the broker" if story.down else "the coordinator" if words else ""
        if what != self._silent:
            say_line(words or f"{self._silent} is there again")
            self._silent = what

    def _tell_waiting(self, story: ExperimentStory, now: float) -> None:
        """That the step waits for a site that has given up, and until when: once for each such state."""
        found = story.waiting
        state = None if found is None or not any(found.sites.values()) else (found.what, dict(found.sites))
        if state is not None and state != self._waits:
            say_line(waiting_words(story, now))
            if more := finish_words(story):
                say_line(f"  {more}")
        self._waits = state

    def _tell_presence(self, story: ExperimentStory, site: str, presence: str) -> None:
        """What somebody may wonder at, once; only who takes part in what runs can be missed."""
        missed = story.phase in ("running", "evaluating") and site in story.joined and presence in TROUBLE
        if (missed or presence == OUTSIDE_HOURS) and self._told.get(site) != presence:
            self._told[site] = presence
            late = presence == "slow" and story.is_late(site)
            say_line(f"{site} is {presence}: {LATE if late else TROUBLE.get(presence) or progress_words(story, site)}")
        elif presence not in (*TROUBLE, OUTSIDE_HOURS, "unknown") and site in self._told:
            say_line(f"{site} is {self._told.pop(site)} no longer")

    def close_view(self, story: ExperimentStory) -> None:
        if story.over:
            for line in closing_lines(story):
                say_line(line)
            NewDoubts().tell_new(story)


class JsonLines:
    """One object a moment, a closed round and a model that was scored, under the number of rounds that made it; at most
    two a second of progress; and the summary as the last."""

    def __init__(self) -> None:
        self._news = _News()
        self._closed: set[int] = set()
        self._scored: set[int] = set()
        self._next = 0.0

    def show_story(self, story: ExperimentStory, now: float, coordinator_at: float | None) -> None:
        for moment in self._news.take_news(story):
            emit_json({"type": "event", "time": moment.time, "who": moment.who, "what": moment.what})
        for one in story.round_list:
            if one.state == "complete" and one.number not in self._closed:
                self._closed.add(one.number)
                emit_json({"type": "round", **round_summary(one, story)})
        for point in story.validation_curve():
            if point.round not in self._scored:
                self._scored.add(point.round)
                emit_json({"type": "validation", "round": point.round, **point_as_plain(point, story.reader)})
        if now >= self._next and not story.over:
            self._next = now + 0.5
            live = {site: live_summary(story, site, now) for site in sorted(story.sites)}
            emit_json(
                {
                    "type": "progress",
                    "state": story.phase,
                    "eta_seconds": story.eta_seconds(now),
                    "waits": waiting_as_plain(story),
                    "connected": not story.down,
                    "coordinator_silent_seconds": story.coordinator_silence(now),
                    "sites": live,
                }
            )

    def close_view(self, story: ExperimentStory) -> None:
        emit_json({"type": "end" if story.over else "interrupted", **story_as_plain(story)})


def live_summary(story: ExperimentStory, site: str, now: float) -> dict[str, Any]:
    """What a site does now, as plain types."""
    live = story.sites[site].live
    return {
        "presence": story.presence_of(site, now),
        "state": live.state,
        "phase": live.phase,
        "round": live.round,
        "done": live.done,
        "total": live.total,
        "epoch": live.epoch,
        "epochs": live.epochs,
        "loss": live.loss,
        "eta_seconds": live.eta_seconds,
        "opens_at": live.opens_at,
        "bytes_down": live.bytes_down,
        "bytes_up": live.bytes_up,
    }


class Picture:
    """A live picture in a terminal; it stays on the screen when it ends."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(), auto_refresh=False, transient=False)
        self._live.start()
        self._next = 0.0

    def show_story(self, story: ExperimentStory, now: float, coordinator_at: float | None) -> None:
        if now >= self._next or story.over:
            self._next = now + PICTURE_EVERY
            self._live.update(draw_picture(story, now, coordinator_at), refresh=True)

    def close_view(self, story: ExperimentStory) -> None:
        self._live.stop()
        if story.over:
            for line in closing_lines(story):
                say_line(line)
            NewDoubts().tell_new(story)


PRESENCE_STYLE = {"absent": "red", "stuck": "bold red", "slow": "yellow", "working": "green"}


def draw_picture(story: ExperimentStory, now: float, coordinator_at: float | None = None) -> RenderableType:
    """The whole state as something that rich can draw: headline, a row for each site, the latest events."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

    point = story.latest_point
    title = story.reader.title + (f" after round {point.round}" if point is not None else "")
    sites = Table("site", "", "doing", "cases", title, "down", "up", box=box.SIMPLE_HEAD, expand=False)
    latest = point.sites if point is not None else {}
    for name, site in sorted(story.sites.items()):
        presence = story.presence_of(name, now)
        state = presence if site.state in ("joined", "invited") else f"{site.state} ({site.reason})"
        cases = f"{site.cases.train}+{site.cases.validation}+{site.cases.test}" if site.cases else "-"
        score = story.reader.headline_score(latest[name]) if name in latest else None
        sites.add_row(
            _text(name),
            _text(state, style=PRESENCE_STYLE.get(presence, "")),
            _text(progress_words(story, name)),
            cases,
            format_score(score),
            human_bytes(site.live.bytes_down),
            human_bytes(site.live.bytes_up),
        )
    lines: list[RenderableType] = [_text(story.id, style="bold"), _text(headline_words(story, now)), sites]
    if words := silence_words(story, now):
        lines.append(_text(words, style="red"))
    if words := waiting_words(story, now):
        lines.append(_text(words))
    if words := finish_words(story):
        lines.append(_text(words, style="dim"))
    if story.checks:
        told, *odd = update_lines(story, max(story.checks)) or [""]
        lines += [_text(told), *(_text(line, style="red") for line in odd)]
    lines += [_text(f"CONTRADICTS: {one.describe(story.reader.title)}", style="red") for one in list_doubts(story)]
    lines += [
        _text(f"{format_moment(moment.time)[11:]} {moment.who}: {moment.what}", style="dim")
        for moment in story.moments[-6:]
    ]
    return Group(*lines)


def _text(words: str, style: str = "") -> Text:
    """Words as they are: without markup, and without what a terminal would obey."""
    from rich.text import Text

    return Text(escape_controls(words), style=style)
