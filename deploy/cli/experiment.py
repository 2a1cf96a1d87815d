"""`konsil experiment`: check, start, list, watch and end experiments; reports, comparisons, figures and models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.model import write_model
from deploy.cli.rerun import rerun
from deploy.console import (
    JsonOption,
    emit_json,
    format_moment,
    format_score,
    note_line,
    print_table,
    say_line,
    show_working,
)
from deploy.init.cli import new
from deploy.session.profile import ProfileOption
from messages.ground.errors import RequestError
from messages.ground.naming import EXPERIMENT_ID, NAME
from messages.ground.starting import reader_went
from messages.reasons import EXCLUDING, Reason

app = typer.Typer(no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The experiment file (TOML).")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The experiment's id.")]
WithinOption = Annotated[float, typer.Option("--within", help="Seconds to wait for the coordinator.", min=1.0)]


@app.callback()
def _group() -> None:
    """Experiments: one file describes each; publish it, watch it, take the model."""


def checked_id(identity: str) -> str:
    """The id, if it is one; RequestError else."""
    if not EXPERIMENT_ID.fullmatch(identity):
        raise RequestError(f"{identity!r} is no experiment's id", advice="An id is 1 to 64 of a-z, 0-9 and '-'")
    return identity


@app.command()
def check(
    file: FileArgument,
    profile: ProfileOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the sites.")] = False,
    within: Annotated[float, typer.Option("--within", help="Seconds to wait for the sites.", min=1.0)] = 8.0,
    plan: Annotated[bool, typer.Option("--plan", help="How a net that configures itself will come about.")] = False,
    json_: JsonOption = False,
) -> None:
    """Validate a file, estimate what it takes, and ask the sites who is there and would take part.

    Nothing is started, and nothing of it is recorded. Exit status 1: the experiment could not begin now, since its id
    is taken or too few sites would accept.

    Example: konsil experiment check glioma.toml
    """
    from deploy.cli import requests
    from deploy.cli.checking import check_experiment
    from deploy.cli.foresight import foresee_plan
    from deploy.session import profile as profiles
    from deploy.session.connection import open_session
    from messages import experiment as experiments
    from nets import registry

    experiment = experiments.read_experiment(file)
    registry.check_net(experiment)
    asks = not offline and profiles.profile_exists(profile)
    with show_working("checking") as show:
        checked = check_experiment(experiment, partial(open_session, profile) if asks else None, within, show)
    if not asks and not offline:
        note_line("konsil: no profile, so the sites were not asked; name one with --profile")
    lines = foresee_plan(experiment) if plan else []
    if json_:
        emit_json(checked.as_plain() | ({"plan": lines} if plan else {}))
    else:
        requests.print_check(
            experiment,
            checked.estimate,
            checked.answers,
            checked.enough,
            checked.id_free,
            lines,
            checked.spent,
            checked.missing,
        )
    raise typer.Exit(0 if checked.could_begin else 1)


app.command()(new)


@app.command()
def start(
    file: FileArgument, profile: ProfileOption = None, within: WithinOption = 30.0, json_: JsonOption = False
) -> None:
    """Publish an experiment, and wait until the coordinator accepts or refuses it.

    The same file again changes nothing. Exit status 2: refused; 3: no coordinator answers.

    Example: konsil experiment start glioma.toml && konsil experiment watch glioma-unet3d-01
    """
    from deploy.cli import requests
    from deploy.session.connection import open_session
    from messages import experiment as experiments
    from nets import registry

    experiment = experiments.read_experiment(file)
    registry.check_net(experiment)
    with show_working(f"publishing {experiment.id}") as show, open_session(profile) as opened:
        outcome = requests.start_experiment(opened, experiment, within, show)
    if json_:
        emit_json({"experiment": experiment.id, "digest": experiment.digest(), "accepted": True, "new": outcome.new})
        return
    say_line(
        f"{experiment.id}: {'accepted' if outcome.new else 'was started before with the same content; nothing to do'}"
    )
    note_line(f"Watch it with: konsil experiment watch {experiment.id}")


@app.command("list")
def list_(profile: ProfileOption = None, json_: JsonOption = False) -> None:
    """List the experiments of your consortium.

    Example: konsil experiment list
    """
    from deploy.cli.words import state_words
    from deploy.session.connection import open_session
    from deploy.session.history import stories_of
    from messages.names import AUDIT, DOWNLINK

    with show_working("reading the consortium's events"), open_session(profile) as opened:
        found = stories_of(opened.read_history(DOWNLINK if opened.profile.role == "researcher" else AUDIT))
    if json_:
        from deploy.story.summary import story_as_plain

        emit_json({"experiments": [story_as_plain(story) for story in found.values()]})
        return
    if not found:
        say_line("no experiments yet")
        return
    rows = []
    for story in found.values():
        point = story.latest_point
        rounds = f"{story.completed_rounds}/{'?' if story.rounds_planned is None else story.rounds_planned}"
        score = "-" if point is None else format_score(story.reader.headline_score(point.pooled))
        score += "" if point is None else f" {story.reader.title}, round {point.round}"
        state = state_words(story)
        rows.append([story.id, state, rounds, score, story.researcher or "-", format_moment(story.started)])
    print_table(["experiment", "state", "rounds", "validation", "researcher", "started"], rows)


@app.command()
def watch(identity: IdArgument, profile: ProfileOption = None, json_: JsonOption = False) -> None:
    """Watch an experiment until it ends: rounds, each site's state, epoch, scores, bytes, time left.

    With --json one object a line, the last with "over": true. Ctrl-C stops the watching, not the experiment. Exit
    status 0: complete; 1: failed or aborted.

    Example: konsil experiment watch glioma-unet3d-01
    """
    from deploy.cli import live
    from deploy.session.connection import open_session

    checked_id(identity)
    with open_session(profile) as opened:
        story = live.follow_live(opened, identity, live.choose_view(json_))
    raise typer.Exit(0 if story.phase == "complete" or reader_went() else 1)


def _ask_coordinator(kind: str, identity: str, profile: Path | None, within: float, json_: bool) -> None:
    from deploy.cli import requests
    from deploy.session.connection import open_session

    checked_id(identity)
    with show_working(f"asking the coordinator to {kind} {identity}"), open_session(profile) as opened:
        phase = requests.command_experiment(opened, kind, identity, within)
    if json_:
        emit_json({"experiment": identity, "state": phase})
    else:
        say_line(f"{identity}: {phase}")


@app.command()
def abort(
    identity: IdArgument,
    profile: ProfileOption = None,
    within: WithinOption = 30.0,
    json_: JsonOption = False,
) -> None:
    """End an experiment for good. Only the researcher who started it may.

    Example: konsil experiment abort glioma-unet3d-01
    """
    _ask_coordinator("abort", identity, profile, within, json_)


@app.command()
def pause(
    identity: IdArgument,
    profile: ProfileOption = None,
    within: WithinOption = 30.0,
    json_: JsonOption = False,
) -> None:
    """Let an experiment wait; what sites have finished stays. Go on with `resume`.

    Example: konsil experiment pause glioma-unet3d-01
    """
    _ask_coordinator("pause", identity, profile, within, json_)


@app.command()
def resume(
    identity: IdArgument,
    profile: ProfileOption = None,
    within: WithinOption = 30.0,
    json_: JsonOption = False,
) -> None:
    """Go on with a paused experiment.

    Example: konsil experiment resume glioma-unet3d-01
    """
    _ask_coordinator("resume", identity, profile, within, json_)


@app.command()
def finish(
    identity: IdArgument,
    profile: ProfileOption = None,
    within: WithinOption = 30.0,
    json_: JsonOption = False,
) -> None:
    """End an experiment now, with the model that there is: the best-scored one, or the last where none was scored.

    Sites are not waited for any more. Test scores are those that an evaluation has brought so far. Only the researcher
    who started it may. Exit status 2: no round has closed yet.

    Example: konsil experiment finish glioma-unet3d-01 && konsil experiment model glioma-unet3d-01
    """
    _ask_coordinator("finish", identity, profile, within, json_)


@app.command()
def exclude(
    identity: IdArgument,
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site's name.")],
    reason: Annotated[
        str, typer.Option("--reason", metavar="CODE", help=f"Why: {', '.join(EXCLUDING)}.")
    ] = Reason.EXCLUDED.value,
    profile: ProfileOption = None,
    within: WithinOption = 30.0,
    json_: JsonOption = False,
) -> None:
    """Take a site out of the rest of an experiment, for good: nothing waits for it, and nothing of it is used any more.

    What it has reported in the open round goes too; rounds that are closed stand. The reason stands in the log, and the
    site is told. Only the researcher who started the experiment may. Exit status 2: too few sites would be left.

    Example: konsil experiment exclude glioma-unet3d-01 site-c --reason outlying-update
    """
    from deploy.cli import requests
    from deploy.session.connection import open_session

    checked_id(identity)
    if not NAME.fullmatch(site):
        raise RequestError(f"{site!r} is no site's name", where=identity)
    if reason not in EXCLUDING:
        raise RequestError(f"{reason!r} is no reason to exclude a site", advice=f"Give one of: {', '.join(EXCLUDING)}")
    with show_working(f"asking the coordinator to exclude {site}"), open_session(profile) as opened:
        requests.exclude_site(opened, identity, site, Reason(reason), within)
    if json_:
        emit_json({"experiment": identity, "site": site, "state": "excluded", "reason": reason})
    else:
        say_line(f"{identity}: {site} is excluded ({reason})")


app.command()(rerun)


@app.command()
def report(
    identity: IdArgument,
    out: Annotated[Path | None, typer.Option("--out", help="The HTML file; default: ID.html.")] = None,
    profile: ProfileOption = None,
    json_: JsonOption = False,
) -> None:
    """Write the report of an experiment: one HTML file with results, curves, cases and rounds.

    Example: konsil experiment report glioma-unet3d-01 --out report.html
    """
    from deploy.session.connection import open_session
    from deploy.session.history import story_of
    from deploy.story.summary import story_as_plain

    path = out or Path(f"{checked_id(identity)}.html")
    with show_working("reading the experiment's events") as show, open_session(profile) as opened:
        story = story_of(opened, identity)
        show("drawing the report")
        from deploy import report as reports

        reports.write_report(story, path)
    if json_:
        emit_json(story_as_plain(story) | {"report": str(path)})
    else:
        say_line(str(path))


@app.command()
def compare(
    experiments: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Ids, or files of `audit export`; two or more.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="An HTML page too.", show_default=False)] = None,
    profile: ProfileOption = None,
    json_: JsonOption = False,
) -> None:
    """Put experiments beside each other: results, and the settings in which they differ.

    It says where scores do not compare: another task, data set, split or other sites.

    Example: konsil experiment compare glioma-fedavg glioma-fedprox --out compared.html
    """
    from deploy.report.comparing import HEAD, comparison_rows, render_comparison_page
    from deploy.report.page import write_page
    from deploy.session.connection import open_session
    from deploy.session.history import find_stories
    from deploy.story.comparison import compare_as_plain, find_differences, find_incomparable

    if len(set(experiments)) < 2:
        raise RequestError("one experiment compares with nothing", advice="Name two or more")
    with show_working("reading the experiments' events"):
        stories = find_stories(experiments, partial(open_session, profile))
    if out is not None:
        write_page(out, render_comparison_page(stories))
    if json_:
        emit_json(compare_as_plain(stories) | {"page": None if out is None else str(out)})
        return
    print_table(HEAD, comparison_rows(stories))
    if warnings := find_incomparable(stories):
        note_line(f"konsil: their scores do not compare: {'; '.join(warnings)}")
    if differences := find_differences(stories):
        print_table(["key", *(one.id for one in stories)], [[one.key, *one.values] for one in differences])
    if out is not None:
        say_line(str(out))


@app.command()
def export(
    identity: Annotated[str, typer.Argument(metavar="ID", help="The experiment's id, or a file of `audit export`.")],
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Folder for rounds.csv, updates.csv and scores.csv.")
    ] = None,
    mlflow: Annotated[Path | None, typer.Option("--mlflow", help="Folder of an MLflow file store.")] = None,
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", help="Folder for TensorBoard's event files (its --logdir).")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on writing until the experiment ends.")] = False,
    profile: ProfileOption = None,
    json_: JsonOption = False,
) -> None:
    """Write an experiment's figures for other tools: CSV (pandas, R, a spreadsheet), MLflow, TensorBoard.

    They come from the event log alone. A second export adds what is new. The event log itself is exported with
    `konsil audit export`.

    Examples:

    konsil experiment export glioma-unet3d-01 --csv figures

    konsil experiment export glioma-unet3d-01 --tensorboard runs --follow
    """
    from deploy.cli.live import follow_live
    from deploy.exports.targets import FollowedExport, open_targets
    from deploy.session.connection import open_session
    from deploy.session.history import find_stories

    if follow and Path(identity).is_file():
        raise RequestError("a file does not go on", where=identity, advice="Leave out --follow")
    targets = open_targets(csv, mlflow, tensorboard)
    try:
        with show_working("reading the experiment's events"):
            if follow:
                with open_session(profile) as opened:
                    story = follow_live(opened, checked_id(identity), FollowedExport(targets))
            else:
                (story,) = find_stories([identity], partial(open_session, profile))
        written = {path: count for target in targets for path, count in target.take_story(story).items()}
    finally:
        for target in targets:
            target.close()
    if json_:
        emit_json({"experiment": story.id, "files": written})
        return
    for path, count in written.items():
        say_line(f"{path}  {count} {'rows' if path.endswith('.csv') else 'values'}")


app.command("model")(write_model)
