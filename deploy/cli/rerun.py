"""`konsil experiment rerun`: a model is made anew without a site whose data were withdrawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.console import JsonOption, emit_json, note_line, say_line, show_working
from deploy.session.profile import ProfileOption
from messages.ground.errors import RequestError
from messages.ground.units import count_noun
from messages.reasons import Reason

if TYPE_CHECKING:
    from deploy.story.story import ExperimentStory

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The experiment's id; with --check the rerun's.")]
WithinOption = Annotated[float, typer.Option("--within", help="Seconds to wait for the coordinator.", min=1.0)]


def rerun(
    identity: IdArgument,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="SITE", help="A site that is not in it; several times.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="CODE", help="Why, as a code.")] = "withdrawn",
    before_round: Annotated[
        int | None, typer.Option("--before-round", metavar="N", help="Begin with the model that round N received.")
    ] = None,
    new_id: Annotated[
        str | None, typer.Option("--id", metavar="NEW", help="Its id; default: ID-rerun-1, -2, ….")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would be, and start nothing.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Of a rerun: tell whether its sites' data are what they were.")
    ] = False,
    profile: ProfileOption = None,
    within: WithinOption = 30.0,
    json_: JsonOption = False,
) -> None:
    """Make a model anew, from the last one that a site's data had not touched: the same file and seeds, another id.

    Without --without all sites take part with the data that they have now; then it begins with the first round, or
    with --before-round. The log says which model it supersedes, and why. The old model is not changed by this.

    With --check: exit status 1 where a site's data are not what it joined the superseded experiment with.

    Examples:

    konsil experiment rerun glioma-01 --without site-c

    konsil experiment rerun glioma-01-rerun-1 --check
    """
    from deploy.cli import requests
    from deploy.session.connection import open_session
    from deploy.session.history import HISTORY, require_known, stories_of
    from deploy.story.rerun import WHY, plan_rerun
    from deploy.story.story import ExperimentStory

    if reason not in WHY:
        raise RequestError(f"{reason!r} is no reason to make a model anew", advice=f"Give one of: {', '.join(WHY)}")
    with show_working("reading the consortium's events") as show, open_session(profile) as opened:
        stories = stories_of(opened.read_history(*HISTORY))
        story = require_known(stories.get(identity) or ExperimentStory(identity))
        if check:
            raise typer.Exit(_tell_check(story, stories, json_=json_))
        planned = plan_rerun(
            story, stories, without or (), reason=Reason(reason), before_round=before_round, identity=new_id
        )
        if not dry_run:
            show(f"publishing {planned.experiment.id}")
            try:
                requests.start_experiment(opened, planned.experiment, within, show)
            except RequestError as error:
                if planned.stand and "no such model is here" in error.what:
                    raise RequestError(
                        f"the model of round {planned.stand} is not kept any more", where=identity,
                        advice="Its operator can put it in (`konsil coordinator put-model`); or begin with the first"
                        " round: --before-round 1",
                    ) from None  # fmt: skip
                raise
    if json_:
        told: dict[str, Any] = {"experiment": planned.experiment.id, "digest": planned.experiment.digest()}
        told |= {"started": not dry_run, "rounds_that_stand": planned.stand, "notes": list(planned.notes)}
        emit_json({**told, "file": planned.experiment.as_plain()})
        return
    begins = f"with the model of round {planned.stand}" if planned.stand else "with the first round"
    left = count_noun(planned.experiment.rounds.count, "round")
    verb = "would begin" if dry_run else "accepted; it begins"
    say_line(f"{planned.experiment.id}: {verb} {begins}, {left} with {', '.join(planned.experiment.sites)}")
    for note in planned.notes:
        note_line(f"  {note}")


def _tell_check(story: ExperimentStory, stories: dict[str, ExperimentStory], *, json_: bool) -> int:
    from deploy.story.rerun import compare_data

    told = None if story.experiment is None else story.experiment.supersedes
    if told is None:
        raise RequestError("it supersedes no experiment", where=story.id)
    old = stories.get(told.experiment)
    if old is None:
        raise RequestError(f"{told.experiment}, which it supersedes, is not known here", where=story.id)
    found = compare_data(old, story)
    unchanged = all(found.values())
    if json_:
        emit_json({"experiment": story.id, "supersedes": told.experiment, "data": dict(found), "same_data": unchanged})
    else:
        words = {
            True: "the same data",
            False: "OTHER data",
            None: "not known: it has told no digest of its data in both",
        }
        for site, same in found.items():
            say_line(f"{site}: {words[same]}")
    return 0 if unchanged else 1
