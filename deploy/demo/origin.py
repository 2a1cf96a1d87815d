"""Where the sites' images come from: NIfTI phantoms, a real set dealt out, or phantoms in each hospital's PACS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from deploy.demo import data
from deploy.demo.data import PhantomShape, RealSet
from deploy.demo.layout import Layout
from deploy.demo.processes import Child, Children


class Origin(Protocol):
    """The images of one demo. `bring` comes first."""

    cases: int
    """Cases that `bring` has written; 0 where nothing is written."""
    first: bool
    """Whether all must be there before the sites look."""

    def bring(self, children: Children) -> list[Child]:
        """Have the images written or dealt out; the processes that still write end by themselves."""

    def written(self) -> int:
        """Cases that are there by now."""

    def source(self, site: str) -> dict[str, Any]:
        """[datasets.NAME] of a site."""

    def told(self) -> Mapping[str, str]:
        """Site → how its images come, in words."""

    def close(self) -> None:
        """End what `bring` started beside its writers; idempotent."""


class Phantoms:
    """Phantoms as NIfTI folders, written while the broker starts."""

    first = False

    def __init__(self, layout: Layout, sites: Sequence[str], cases: int, seed: int, size: PhantomShape) -> None:
        self.cases = cases * len(sites)
        self._layout, self._sites = layout, tuple(sites)
        self._each, self._seed, self._size = cases, seed, size

    def bring(self, children: Children) -> list[Child]:
        return data.start_writing(children, self._layout, self._sites, self._each, self._seed, self._size)

    def written(self) -> int:
        return data.written(self._layout, self._sites)

    def source(self, site: str) -> dict[str, Any]:
        return data.phantom_source(self._layout, site, self._sites.index(site))

    def told(self) -> Mapping[str, str]:
        return dict.fromkeys(self._sites, "phantoms as NIfTI files")

    def close(self) -> None:
        pass


class Dealt:
    """A real set, dealt out to the sites as folders of links."""

    cases = 0
    first = False

    def __init__(self, layout: Layout, sites: Sequence[str], real: RealSet, seed: int) -> None:
        self._layout, self._sites, self._real, self._seed = layout, tuple(sites), real, seed

    def bring(self, children: Children) -> list[Child]:
        del children  # links are made at once
        from deploy.demo.partition import partition

        partition(self._real.path, [self._layout.data / site for site in self._sites], seed=self._seed)
        return []

    def written(self) -> int:
        return 0

    def source(self, site: str) -> dict[str, Any]:
        return self._real.source(self._layout.data / site)

    def told(self) -> Mapping[str, str]:
        return dict.fromkeys(self._sites, f"NIfTI files of {self._real.path.name}")

    def close(self) -> None:
        pass
