"""A secure experiment in the coordinator's state machine and its worker, with sites that are no services."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coordinator_kit import counts, plain, scores
from machine_run import PLATFORM, Run
from numpy.typing import NDArray
from secure_site import PureSite

from coordinator.config import Limits
from coordinator.core import announce, effects
from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.state import ExperimentState, Phase, Round, Timer
from coordinator.loop.file_checks import Find, check_file, find_nothing
from coordinator.work.blobs import Blobs
from coordinator.work.pool import Work
from messages import kinds
from messages.envelope import Author
from messages.ground.clock import SystemClock
from messages.secure import section
from messages.secure.encoding import find_arrival, restore_tensor
from messages.tensors.layout import manifest_of, view_tensors, write_into

MODEL = {
    "conv.weight": np.linspace(-3, 3, 300, dtype=np.float32).reshape(10, 30),
    "conv.bias": np.linspace(0, 1, 7, dtype=np.float32),
}
MANIFEST = manifest_of(MODEL, 1024)
NAMES = ("site-a", "site-b", "site-c", "site-d", "site-e")
CASES = dict(zip(NAMES, (10, 20, 30, 40, 50), strict=True))


def carry_out(patch: pytest.MonkeyPatch) -> None:
    """Masks are kept in this process, whatever the version says."""
    patch.setattr(section, "CARRIED_OUT", frozenset({"masks"}) | section.CARRIED_OUT)


def secure_file(sites: Iterable[str] = NAMES, least: int = 3, **changes: Any) -> dict[str, Any]:
    """An experiment under masks, with three sites at least."""
    privacy = {"secure_aggregation": "masks", **changes.pop("privacy", {})}
    evaluation = {"select_by": "last", "every": 1}
    return plain(sites=list(sites), quorum={"least_sites": least}, privacy=privacy, evaluation=evaluation) | changes


def train(name: str, array: NDArray[np.float32], site: str) -> NDArray[np.float32]:
    """What training at a site makes of a tensor."""
    made: NDArray[np.float32] = array + np.float32(0.25) * np.float32(ord(site[-1]) % 5 - 2) * np.cos(array)
    return made


class SecureRun(Run):
    """Args:
    folder: of the coordinator's blobs.
    """

    def __init__(self, folder: Path, sites: tuple[str, ...] = NAMES, find: Find | None = None, **changes: Any) -> None:
        self.names = sites
        self.work = Work(Blobs(folder), Limits(disk_reserve=0), lambda *_: None, SystemClock())
        self.file = secure_file(sites, **changes)
        self.said: dict[str, list[Any]] = {}
        super().__init__(find or find_nothing, **self.file)
        state = self.now
        self.sites = {
            site: PureSite(
                site,
                state.experiment,
                state.digest,
                MANIFEST,
                CASES[site],
                lambda name, array, site=site: train(name, array, site),  # type: ignore[misc]
            )
            for site in sites
        }
        for site in sites:
            self.tell(site, kinds.Joined(cases=counts(CASES[site]), platform=PLATFORM), number=0)
        seal, digest = self._store_model()
        self.put(i.Initialised(time=self.time, manifest=MANIFEST, seal=seal, digest=digest))

    @property
    def now(self) -> ExperimentState:
        assert self.state is not None
        return self.state

    @property
    def round(self) -> Round:
        assert self.now.round is not None
        return self.now.round

    def wire(self, body: kinds.Body, sender: str = "dr-a", **more: Any) -> tuple[d.AnyDecision, ...]:
        self.time += 1
        kind = next(kind for kind, spec in kinds.KINDS.items() if spec.body is type(body))
        event = Author("demo", sender).write_event(kind, body, time=self.time, experiment="exp-1", seq=1, **more)
        return self.put(
            i.Received(time=self.time, raw=event.raw, admitted=NAMES, file_check=check_file(event, self.find))
        )

    def tell(
        self, site: str, body: kinds.Body, number: int | None = None, attempt: int | str | None = None, key: bool = True
    ) -> tuple[d.AnyDecision, ...]:
        """A site says something, signed."""
        self.time += 1
        kind = next(kind for kind, spec in kinds.KINDS.items() if spec.body is type(body))
        author = self.sites[site].author if key else Author("demo", site)
        opened = self.now.round
        number = (0 if opened is None else opened.number) if number is None else number
        attempt = (1 if opened is None else opened.opening) if attempt is None else attempt
        event = author.write_event(
            kind, body, time=self.time, experiment="exp-1", round_number=number, attempt=attempt, seq=1
        )
        return self.put(i.Received(time=self.time, raw=event.raw, admitted=NAMES))

    def _store_model(self) -> tuple[str, str]:
        path = self.work.blobs.scratch_file("exp-1", "initial")
        buffer = bytearray(MANIFEST.nbytes)
        write_into(MODEL, MANIFEST, memoryview(buffer))
        path.write_bytes(buffer)
        return self.work._keep_exact("exp-1", path, MANIFEST)

    def model(self, number: int) -> dict[str, NDArray[Any]]:
        """The model that a round received."""
        return view_tensors(MANIFEST, self.work.blobs.open_blob("exp-1", self.now.models[number].seal, MANIFEST))

    def step(self, *without: str) -> str:
        """All sites of the open step hear it, and answer it as long as it is open, but these; returns its name."""
        name, opened = self.round.step, announce.round_opened(self.now)
        for site in sorted(set(self.round.parts) - set(without)):
            if isinstance(opened.body, kinds.SecureMasking) and not self.round.is_scoring:
                self.update(site, opened.body)
                continue
            said = self._scores(site, opened.body) if isinstance(opened.body, kinds.SecureMasking) else None
            said = said or self.sites[site].answer(opened.body, opened.round)
            if said is not None and self.now.round is not None and self.round.step == name:
                self.tell(site, said)
        return name

    def _scores(self, site: str, opened: kinds.SecureMasking) -> kinds.Body:
        self.deliver_mail()
        labels = [one.label for one in self.sites[site].evaluation.models]
        told = {label: {"validation": scores(0.5), "test": scores(0.25)} for label in labels}
        return self.sites[site].tell_figures(opened, told)

    def deliver_mail(self) -> None:
        for mail in effects.list_mail(self.now):
            self.sites[mail.site].hear_mail(mail.body)

    def update(self, site: str, opened: kinds.SecureMasking) -> None:
        """A site masks its update, sends it, and the worker stores it."""
        self.deliver_mail()
        number = self.round.number
        ready, raw = self.sites[site].hear_masking(opened, self.model(number))
        self.tell(site, ready)
        path = self.work.blobs.scratch_file("exp-1", f"update-{site}")
        path.write_bytes(raw)
        assert self.work._keep_sealed("exp-1", path, ready.transfer.manifest) == ready.transfer.seal
        self.put(i.UpdateStored(time=self.time, site=site, round=number, attempt=1))

    def lose(self, site: str, before: str) -> None:
        """A whole round in which a site says nothing from this step on; deadlines come where it is waited for."""
        lost = False
        while self.now.round is not None and self.now.round.closed_at is None and self.round.number == 1:
            lost = lost or self.round.step == before
            name = self.step(*([site] if lost else ()))
            while self.now.phase is Phase.RUNNING and self.round.step == name and self.round.number == 1:
                self.fire(Timer.GRACE if Timer.GRACE in self.now.timers else Timer.DEADLINE)

    def until(self, step: str, without: Collection[str] = ()) -> None:
        """Steps are answered until this one is open."""
        while self.round.step != step:
            self.step(*without)

    def aggregate(self) -> i.AnyInput:
        """The worker makes what the closed round asks for."""
        (effect,) = [one for one in effects.pending_effects(self.now) if isinstance(one, effects.Aggregate)]
        made = self.work._aggregate_round(effect)
        self.put(made.model_copy(update={"time": self.time}))
        return made

    def plain_sum(self, sites: Iterable[str]) -> NDArray[np.uint32]:
        """What these sites' words come to, had nobody masked them."""
        words = sum(spec.size for spec in MANIFEST.tensors)
        buffers = [one for site in sites if (one := self.sites[site].plain) is not None]
        return np.add.reduce([one[: 4 * words].view(np.uint32) for one in buffers], dtype=np.uint32)

    def whole_round(self) -> i.AnyInput:
        for _ in range(5):
            self.step()
        return self.aggregate()


def restore_plainly(run: SecureRun, sites: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """The model of the first round out of the plain sum of these sites' words."""
    sites, found, place = tuple(sites), {}, 0
    context, total = run.sites[sites[0]].context, run.plain_sum(sites)
    for name, array in run.model(1).items():
        found[name] = np.empty_like(array)
        restore_tensor(total[place : place + array.size], array, find_arrival(context, sites), found[name])
        place += array.size
    return found


def mean_of(run: SecureRun, number: int, sites: Iterable[str]) -> dict[str, NDArray[np.float64]]:
    """The mean of what these sites' training makes of a round's model, as if nothing were masked."""
    sites = list(sites)
    total = sum(CASES[site] for site in sites)
    return {
        name: sum(train(name, array, site).astype(np.float64) * CASES[site] for site in sites) / total
        for name, array in run.model(number).items()
    }
