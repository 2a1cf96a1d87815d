"""An experiment made anew without sites whose data were withdrawn: from the last model that they had not touched; pure.

The same file and seeds, and so a final model of the same bits as that of an experiment that never had these sites, as
long as training gives the same bits twice, the data of the others are what they were (their commitments in `joined`
tell) and the same sites contribute to each round.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from deploy.story.story import ENDS, ExperimentStory
from messages.experiment import Experiment
from messages.ground.errors import RequestError
from messages.ground.naming import EXPERIMENT_ID
from messages.reasons import EXCLUDING, Reason
from messages.sections import DIGEST_MARK

WHY: tuple[Reason, ...] = (Reason.WITHDRAWN, *EXCLUDING)
"""What may be given as the reason for making a model anew."""


@dataclass(frozen=True, slots=True)
class Rerun:
    """A new experiment.

    Attributes:
        stand: rounds of the old one that it takes over: their model is where it begins; 0: it begins anew.
        notes: what a person should know of it, in words.
    """

    experiment: Experiment
    stand: int
    notes: tuple[str, ...]


def plan_rerun(
    story: ExperimentStory,
    known: Mapping[str, ExperimentStory],
    without: Sequence[str],
    *,
    reason: Reason = Reason.WITHDRAWN,
    before_round: int | None = None,
    identity: str | None = None,
) -> Rerun:
    """Plan it.

    Args:
        known: the experiments that there are, by id.
        without: sites that are not in it; where it names none, all are, with the data that they have now.
        before_round: it begins with the model that this round (from 1) received; None: where `without` first trained.
        identity: its id; None: the old one's with "-rerun-" and a number.

    Raises:
        RequestError: it cannot be made anew so.
    """
    old, last = story.experiment, _last_round(story)
    if old is None or story.phase not in ENDS:
        raise RequestError(f"{story.phase}: abort or finish it first", where=story.id)
    if last is None or not old.plan.shares_model:
        raise RequestError("it made no model that all sites share: there is nothing to make anew", where=story.id)
    if old.supersedes is not None and old.rounds_before:
        raise RequestError(
            "it was itself made anew from a model in mid-way", where=story.id,
            advice=f"Make {old.supersedes.experiment} anew, without all these sites",
        )  # fmt: skip
    if strange := sorted(set(without) - set(old.sites)):
        raise RequestError(f"{strange[0]!r} is none of its sites", where=story.id)
    sites = tuple(site for site in old.sites if site not in without)
    if not sites:
        raise RequestError("no site would be left", where=story.id)
    if (behind := _find_touched_origin(old, known, without)) is not None:
        raise RequestError(
            f"it began with a model (net.from) that {', '.join(without)} had touched in {behind}", where=story.id,
            advice=f"Make {behind} anew first, and begin a new experiment with that model",
        )  # fmt: skip
    touched = _first_touched(story, without)
    if without and touched is None and before_round is None:
        raise RequestError(
            f"{', '.join(without)} trained in no round: its model stands", where=story.id,
            advice="With --before-round N the rounds from N on are made anew all the same",
        )  # fmt: skip
    wanted = (touched or 1) if before_round is None else before_round
    if touched is not None and wanted > touched:
        raise RequestError(f"round {wanted} received a model that {', '.join(without)} had touched", where=story.id)
    if not 1 <= wanted <= last:
        raise RequestError(f"it has no round {wanted}", where=story.id)
    stand, notes = wanted - 1, list[str]()
    if stand and (why := _find_obstacle(old)) is not None:
        stand = 0
        notes.append(f"{why}: it begins anew, and not with the model of round {wanted - 1}")
    plain = _write_file(story, old, sites, last, stand, reason)
    plain["id"] = identity or _free_id(story.id, known)
    if not EXPERIMENT_ID.fullmatch(plain["id"]):
        raise RequestError(f"{plain['id']!r} is no experiment's id", advice="Give one with --id")
    least = plain.get("quorum", {}).get("least_sites")
    if isinstance(least, int) and least > len(sites):
        plain["quorum"] = {**plain["quorum"], "least_sites": "all"}
        notes.append(f"quorum.least_sites was {least}, and {len(sites)} are left: all of them")
    notes.append(_tell_exactness(story, old, sites, stand))
    try:
        return Rerun(Experiment.model_validate(plain), stand, tuple(notes))
    except ValidationError as error:
        words = str(error.errors()[0].get("ctx", {}).get("error", error.errors()[0]["msg"]))
        raise RequestError(f"cannot be made anew so: {words}", where=story.id) from None


def _write_file(
    story: ExperimentStory, old: Experiment, sites: tuple[str, ...], last: int, stand: int, reason: Reason
) -> dict[str, Any]:
    plain = old.as_plain() | {"sites": list(sites)}
    plain["supersedes"] = {
        "experiment": story.id,
        "rounds": last,
        "model": f"{DIGEST_MARK}{story.rounds[last].model_digest}",
        "after": stand,
        "reason": reason.value,
    }
    if stand:
        plain["net"] = {**plain["net"], "from": f"{DIGEST_MARK}{story.rounds[stand].model_digest}"}
        plain["rounds"] = {**plain["rounds"], "count": old.rounds.count - stand}
    return plain


def _find_obstacle(old: Experiment) -> str | None:
    """Why no round of it can be taken over, in words."""
    if old.plan.keeps_work:
        return f'plan.kind = "{old.plan.kind}": what sites were at work on when a round ended is not in its model'
    if old.plan.kind != "aggregation":
        return f'plan.kind = "{old.plan.kind}" goes by its turns from the first round on'
    if old.plan.strategy.remembers:
        return f"{old.plan.strategy.name} remembers what all rounds before left"
    if not old.training.optimizer.reset:
        return "the sites' optimisers remember all rounds before (training.optimizer.reset = false)"
    return None


def _tell_exactness(story: ExperimentStory, old: Experiment, sites: tuple[str, ...], stand: int) -> str:
    """How far it makes the bits of an experiment that never had the sites that are left out, in words."""
    told = {site: story.sites[site].platform for site in sites if site in story.sites}
    if unsteady := [site for site, platform in told.items() if platform is not None and not platform.deterministic]:
        return f"not exact: training at {', '.join(unsteady)} does not give the same bits twice"
    best = old.evaluation.select_by != "last" and stand
    what = (
        f"the final model alone is exact (models up to round {stand} are not selected from), and" if best else "exact"
    )
    return f"{what} while the data of {', '.join(sites)} are as they were: --check tells once they have joined"


def _last_round(story: ExperimentStory) -> int | None:
    """The last round that made a model."""
    return max((number for number, one in story.rounds.items() if one.model_digest is not None), default=None)


def _first_touched(story: ExperimentStory, without: Collection[str]) -> int | None:
    """The first round that one of these sites' updates went into."""
    return min((number for number, one in story.rounds.items() if set(without) & set(one.contributors)), default=None)


def _find_touched_origin(old: Experiment, known: Mapping[str, ExperimentStory], without: Collection[str]) -> str | None:
    """An experiment whose model, with an update of one of these sites in it, this one began with, at any remove."""
    seen, ahead = set[str](), [old.net.origin]
    while ahead:
        origin = ahead.pop()
        if origin is None or origin in seen:
            continue
        seen.add(origin)
        for story in known.values():
            rounds = _rounds_behind(story, origin)
            if rounds is None:
                continue
            touched = _first_touched(story, without)
            if touched is not None and touched <= rounds:
                return story.id
            ahead.append(None if story.experiment is None else story.experiment.net.origin)
    return None


def _rounds_behind(story: ExperimentStory, origin: str) -> int | None:
    """How many rounds of an experiment made the model that `net.from` names; None: it is none of its models."""
    if story.id == origin:
        return story.model_round or _last_round(story)
    made = (number for number, one in story.rounds.items() if f"{DIGEST_MARK}{one.model_digest}" == origin)
    return max(made, default=None)


def _free_id(base: str, taken: Collection[str]) -> str:
    number = 1
    while f"{base}-rerun-{number}" in taken:
        number += 1
    return f"{base}-rerun-{number}"


def compare_data(old: ExperimentStory, new: ExperimentStory) -> Mapping[str, bool | None]:
    """By site of the new experiment, whether its data are those that it joined the old one with; None: not known, since
    it has not joined, or tells no commitment, or destroyed its key meanwhile (then the two differ, too)."""
    found: dict[str, bool | None] = {}
    for name, site in sorted(new.sites.items()):
        before = old.sites.get(name)
        known = site.data is not None and before is not None and before.data is not None
        found[name] = before.data == site.data if known and before is not None else None
    return found
