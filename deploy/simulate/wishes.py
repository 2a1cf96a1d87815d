"""What a person asks of a simulation, read from the command's words. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from messages.experiment import Experiment
from messages.ground import settings
from messages.ground.errors import RequestError
from messages.sections import MOST_SITES
from messages.strategies import KNOWN

MOST_RUNS = 1000
MOST_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Absence:
    """A site whose agent is stopped when round `first` opens, and started again when `last` + 1 does."""

    site: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Faults:
    """What is to go wrong.

    Attributes:
        slow: site → how many times longer its work takes.
        late: site → round at whose opening its agent is first started.
    """

    drops: tuple[Absence, ...] = ()
    slow: Mapping[str, float] = field(default_factory=dict)
    late: Mapping[str, int] = field(default_factory=dict)


def parse_seeds(text: str) -> tuple[int, ...]:
    """ "1,2,3" or "1-5" → seeds, each once."""
    seeds: list[int] = []
    for word in _words(text):
        first, dash, last = word.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            _refuse("--seeds", word, "Give whole numbers, as 1,2,3 or 1-5")
        begin, end = int(first), int(last or first)
        if end > MOST_SEED or not 0 <= end - begin < MOST_RUNS:
            _refuse("--seeds", word, f"Give at most {MOST_RUNS} seeds below 2^63, the smaller one first")
        seeds += range(begin, end + 1)
    return tuple(dict.fromkeys(seeds))


def parse_strategies(text: str) -> tuple[str, ...]:
    """ "FedAvg,FedAdam" → strategies, each once."""
    words = tuple(dict.fromkeys(_words(text)))
    for word in words:
        if word not in KNOWN:
            _refuse("--strategy", word, f"Use {', '.join(KNOWN)}")
    return words


def parse_faults(drop: Sequence[str], slow: Sequence[str], late: Sequence[str], experiment: Experiment) -> Faults:
    """ "site-c@3-5", "site-b=10x", "site-d@4"; an option may hold several, separated by commas."""
    drops = []
    for word in _all_words(drop):
        found = re.fullmatch(r"([^@=]+)@([1-9][0-9]{0,5})(?:-([1-9][0-9]{0,5}))?", word)
        if found is None or int(found[3] or found[2]) < int(found[2]):
            _refuse("--drop", word, "Give a site and its rounds, as site-c@3-5 or site-c@3")
        _check_site("--drop", word, found[1], experiment)
        _check_round("--drop", word, int(found[2]), experiment)
        drops.append(Absence(found[1], int(found[2]), int(found[3] or found[2])))
    factors: dict[str, float] = {}
    for word in _all_words(slow):
        found = re.fullmatch(r"([^@=]+)=([0-9]{1,6}(?:\.[0-9]{1,6})?)x?", word)
        if found is None or float(found[2]) <= 0:
            _refuse("--slow", word, "Give a site and how many times longer its work takes, as site-b=10x")
        _check_site("--slow", word, found[1], experiment)
        factors[found[1]] = float(found[2])
    rounds: dict[str, int] = {}
    for word in _all_words(late):
        found = re.fullmatch(r"([^@=]+)@([1-9][0-9]{0,5})", word)
        if found is None:
            _refuse("--late", word, "Give a site and the round at whose opening it comes, as site-d@4")
        _check_site("--late", word, found[1], experiment)
        _check_round("--late", word, int(found[2]), experiment)
        rounds[found[1]] = int(found[2])
    return Faults(tuple(drops), factors, rounds)


def adapt_experiment(
    experiment: Experiment, *, sites: int | None, seed: int | None, strategy: str | None
) -> Experiment:
    """The experiment of one run.

    Args:
        sites: the first so many of the file's, and further ones by number; None: the file's.

    Raises:
        RequestError, ConfigError: what comes of it is no experiment.
    """
    plain: dict[str, Any] = experiment.as_plain()
    if sites is not None:
        if not 1 <= sites <= MOST_SITES:
            _refuse("--sites", str(sites), f"Use 1 to {MOST_SITES}")
        plain["sites"] = _name_sites(experiment.sites, sites)
    if seed is not None:
        plain["seed"] = seed
    if strategy is not None and strategy != experiment.plan.strategy.name:
        plain["plan"] = {**plain.get("plan", {}), "strategy": strategy}
    return settings.parse_settings(plain, Experiment, experiment.id)


def _name_sites(named: Sequence[str], count: int) -> list[str]:
    names = list(named[:count])
    number = len(names)
    while len(names) < count:
        number += 1
        name = f"site-{number}"
        if name not in names:
            names.append(name)
    return names


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _all_words(several: Sequence[str]) -> list[str]:
    return [word for text in several for word in _words(text)]


def _check_site(option: str, word: str, site: str, experiment: Experiment) -> None:
    if site not in experiment.sites:
        shown = ", ".join(experiment.sites[:6]) + (", …" if len(experiment.sites) > 6 else "")
        _refuse(option, word, f"{site} is no site of the experiment: it names {shown}")


def _check_round(option: str, word: str, number: int, experiment: Experiment) -> None:
    if number > experiment.rounds.count:
        _refuse(option, word, f"The experiment has {experiment.rounds.count} rounds")


def _refuse(option: str, word: str, advice: str) -> NoReturn:
    raise RequestError(f"{option} {word!r} is not understood", advice=advice)
