"""What a person sees of a run: a line a round, and what goes wrong. Of a hundred sites nobody reads every word."""

from __future__ import annotations

from deploy.cli.words import closing_lines, headline_words, waiting_words
from deploy.console import say_line
from deploy.story.story import ExperimentStory
from messages.ground.units import human_seconds


class Headlines:
    """A `deploy.cli.live.View`. Times are virtual."""

    def __init__(self) -> None:
        self._closed = 0
        self._waits: object = None
        self._begun: float | None = None

    def show_story(self, story: ExperimentStory, now: float, coordinator_at: float | None) -> None:
        """A line where a round was closed, or where the open one waits for a site that has given up."""
        self._begun = now if self._begun is None else self._begun
        after = f"after {human_seconds(now - self._begun)} of virtual time"
        if story.completed_rounds > self._closed:
            self._closed = story.completed_rounds
            last = story.rounds[max(number for number, one in story.rounds.items() if one.state == "complete")]
            lacking = sorted(set(story.joined) - set(last.contributors))
            without = f" without {', '.join(lacking)}" if lacking else ""
            if story.experiment is not None and story.experiment.plan.keeps_work:
                without = f" with {', '.join(sorted(last.contributors))}"
            say_line(f"round {last.number} closed {after}{without}: {headline_words(story, now)}")
        found = story.waiting
        state = None if found is None or not any(found.sites.values()) else (found.what, dict(found.sites))
        if state is not None and state != self._waits:
            say_line(f"{after}: {waiting_words(story, now)}")
        self._waits = state

    def close_view(self, story: ExperimentStory) -> None:
        """The result."""
        if story.over:
            for line in closing_lines(story):
                say_line(line)
