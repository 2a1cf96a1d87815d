"""The long work, on the pool: build the initial model, verify updates, aggregate. Each ends in one input."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import structlog

from coordinator.config import Limits
from coordinator.core import inputs as i
from coordinator.core.effects import Aggregate, Expect, Initialise, Prune
from coordinator.core.models import name_models
from coordinator.core.records import MadeModel, ModelOrigin
from coordinator.work.aggregate import Memory, aggregate, is_finite, share_weights
from coordinator.work.blobs import Blobs, Buffer, create_mapped
from coordinator.work.building import Build, OpenOrigin, build_in_subprocess, no_origins
from coordinator.work.figures import Length, compare_directions, measure_update
from coordinator.work.given_models import explain_misfit
from coordinator.work.strategies.base import Strategy
from coordinator.work.strategies.fedbuff import FedBuff
from coordinator.work.strategies.table import strategy_of
from coordinator.work.turns import FairPool
from coordinator.work.unmasking import Opened, UnsoundSum, open_updates
from messages.experiment import Experiment
from messages.ground import crash
from messages.ground.clock import Clock
from messages.ground.durable import is_out_of_space, sync_to_disk
from messages.ground.errors import KonsilError, MalformedMessage, TooLarge, WorkFailed
from messages.ground.metrics import PHASES
from messages.reasons import Reason
from messages.secure.pooled import is_maskable
from messages.tensors.codecs import CODECS
from messages.tensors.layout import Manifest, view_tensors, write_into
from messages.tensors.seals import map_file
from messages.tensors.transfer import Incoming
from nets.digest import model_digest

log = structlog.get_logger("coordinator.work.pool")


def memory_manifest(effect: Aggregate) -> Manifest | None:
    """How what the effect's strategy keeps is laid out; None where it keeps nothing."""
    return strategy_of(effect.strategy).memory(effect.manifest)


def average(
    blobs: Blobs,
    effect: Aggregate,
    out: Buffer,
    wire: Buffer | None,
    memory: Buffer | None = None,
    opened: Opened | None = None,
    threads: int | None = None,
) -> bool:
    """Aggregate what the effect names, out of the blobs, into `out` and, in the codec of the next round, `wire`.

    Args:
        memory: where what the strategy keeps for the next round goes; needed where it keeps something.
        opened: what masked updates come to: the strategy is given their mean, as if it were one update.
        threads: change no bit (`aggregate`).

    Returns:
        Whether all of it is finite.

    Raises:
        FileNotFoundError, ValueError: a blob is gone or of another size.
        WorkFailed: so is what the strategy kept from the round before.
    """
    if opened is not None:
        return aggregate(
            effect.manifest,
            [(1.0, opened.model)],
            out,
            master=blobs.open_blob(effect.experiment, effect.model, effect.manifest),
            wire=wire,
            strategy=strategy_of(effect.strategy),
            memory=None if memory is None else Memory(_opened_memory(blobs, effect), memory),
            parties=effect.parties,
        )
    shares = share_weights(
        {one.site: one.cases for one in effect.updates},
        weight_by=effect.weight_by,
        cap=effect.weight_cap,
    )
    name, update = effect.experiment, effect.manifest.in_codec(effect.codec)
    return aggregate(
        effect.manifest,
        [(shares[one.site], blobs.open_blob(name, one.seal, update)) for one in effect.updates],
        out,
        codec=effect.codec,
        master=None if effect.master is None else blobs.open_blob(name, effect.master, effect.manifest),
        wire=wire,
        threads=threads,
        strategy=_combining(effect),
        memory=None if memory is None else Memory(_opened_memory(blobs, effect), memory),
        steps=tuple(one.steps for one in effect.updates),
        parties=effect.parties,
        bases=_open_bases(blobs, effect),
    )


def _combining(effect: Aggregate) -> Strategy:
    if effect.buffered:
        return FedBuff(tuple(one.discount for one in effect.updates))
    return strategy_of(effect.strategy)


def _open_bases(blobs: Blobs, effect: Aggregate) -> list[Buffer]:
    """The exact model that each update began with, where they may differ."""
    if not effect.buffered:
        return []
    return [blobs.open_blob(effect.experiment, one.model or effect.model, effect.manifest) for one in effect.updates]


def compare_updates(blobs: Blobs, effect: Aggregate) -> dict[str, float]:
    """By site, the cosine of its update and the others' (`figures.compare_directions`); empty where not all were
    measured, as those that an older version took."""
    began = {effect.model, *effect.models}
    if any(one.norm is None for one in effect.updates) or not all(
        blobs.has_blob(effect.experiment, seal) for seal in began
    ):
        return {}
    name, update = effect.experiment, effect.manifest.in_codec(effect.codec)
    given = {one.site: (one.norm or 0.0, blobs.open_blob(name, one.seal, update)) for one in effect.updates}
    model = blobs.open_blob(name, effect.model, effect.manifest)
    pick = int.from_bytes(sha256("".join(one.seal for one in effect.updates).encode()).digest()[:8], "big")
    bases = dict(zip(given, _open_bases(blobs, effect), strict=True)) if effect.buffered else {}
    return compare_directions(effect.manifest, given, model, effect.codec, pick=pick, bases=bases)


def _opened_memory(blobs: Blobs, effect: Aggregate) -> Buffer | None:
    manifest = memory_manifest(effect)
    if effect.memory is None or manifest is None:
        return None
    try:
        return blobs.open_blob(effect.experiment, effect.memory, manifest)
    except (FileNotFoundError, ValueError) as error:
        what = "is gone" if isinstance(error, FileNotFoundError) else "is not what it was"
        raise WorkFailed(
            f"what {effect.strategy.name} kept from before round {effect.round} {what}",
            where=str(blobs.path_of(effect.experiment, effect.memory)),
            advice="Put the file back from a backup before the coordinator starts",
        ) from None


Post = Callable[[str, i.AnyInput], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What the pool does once at a time: two of a kind would write to the same files."""

    experiment: str
    kind: Literal["initialise", "aggregate", "verify"]
    transfer: tuple[str, int, int] | None = None
    """Of an update: site, round, attempt."""


def _verification(effect: Expect) -> Job:
    return Job(effect.experiment, "verify", (effect.site, effect.round, effect.attempt))


@dataclass
class Work:
    """The pool and what it needs; `post` puts an input into the main loop's queue."""

    blobs: Blobs
    limits: Limits
    post: Post
    clock: Clock
    build: Build = build_in_subprocess
    owner: Callable[[str], str] = lambda experiment: experiment
    """Experiment → whose it is: they take turns."""
    open_origin: OpenOrigin = no_origins

    def __post_init__(self) -> None:
        self._pool = FairPool(self.clock.make_pool(2, "work"))
        self._builders = FairPool(self.clock.make_pool(1, "build"))
        """Of its own: a net that is slow to build holds up no round of another experiment."""
        self.now = self.clock.now
        self._lock = threading.Lock()
        self._gone: list[Path] = []
        """Files that are to be unlinked."""
        self._jobs: set[Job] = set()
        """Waiting or running. Each is asked for again after a pause or a full disk, and then is still at work."""

    def stop(self) -> None:
        """Drop what has not begun; what runs is repeated after the next start."""
        for pool in (self._pool, self._builders):
            pool.stop()

    def await_end(self) -> None:
        """Wait until nothing runs; once it was stopped. The process could end no sooner: it waits for its threads."""
        for pool in (self._pool, self._builders):
            pool.await_end()
        self._unlink_gone()

    def make_initial_model(self, effect: Initialise) -> None:
        """Build and store the initial model → Initialised."""
        name = effect.experiment.id
        self._submit_job(
            Job(name, "initialise"),
            partial(self._build_initial, effect),
            lambda: i.InitialisationFailed(time=self.now()),
        )

    def aggregate_updates(self, effect: Aggregate) -> None:
        """Average and store → Aggregated."""
        self._submit_job(
            Job(effect.experiment, "aggregate"),
            partial(self._aggregate_round, effect),
            lambda: i.AggregationFailed(time=self.now(), round=effect.round),
        )

    def verify_update(self, incoming: Incoming | None, effect: Expect) -> None:
        """Check seal and numbers, store → UpdateStored or UpdateBad."""
        self._submit_job(
            _verification(effect),
            partial(self._verify_timed, incoming, effect),
            lambda: self.tell_bad(effect, Reason.WRONG_DIGEST),
        )

    def prune_blobs(self, effect: Prune) -> None:
        """Take away what is not needed. The pool unlinks it: the main loop has the next round to open."""
        gone = self.blobs.drop_blobs(effect.experiment, effect.keep)
        with self._lock:
            self._gone += gone
        if gone:
            with contextlib.suppress(RuntimeError):  # it ends, and `await_end` does it
                self._pool.submit_job(self.owner(effect.experiment), self._unlink_gone)

    def _unlink_gone(self) -> None:
        with self._lock:
            gone, self._gone = self._gone, []
        for path in gone:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # the next start tries again
                log.error("a blob cannot be removed", detail=str(error))

    def verifies_update(self, effect: Expect) -> bool:
        """Whether the update that is expected is here, and being verified. Any thread."""
        with self._lock:
            return _verification(effect) in self._jobs

    def _submit_job(self, job: Job, work: Callable[[], i.AnyInput], failed: Callable[[], i.AnyInput]) -> None:
        """Do it on the pool, unless it is being done already: what comes of that is as good."""
        experiment = job.experiment
        with self._lock:
            if job in self._jobs:
                log.info("work goes on", experiment=experiment, kind=job.kind)
                return
            self._jobs.add(job)

        def end_job() -> None:
            with self._lock:
                self._jobs.discard(job)

        def run() -> None:
            try:
                given = work()
            except OSError as error:
                log.error("work failed", experiment=experiment, detail=str(error))
                given = i.DiskFull(time=self.now()) if is_out_of_space(error) else failed()
            except KonsilError as error:
                log.error("work failed", experiment=experiment, detail=str(error))
                given = failed()
            except Exception as error:
                log.exception("work failed", experiment=experiment, error=type(error).__name__)
                given = failed()
            finally:
                end_job()  # before its end is told: whoever hears of it may ask for it again
            self.post(experiment, given)

        try:
            pool = self._builders if job.kind == "initialise" else self._pool
            pool.submit_job(self.owner(experiment), run)
        except RuntimeError:
            end_job()
            log.info("work left for the next start", experiment=experiment)

    def require_room(self, size: int) -> None:
        """OSError (ENOSPC) where so many bytes would leave less than the reserve."""
        if shutil.disk_usage(self.blobs.folder).free < size + self.limits.disk_reserve:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _build_initial(self, effect: Initialise) -> i.AnyInput:
        name = effect.experiment.id
        self.require_room(0)
        out = self.blobs.scratch_file(name, "initial")
        described = out.with_name("initial.manifest")
        try:
            self.build(effect.experiment, out, described, self.limits)
        except TooLarge as error:
            log.error("work failed", experiment=name, detail=str(error))
            return i.InitialisationFailed(time=self.now(), reason=Reason.TOO_LARGE)
        manifest = Manifest.model_validate_json(described.read_text())
        described.unlink()
        manifest = self._travelling(effect.experiment, out, manifest)
        if effect.origin is not None and (why := self._begin_with(effect.origin, out, manifest)) is not None:
            log.error("work failed", experiment=name, detail=f"the model to begin with does not fit: {why}")
            return i.InitialisationFailed(time=self.now(), reason=Reason.WRONG_SHAPE)
        if effect.experiment.privacy.secure_aggregation and not is_maskable(manifest):
            out.unlink()
            return i.InitialisationFailed(time=self.now(), reason=Reason.NET_NOT_MASKABLE)
        if manifest.nbytes > self.limits.model_bytes_max:
            out.unlink()
            return i.InitialisationFailed(time=self.now(), reason=Reason.TOO_LARGE)
        wire = self._initial_wire(effect.experiment, out, manifest)
        sealed, digest = self._keep_exact(name, out, manifest)
        return i.Initialised(time=self.now(), manifest=manifest, seal=sealed, digest=digest, wire=wire)

    def _travelling(self, experiment: Experiment, path: Path, built: Manifest) -> Manifest:
        """Leave out of the initial model what the strategy lets stay at the sites, and add what it lets travel too."""
        tensors = experiment.plan.strategy.choose_travelling(built.tensors)
        if tensors == built.tensors:
            return built
        wanted = Manifest(tensors=tensors, codec=built.codec, chunk_bytes=built.chunk_bytes)
        nothing = {spec.name: np.broadcast_to(np.zeros((), spec.dtype), spec.shape) for spec in wanted.tensors}
        fitted = path.with_name("travelling.part")
        with create_mapped(fitted, wanted.nbytes) as out:
            write_into(nothing | view_tensors(built, map_file(path, built)), wanted, out.data)
        os.replace(fitted, path)
        return wanted

    def _begin_with(self, origin: ModelOrigin, path: Path, manifest: Manifest) -> str | None:
        """Write the model to begin with in the place of the drawn one; why it does not fit, where it does not."""
        arrays = self.open_origin(origin)
        if (why := explain_misfit(manifest, arrays)) is not None:
            return why
        with create_mapped(path, manifest.nbytes) as out:
            write_into(arrays, manifest, out.data)
        return None

    def _initial_wire(self, experiment: Experiment, exact: Path, manifest: Manifest) -> str | None:
        """The seal of the initial model in the codec in which round 1 sends it; None where that is exact."""
        sent = manifest.in_codec(CODECS[experiment.wire.codec].model)
        if sent.codec == manifest.codec:
            return None
        self.require_room(sent.nbytes)
        path = self.blobs.scratch_file(experiment.id, "initial-wire")
        with create_mapped(path, sent.nbytes) as out:
            write_into(view_tensors(manifest, map_file(exact, manifest)), sent, out.data)
            if not is_finite(sent, out):
                raise WorkFailed(f"the initial model is not finite in {sent.codec}", where=experiment.id)
        return self._keep_sealed(experiment.id, path, sent)

    def _keep_sealed(self, experiment: str, path: Path, manifest: Manifest) -> str:
        sealed = self.blobs.sealer.seal_buffer(manifest, map_file(path, manifest))
        self.blobs.keep_blob(experiment, sealed, path)
        return sealed

    def _keep_exact(self, experiment: str, path: Path, manifest: Manifest) -> tuple[str, str]:
        buffer = map_file(path, manifest)
        with ThreadPoolExecutor(2) as beside:  # two passes of SHA-256 over one mapping, while the disk writes
            digest = beside.submit(_digest_model, manifest, buffer)
            written = beside.submit(sync_to_disk, path)
            sealed = self.blobs.sealer.seal_buffer(manifest, buffer)
            found = digest.result()
            written.result()
        self.blobs.keep_blob(experiment, sealed, path)
        return sealed, found

    def _aggregate_round(self, effect: Aggregate) -> i.AnyInput:
        if not effect.apart:
            try:
                return self._make_aggregate(effect)
            except UnsoundSum as error:
                log.warning("a secure round is void", experiment=effect.experiment, detail=str(error))
                return i.SumRefused(time=self.now(), round=effect.round, reason=error.reason)
        own: dict[str, MadeModel] = {}
        for one in effect.apart:
            made = self._make_aggregate(one)
            own[one.updates[0].site] = MadeModel(seal=made.seal, digest=made.digest, wire=made.wire)
        return i.Aggregated(time=self.now(), round=effect.round, seal="", digest=name_models(own), own=own)

    def _make_aggregate(self, effect: Aggregate) -> i.Aggregated:
        named = (f"aggregate-{effect.round}{part}" for part in ("", "-wire", "-memory"))
        path, beside, kept = (self.blobs.scratch_file(effect.experiment, name) for name in named)
        try:
            return self._aggregate_into(effect, path, beside, kept)
        finally:  # a disk that is full, a sum that is none: nobody needs them any more
            for left in (path, beside, kept):
                left.unlink(missing_ok=True)

    def _aggregate_into(self, effect: Aggregate, path: Path, beside: Path, kept: Path) -> i.Aggregated:
        manifest, name = effect.manifest, effect.experiment
        sent = None if effect.wire is None else manifest.in_codec(effect.wire)
        remembered = memory_manifest(effect)
        self.require_room(manifest.nbytes + sum(one.nbytes for one in (sent, remembered) if one is not None))
        with ExitStack() as files:
            out = files.enter_context(create_mapped(path, manifest.nbytes))
            wire = None if sent is None else files.enter_context(create_mapped(beside, sent.nbytes))
            memory = None if remembered is None else files.enter_context(create_mapped(kept, remembered.nbytes))
            with PHASES.time_phase("aggregate", bytes=len(effect.updates) * manifest.nbytes):
                opened = files.enter_context(open_updates(self.blobs, effect, path.parent))
                finite = average(self.blobs, effect, out, wire, memory, opened)
                cosines = compare_updates(self.blobs, effect)
            if not finite and opened is not None:
                raise UnsoundSum(Reason.NOT_FINITE_UPDATE, "the aggregate is not finite")
            if not finite:
                raise WorkFailed("the aggregate is not finite", where=name)
        crash.pass_step("coordinator:aggregating")
        sealed, digest = self._keep_exact(name, path, manifest)
        copy = None if sent is None else self._keep_sealed(name, beside, sent)
        left = None if remembered is None else self._keep_sealed(name, kept, remembered)
        return i.Aggregated(
            time=self.now(),
            round=effect.round,
            seal=sealed,
            digest=digest,
            wire=copy,
            memory=left,
            cosines=cosines,
            pooled=None if opened is None else opened.pooled,
            validation=None if opened is None else opened.validation,
        )

    def tell_bad(self, effect: Expect, reason: Reason) -> i.UpdateBad:
        """That an update cannot be used as it came."""
        return i.UpdateBad(time=self.now(), site=effect.site, round=effect.round, attempt=effect.attempt, reason=reason)

    def _verify_timed(self, incoming: Incoming | None, effect: Expect) -> i.AnyInput:
        with PHASES.time_phase("verify", bytes=effect.manifest.nbytes):
            return self._verify_blob(incoming, effect)

    def _verify_blob(self, incoming: Incoming | None, effect: Expect) -> i.AnyInput:
        if incoming is None:
            if not self.blobs.is_intact(effect.experiment, effect.seal, effect.manifest):
                self.blobs.path_of(effect.experiment, effect.seal).unlink(missing_ok=True)
                return self.tell_bad(effect, Reason.WRONG_DIGEST)
            measured = self._measure(effect, self.blobs.open_blob(effect.experiment, effect.seal, effect.manifest))
        else:
            path = self.blobs.scratch_file(effect.experiment, f"update-{incoming.key.stem}")
            crash.pass_step("coordinator:verifying")
            try:
                incoming.finish(effect.manifest, effect.seal, path)
            except MalformedMessage as error:
                incoming.discard()
                return self.tell_bad(effect, Reason(error.reason))
            try:
                measured = self._measure(effect, map_file(path, effect.manifest))
                if measured is not None:
                    self.blobs.keep_blob(effect.experiment, effect.seal, path)
            finally:
                path.unlink(missing_ok=True)  # a disk that is full: all of it comes again, if it is still wanted
        if measured is None:
            return self.tell_bad(effect, Reason.NOT_FINITE_UPDATE)
        return i.UpdateStored(
            time=self.now(),
            site=effect.site,
            round=effect.round,
            attempt=effect.attempt,
            norm=measured.norm,
            statistics=measured.statistics,
        )

    def _measure(self, effect: Expect, update: Buffer) -> Length | None:
        """How far an update moves the round's model; None where nothing finite comes of it."""
        exact = effect.manifest.in_codec("float32")
        if not self.blobs.has_blob(effect.experiment, effect.model):
            return Length(None, None) if is_finite(effect.manifest, update) else None
        model = self.blobs.open_blob(effect.experiment, effect.model, exact)
        return measure_update(exact, update, model, effect.manifest.codec, strategy_of(effect.strategy))


def _digest_model(manifest: Manifest, buffer: Buffer) -> str:
    with PHASES.time_phase("digest", bytes=manifest.nbytes):
        return model_digest(manifest, buffer)
