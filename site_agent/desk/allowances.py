"""What of `[policy]` could ever let an experiment in: rules that fit none are told, and a policy that declines all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from messages.experiment import Experiment
from messages.reasons import ADVICE
from messages.sections import OWN_TRAINER
from messages.secure.section import CARRIED_OUT
from messages.tasks.registry import TASKS
from messages.trust.register import Register
from nets.registry import known_nets
from site_agent.config import SiteConfig
from site_agent.core import policy
from site_agent.core.permissions import Allow
from site_agent.core.secure.peers import list_lapsed
from site_agent.data.described import concepts_of
from site_agent.desk.checks import Check, Grade

ANYBODY = "anybody"
"""Stands for a researcher where no rule names one."""


def check_policy(
    config: SiteConfig,
    today: date,
    experiment: Experiment | None = None,
    register: Register | None = None,
    now: float = 0.0,
) -> Iterator[Check]:
    """Whether the policy lets anything in; with an experiment, whether it lets that in.

    Args:
        today: the site's date.
        register: of the kit; None: there is none. `now`: seconds since 1970, by which its keys are judged.
    """
    rules = config.policy
    floors = [*_check_floors(config, register, now)]
    yield from floors
    dead: list[str] = []
    for number, rule in enumerate(rules.allow, 1):
        for key, why, wholly in _list_misfits(rule, config, today):
            place = f"policy.allow {number}, {key}: {why}"
            if wholly:
                dead.append(place)
            grade = Grade.FAIL if key == "datasets" else Grade.WARN
            advice = "Describe it under [datasets.NAME], or correct the name" if key == "datasets" else f"Correct {key}"
            yield Check("policy", grade, place, advice, 2)
    lost = {place.partition(",")[0] for place in dead}
    if rules.default == "deny" and len(lost) == len(rules.allow):
        what = "default is deny and no [[policy.allow]] rule" + (" can fit" if rules.allow else " is given")
        yield Check(
            "policy", Grade.FAIL, f"{what}: every experiment is declined",
            "Add a rule that names what is allowed, such as researchers and datasets (docs/site.md)", 2,
        )  # fmt: skip
        return
    if not any(check.grade is Grade.FAIL for check in floors):
        by_hand = "; each experiment waits for `konsil site resume --approve ID`" if rules.approval == "hand" else ""
        count = "allows all" if rules.default == "allow" else f"{len(rules.allow) - len(lost)} rules can let some in"
        yield Check("policy", Grade.OK, f"{count}{by_hand}")
    if experiment is not None:
        yield _judge_experiment(config, today, experiment)


def _check_floors(config: SiteConfig, register: Register | None, now: float) -> Iterator[Check]:
    """Floors that this version cannot keep: every experiment would be below them; and peers whose keys have changed."""
    floors = config.policy.floors
    modes = floors.secure_modes
    for key, asked in (("secure_aggregation", bool(modes) and not CARRIED_OUT & set(modes)),):
        if asked:
            what = f"policy.floors.{key} asks for what this version cannot do: every experiment is declined"
            yield Check("policy", Grade.FAIL, what, "Remove the floor, or take no part", 2)
    if modes and config.trust is None:
        what = "policy.floors.secure_aggregation needs keys, and [trust] is missing: every experiment is declined"
        yield Check("policy", Grade.FAIL, what, "Ask the consortium's operator for this site's key (docs/site.md)", 2)
    if floors.peers is not None and register is not None:
        for line in list_lapsed(register, floors.peers, now):
            yield Check("policy", Grade.WARN, line, "Ask that site for its new fingerprint, and compare it by phone", 2)


def _list_misfits(rule: Allow, config: SiteConfig, today: date) -> Iterator[tuple[str, str, bool]]:
    """Keys of a rule with what fits nothing in them, and whether the rule can fit no experiment for that."""
    known = {
        "datasets": set(config.datasets),
        "nets": set(known_nets()),
        "tasks": set(TASKS),
        "trainers": {OWN_TRAINER, *config.trainers},
    }
    for key in (
        "researchers",
        "researcher_keys",
        "datasets",
        "tasks",
        "nets",
        "plans",
        "codecs",
        "trainers",
        "purposes",
    ):
        named = getattr(rule, key)
        if named is None:
            continue
        if not named:
            yield key, "an empty list allows nothing", True
            continue
        strange = [name for name in named if name not in known.get(key, named)]
        if strange:
            words = ", ".join(repr(name) for name in strange)
            told = "not described in site.toml" if key in ("datasets", "trainers") else "unknown to this version"
            yield key, f"{words} {'is' if len(strange) == 1 else 'are'} {told}", len(strange) == len(named)
    if rule.until is not None and rule.until < today:
        yield "until", f"{rule.until} is over", True


def _judge_experiment(config: SiteConfig, today: date, experiment: Experiment) -> Check:
    """The agent's own verdict, for the researcher whom the policy receives best."""
    described = {name: concepts_of(dataset) for name, dataset in config.datasets.items()}
    rules = config.policy
    named = {name for rule in rules.allow for name in rule.researchers or ()}
    trainers = config.readable_by_trainers
    verdicts = [
        policy.judge_experiment(
            rules, experiment, researcher, config.site.name, described, today, policy.ANY_KEY, trainers, config.budgeted
        )
        for researcher in [*sorted(named), ANYBODY]
    ]
    best = next((one for one in verdicts if one.allowed), verdicts[0])
    if best.reason is not None:
        return Check(
            "experiment", Grade.FAIL, f"{experiment.id} would be declined: {best.reason}", ADVICE[best.reason], 2
        )
    who = "" if verdicts[-1].allowed else f" of {', '.join(sorted(named))}"
    return Check("experiment", Grade.OK, f"{experiment.id}{who} would be let in")
