"""Where the sites' images come from: NIfTI phantoms, a real set dealt out, or phantoms in each hospital's PACS."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from deploy.demo import data
from deploy.demo.data import PhantomShape, RealSet
from deploy.demo.layout import DemoLayout
from deploy.demo.processes import Child, Children


class Origin(Protocol):
    """The images of one demo. `bring_images` comes first."""

    cases: int
    """Cases that `bring_images` has written; 0 where nothing is written."""
    first: bool
    """Whether all must be there before the sites look."""

    def bring_images(self, children: Children) -> list[Child]:
        """Have the images written or dealt out; the processes that still write end by themselves."""

    def count_written(self) -> int:
        """Cases that are there by now."""

    def describe_source(self, site: str) -> dict[str, Any]:
        """[datasets.NAME] of a site."""

    def tell_origins(self) -> Mapping[str, str]:
        """Site → how its images come, in words."""

    def close(self) -> None:
        """End what `bring_images` started beside its writers; idempotent."""


def await_images(writers: Sequence[Child], origin: Origin, say: Callable[[str], None]) -> None:
    """Wait until all images are written, telling now and then how many are; raises KonsilError where one failed."""
    told = 0.0
    while any(writer.running for writer in writers):
        if time.monotonic() - told > 3.0:
            told = time.monotonic()
            say(f"writing each site's images: {origin.count_written()} of {origin.cases} cases")
        time.sleep(0.05)
    for writer in writers:
        if writer.process.returncode != 0:
            writer.check_alive()


class Phantoms:
    """Phantoms as NIfTI folders, written while the broker starts."""

    first = False

    def __init__(self, layout: DemoLayout, sites: Sequence[str], cases: int, seed: int, size: PhantomShape) -> None:
        self.cases = cases * len(sites)
        self._layout, self._sites = layout, tuple(sites)
        self._each, self._seed, self._size = cases, seed, size

    def bring_images(self, children: Children) -> list[Child]:
        return data.start_writing(children, self._layout, self._sites, self._each, self._seed, self._size)

    def count_written(self) -> int:
        return data.count_written(self._layout, self._sites)

    def describe_source(self, site: str) -> dict[str, Any]:
        return data.phantom_source(self._layout, site, self._sites.index(site))

    def tell_origins(self) -> Mapping[str, str]:
        return dict.fromkeys(self._sites, "phantoms as NIfTI files")

    def close(self) -> None:
        pass


class Dealt:
    """A real set, dealt out to the sites as folders of links."""

    cases = 0
    first = False

    def __init__(self, layout: DemoLayout, sites: Sequence[str], real: RealSet, seed: int) -> None:
        self._layout, self._sites, self._real, self._seed = layout, tuple(sites), real, seed

    def bring_images(self, children: Children) -> list[Child]:
        del children  # links are made at once
        from deploy.demo.partition import deal_patients

        deal_patients(self._real.path, [self._layout.data / site for site in self._sites], seed=self._seed)
        return []

    def count_written(self) -> int:
        return 0

    def describe_source(self, site: str) -> dict[str, Any]:
        return self._real.describe_source(self._layout.data / site)

    def tell_origins(self) -> Mapping[str, str]:
        return dict.fromkeys(self._sites, f"NIfTI files of {self._real.path.name}")

    def close(self) -> None:
        pass
