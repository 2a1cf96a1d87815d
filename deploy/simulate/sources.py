"""Where the simulated sites' images come from: phantoms, one folder dealt out, or a folder a site."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.demo.data import PhantomShape, RealSet, read_real
from deploy.demo.layout import DemoLayout
from deploy.demo.origin import Origin, Phantoms
from deploy.demo.partition import find_cases, link_cases
from deploy.demo.processes import Child, Children
from deploy.demo.tabled import TableSet, has_table, read_table_set
from deploy.simulate.dealing import DealRule, share_cases, share_patients
from messages.experiment import Experiment
from messages.ground.errors import DataError, RequestError

PHANTOM_CHANNELS = ("T1", "T1c", "T2", "FLAIR")
PHANTOM_CONCEPTS = ("NCR", "ED", "ET")
MOST_PHANTOM_SITES = 26
CASES_PER_SITE = 32

MakeOrigin = Callable[[DemoLayout, int], Origin]
"""(where images are written, seed) → the images of the sites."""


@dataclass(frozen=True, slots=True)
class DataWish:
    """What was asked for. `data` None: phantoms, `cases` a site. `described`: a file that says what its table holds."""

    data: Path | None = None
    rule: DealRule = field(default_factory=DealRule)
    table: Path | None = None
    cases: int = CASES_PER_SITE
    size: PhantomShape = field(default_factory=PhantomShape)
    described: Path | None = None


class DealtImages:
    """One folder's images, as a folder of links for each site.

    Args:
        deal: makes the links, in `layout.data`.
    """

    cases, first = 0, True

    def __init__(
        self, layout: DemoLayout, sites: Sequence[str], given: RealSet | TableSet, deal: Callable[[], None]
    ) -> None:
        self._layout, self._sites, self._given, self._deal = layout, tuple(sites), given, deal

    def bring_images(self, children: Children) -> list[Child]:
        """Links are made at once."""
        del children
        self._deal()
        return []

    def count_written(self) -> int:
        """Nothing is written later."""
        return 0

    def describe_source(self, site: str) -> dict[str, Any]:
        """See `Origin`."""
        return self._given.describe_source(self._layout.data / site)

    def tell_origins(self) -> Mapping[str, str]:
        """See `Origin`."""
        return dict.fromkeys(self._sites, _describe_origin(self._given))

    def close(self) -> None:
        """Nothing was started."""


class OwnFolders:
    """A folder for each site, read where it lies."""

    cases, first = 0, True

    def __init__(self, folders: Mapping[str, RealSet | TableSet]) -> None:
        self._folders = folders

    def bring_images(self, children: Children) -> list[Child]:
        """They are there."""
        del children
        return []

    def count_written(self) -> int:
        """Nothing is written."""
        return 0

    def describe_source(self, site: str) -> dict[str, Any]:
        """See `Origin`."""
        return self._folders[site].describe_source(self._folders[site].path.absolute())

    def tell_origins(self) -> Mapping[str, str]:
        """See `Origin`."""
        return {site: _describe_origin(one) for site, one in self._folders.items()}

    def close(self) -> None:
        """Nothing was started."""


def choose_origin(wish: DataWish, experiment: Experiment) -> MakeOrigin:
    """What makes the images of each seed. All that can be refused is refused here, before anything is written.

    Raises:
        DataError, RequestError: no such data, too few cases, or images that are not those of the experiment.
    """
    sites = experiment.sites
    if experiment.training.trainer is not None:
        raise RequestError(
            "simulated sites have Konsil's own trainer alone",
            where=f"training.trainer = {experiment.training.trainer!r}",
            advice="Leave it out, or run the experiment at real sites",
        )
    if wish.data is None:
        if wish.rule.kind != "even":
            raise RequestError("--split goes with --data", advice="Phantoms are made for each site")
        if len(sites) > MOST_PHANTOM_SITES:
            raise RequestError(
                f"there are phantoms for {MOST_PHANTOM_SITES} sites, not for {len(sites)}",
                advice="Name a real data set with --data",
            )
        _check_task(experiment, PHANTOM_CHANNELS, PHANTOM_CONCEPTS, "the phantoms")
        return lambda layout, seed: Phantoms(layout, sites, wish.cases, seed, wish.size)
    if not wish.data.is_dir():
        raise DataError("there is no such folder", where=str(wish.data), advice="--data names a folder of images")
    if not (wish.data / "imagesTr").is_dir() and any((wish.data / site).is_dir() for site in sites):
        lacking = [site for site in sites if not (wish.data / site).is_dir()]
        if lacking:
            raise DataError(f"there is no folder for {lacking[0]}", where=str(wish.data))
        if wish.rule.kind != "even":
            raise RequestError("--split goes with one folder, and here each site has its own")
        folders = {site: _read_set(wish.data / site, experiment, wish.described) for site in sites}
        return lambda _layout, _seed: OwnFolders(folders)
    given = _read_set(wish.data, experiment, wish.described)
    _share_images(given, wish, len(sites), experiment.seed)

    def make_origin(layout: DemoLayout, seed: int) -> Origin:
        return DealtImages(layout, sites, given, lambda: _deal_images(given, wish, sites, seed, layout.data))

    return make_origin


def _share_images(given: RealSet | TableSet, wish: DataWish, count: int, seed: int) -> list[list[str]]:
    """Names of cases, or of patients where a table has them, for each of so many sites."""
    if isinstance(given, TableSet):
        return share_patients(wish.rule, given, count, seed=seed)
    return share_cases(wish.rule, find_cases(given.path), count, seed=seed, table=wish.table)


def _deal_images(given: RealSet | TableSet, wish: DataWish, sites: Sequence[str], seed: int, folder: Path) -> None:
    for site, names in zip(sites, _share_images(given, wish, len(sites), seed), strict=True):
        if isinstance(given, TableSet):
            given.deal_out(names, folder / site)
        else:
            link_cases(find_cases(given.path), names, folder / site)


def _read_set(path: Path, experiment: Experiment, described: Path | None) -> RealSet | TableSet:
    """A folder's images, which have what the experiment asks for."""
    found = read_table_set(path, experiment, described) if has_table(path, described) else read_real(path)
    _check_task(experiment, found.channels, tuple(found.labels.values()), str(path))
    return found


def _describe_origin(found: RealSet | TableSet) -> str:
    return f"{'images and table' if isinstance(found, TableSet) else 'NIfTI files'} of {found.path.name}"


def _check_task(experiment: Experiment, channels: Sequence[str], concepts: Sequence[str], where: str) -> None:
    task = experiment.task
    for what, asked, known in (("channels", task.channels, channels), ("concepts", task.concepts, concepts)):
        lacking = [name for name in asked if name not in known]
        if lacking:
            raise DataError(
                f"no {what} {', '.join(lacking)}: the images have {', '.join(known)}",
                where=where,
                advice="Have the experiment use these names",
            )
