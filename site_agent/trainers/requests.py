"""From the agenda's orders to requests for a training process, and from its replies to inputs that may leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import structlog

from messages.ground.clock import Clock
from messages.kinds import CaseCounts, Label, Platform, StatisticsReady
from messages.kinds import Transfer as Sealed
from messages.names import COORDINATOR
from messages.reasons import Reason
from messages.scores import SplitScores
from messages.secure.shared import find_most
from messages.statistics.configuration import Configuration
from messages.tasks.base import TaskRows
from messages.tensors.layout import Manifest
from messages.tensors.seals import Sealer, map_file
from messages.tensors.transfer import TransferKey
from site_agent.config import SiteConfig
from site_agent.core import policy, sharing
from site_agent.core.inputs import AnyInput, CasesMeasured, NoSpace, Prepared, Scored, TrainerFailed, UpdateLost
from site_agent.core.jobs import Job, Phase, Trained, count_charged, experiment_of, must_mask
from site_agent.core.secure.state import TrainedInside
from site_agent.disk.lineage import Lineage, UsedIn
from site_agent.disk.spool import Spool
from site_agent.privacy.price import price_steps
from site_agent.trainers.base import Trainers
from site_agent.training import protocol
from site_agent.training.files import growing_path
from site_agent.training.resuming.checkpoint import Checkpoints
from site_agent.wire.sender import Ahead

log = structlog.get_logger()

_COPIES = 3
"""A checkpoint is at most so many times its model: weights, and Adam's two moments; a mean of weights comes on top."""


class Workshop:
    """Orders and replies of one site's trainers."""

    def __init__(
        self,
        config: SiteConfig,
        spool: Spool,
        trainers: Trainers,
        sealer: Sealer,
        room: Callable[[], int],
        clock: Clock,
        lineage: Lineage,
    ) -> None:
        self._config, self._spool, self._trainers, self._sealer, self._room = config, spool, trainers, sealer, room
        self._clock, self._lineage = clock, lineage
        self._floors = config.policy.floors
        self._data: dict[str, str] = {}
        self._preparations: dict[str, tuple[tuple[dict[str, Any], Configuration | None], protocol.Prepare]] = {}
        """Experiment → its file and configuration, and the request that was made of them: the same for each round."""
        self._hashed: dict[str, tuple[int, int, list[bytes]]] = {}
        """Experiment → round and attempt of an update that is being written, and the digests of its chunks so far."""

    def note_data(self, experiment: str, data: str) -> None:
        """What the experiment's data set looks like, just before a trainer is asked."""
        self._data[experiment] = data

    def prepare_data(self, job: Job) -> None:
        """Have the data read."""
        self._trainers.ask(job.experiment, self._make_preparation(job), None)

    def train_round(self, job: Job) -> AnyInput | None:
        """Have a round trained; what stands against it, or None.

        Raises:
            WorkFailed: it cannot be noted which cases go into it.
        """
        start = job.round_start
        sealed = start.transfer_to(self._config.site.name)
        update = _update_manifest(job)
        if update.nbytes > self._room():
            return NoSpace(job.experiment)
        request = protocol.Train(
            round=job.round,
            attempt=job.attempt,
            model=str(self._model_file(job, sealed)),
            manifest=sealed.manifest.plain(),
            update=update.plain(),
            output=str(self._output_file(job)),
            evaluate=start.evaluate,
            checkpoint_seconds=self._checkpoint_seconds(job, update),
            patients=0 if job.privacy is None else job.privacy.patients,
        )
        self._lineage.note_round(job.experiment, job.round, self._clock.wall())
        self._trainers.ask(job.experiment, self._make_preparation(job), request)
        return None

    def _checkpoint_seconds(self, job: Job, update: Manifest) -> float | None:
        """How often; None: never, since the operator said so or the disk has no room for one and its successor."""
        every = self._config.training.checkpoint_every
        if not every:
            return None
        experiment = experiment_of(job)
        copies = (_COPIES + (experiment.training.ema is not None)) * experiment.plan.strategy.nets
        largest = copies * job.round_start.transfer.manifest.in_codec("float32").nbytes
        if 2 * largest + update.nbytes > self._room():
            log.warning("no disk space for checkpoints: a round that is cut off begins anew", bytes=2 * largest)
            return None
        return every

    def free_checkpoints(self, experiment: str, up_to: int | None) -> None:
        """Rounds up to this one need no checkpoint any more; None: all."""
        if up_to is None:
            self._hashed.pop(experiment, None)
            self._preparations.pop(experiment, None)
        try:
            Checkpoints(self._spool.cache_of(experiment)).clear_rounds(up_to)
        except OSError as error:
            log.warning("a checkpoint cannot be removed", error=str(error))

    def evaluate_model(self, job: Job, label: Label) -> None:
        """Have a candidate scored."""
        start = job.evaluation_start
        combined = start.combined if start.combined is not None and start.combined.label == label else None
        parts: dict[str, Sealed] = {} if combined is None else combined.transfers()
        found = [*parts.values(), *(one.transfer for one in start.models if one.label == label)]
        sealed = found[0]
        counts = job.counts
        splits: list[protocol.Split] = []
        if counts is None or counts.validation:
            splits.append("validation")
        if counts is None or counts.test:
            splits.append("test")
        request = protocol.Evaluate(
            round=job.round,
            model=str(self._model_file(job, sealed)),
            manifest=sealed.manifest.plain(),
            splits=splits,
            label=label,
            parts=[str(self._model_file(job, one)) for one in parts.values()],
            weights=[] if combined is None else [combined.weights[one] for one in parts],
            rule="mean" if combined is None else combined.rule,
        )
        self._trainers.ask(job.experiment, self._make_preparation(job), request)

    def measure_cases(self, job: Job) -> None:
        """Have it told what was measured of the training cases."""
        request = protocol.Measure(round=job.round, split="train")
        self._trainers.ask(job.experiment, self._make_preparation(job), request)

    def _output_file(self, job: Job) -> Path:
        """Where the trainer writes: of a secure round nothing that it writes is ever sent."""
        place = (job.experiment, job.round, self._config.site.name, job.attempt)
        return self._spool.trained_file(*place) if must_mask(job) else self._spool.update_file(*place)

    def update_file(self, job: Job) -> Path:
        """Where the job's update lies, as it is sent."""
        return self._spool.update_file(job.experiment, job.round, self._config.site.name, job.attempt)

    def _model_file(self, job: Job, sealed: Sealed) -> Path:
        return self._spool.global_file(TransferKey(job.experiment, sealed.round, COORDINATOR, sealed.attempt))

    def _make_preparation(self, job: Job) -> protocol.Prepare:
        known, made_of = self._preparations.get(job.experiment), (job.file, job.configuration)
        if known is None or known[0] != made_of:
            known = self._preparations[job.experiment] = (made_of, self._describe_site(job))
        return known[1]

    def _describe_site(self, job: Job) -> protocol.Prepare:
        experiment = experiment_of(job)
        limits, strategy = self._config.limits, experiment.plan.strategy
        trainer = self._config.trainers.get(experiment.training.trainer or "")
        return protocol.Prepare(
            experiment=experiment.as_plain() if experiment.measures_first else experiment.filled(),
            dataset=self._config.datasets[experiment.data.dataset].model_dump(mode="json", exclude={"privacy"}),
            site=self._config.site.name,
            secret=self._spool.site_secret(),
            threads=limits.threads,
            gpus=list(limits.gpus),
            ram_bytes=limits.ram,
            disk_bytes=limits.disk,
            cache=str(self._spool.cache_of(job.experiment)),
            state=str(self._config.site.state),
            strategy=strategy.name if strategy.in_training else "",
            external={} if trainer is None else trainer.model_dump(mode="json"),
            processes=self._config.training.processes if trainer is None else 1,
            compile=self._config.training.compile and trainer is None,
        )

    # replies

    def take_prepared(self, job: Job, reply: protocol.Prepared) -> Prepared:
        """The data were read: counts as they may leave, whether they suffice, and what is committed to.

        Raises:
            WorkFailed: it cannot be noted which cases are used.
        """
        if reply.as_of is not None:
            log.warning(
                "the PACS is away: the data set is as it was when last asked",
                experiment=job.experiment,
                days=round((self._clock.wall() - reply.as_of) / 86400, 1),
            )
        left_out = {_known_reason(code): count for code, count in reply.left_out.items() if count}
        counts = CaseCounts(
            found=reply.found,
            used=reply.used,
            left_out=left_out,
            train=reply.train,
            validation=reply.validation,
            test=reply.test,
        )
        if reply.device_type == "cpu" and experiment_of(job).training.precision == "amp":
            log.warning("precision is amp and there is no GPU: training is in float32", experiment=job.experiment)
        platform = Platform(
            device_type=reply.device_type,
            threads=reply.threads,
            versions=dict(list(reply.versions.items())[:16]),
            deterministic=reply.deterministic,
        )
        lack = policy.enough_cases(self._floors, experiment_of(job), counts)
        if experiment_of(job).privacy.dp is not None and reply.patients < 1:
            lack = lack or Reason.UNSUPPORTED  # a trainer that counts no patients knows of no noise
        if (most := find_most(experiment_of(job))) is not None and reply.patients > most:
            log.warning("the sum of so many sites holds fewer patients of each", experiment=job.experiment, most=most)
            lack = lack or Reason.UNSUPPORTED
        shared = policy.counts_for_sharing(self._floors, counts)
        # What comes from DICOM was looked at before it was prepared: its trainer says what it then was.
        data = reply.data or self._data.get(job.experiment)
        patients = policy.round_count(self._floors, reply.patients)
        return Prepared(job.experiment, shared, platform, lack, data, self._note_data(job, reply), patients)

    def _note_data(self, job: Job, reply: protocol.Prepared) -> dict[str, str]:
        """Keep which cases are used, and under which policy; what may be told of both."""
        cases = [UsedIn(one.case, one.patient, one.split, one.digest) for one in reply.cases]
        now = self._clock.wall()
        if job.phase is Phase.PREPARING:
            plain = self._config.policy.model_dump(mode="json")
            return self._lineage.note_joining(job.experiment, plain, cases, reply.fingerprint, now)
        self._lineage.note_state(job.experiment, cases)
        if job.phase is Phase.TRAINING:
            self._lineage.note_round(job.experiment, job.round, now)
        return {}

    def take_written(self, job: Job, reply: protocol.Written) -> Ahead | None:
        """Chunks of the update are in its file: what may be sent of it already, or None.

        Only what the agenda would keep may leave: an update of this round, of enough cases.
        """
        this = (reply.round, reply.attempt)
        if must_mask(job) or job.phase is not Phase.TRAINING or this != (job.round, job.attempt):
            return None
        if experiment_of(job).privacy.dp is not None:
            return None  # nothing leaves before all of it is charged
        known = self._hashed.get(job.experiment)
        digests = [] if reply.first == 0 or known is None or known[:2] != this else known[2]
        if len(digests) != reply.first:
            return None
        self._hashed[job.experiment] = (*this, [*digests, *reply.digests])
        manifest = _update_manifest(job)
        if reply.first + len(reply.digests) > manifest.chunks or policy.round_count(self._floors, reply.cases) < 1:
            return None
        key = TransferKey(job.experiment, job.round, self._config.site.name, job.attempt)
        places = (growing_path(self.update_file(job)), self.update_file(job))
        return Ahead(key, manifest, places, reply.first, reply.digests)

    def take_trained(self, job: Job, reply: protocol.Trained) -> AnyInput:
        """The update is written: seal it, unless it has to be masked. Reads the whole file where its trainer did not
        hash it, so not for the main loop's thread."""
        if must_mask(job):
            return self._take_inside(job, reply)
        manifest = _update_manifest(job)
        known = self._hashed.pop(job.experiment, None)
        try:
            if known is not None and known[:2] == (reply.round, reply.attempt) and len(known[2]) == manifest.chunks:
                map_file(self.update_file(job), manifest)  # it is there, and whole
                seal = self._sealer.seal_of(manifest, known[2])
            else:
                seal = self._sealer.seal_file(self.update_file(job), manifest)
        except (OSError, ValueError):
            return TrainerFailed(job.experiment, Reason.TRAINING_ERROR)
        scores = None if reply.evaluation is None else self._keep_shareable(reply.evaluation)
        return Trained(
            experiment=job.experiment,
            round=reply.round,
            attempt=reply.attempt,
            transfer=Sealed(round=reply.round, attempt=reply.attempt, seal=seal, manifest=manifest),
            cases=policy.round_count(self._floors, reply.cases),
            epochs=max(0, round(reply.epochs)),
            steps=reply.steps,
            loss=None if job.privacy is not None else policy.loss_for_sharing(self._floors, reply.loss),
            seconds=reply.seconds,
            validation=scores,
            epsilon=self._measure_spent(job, reply, seal),
        )

    def _measure_spent(self, job: Job, reply: protocol.Trained, seal: str = "") -> float | None:
        """Epsilon of all that has left, with this update; None: the experiment is not private."""
        if job.privacy is None:
            return None
        ledger, name = self._spool.privacy, job.experiment
        steps = next((one.charged for one in ledger.list_holdings() if one.experiment == name), 0)
        if not ledger.has_charged(name, reply.round, seal):
            steps += count_charged(job, reply.steps)
        return price_steps(job.privacy, steps, count_charged(job, reply.steps))

    def _take_inside(self, job: Job, reply: protocol.Trained) -> AnyInput:
        scores = None if reply.evaluation is None else self._keep_shareable(reply.evaluation)
        return TrainedInside(
            experiment=job.experiment,
            round=reply.round,
            attempt=reply.attempt,
            cases=policy.round_count(self._floors, reply.cases),
            epochs=max(0, round(reply.epochs)),
            steps=reply.steps,
            loss=None if job.privacy is not None else policy.loss_for_sharing(self._floors, reply.loss),
            seconds=reply.seconds,
            validation=scores,
            epsilon=self._measure_spent(job, reply),
        )

    def take_scored(self, job: Job, reply: protocol.Evaluated) -> Scored:
        """A candidate was scored."""
        splits: dict[Literal["validation", "test"], SplitScores] = {}
        for rows in reply.scores:
            if rows.split != "train":
                splits[rows.split] = self._keep_shareable(rows)
        return Scored(job.experiment, reply.label, splits)

    def take_measured(self, job: Job, reply: protocol.Measured) -> CasesMeasured:
        """The training cases were measured: what may leave. Adds up all cases, so not for the main loop's thread."""
        cases = [one.model_dump() for one in reply.cases]
        found = sharing.make_shareable(self._floors, experiment_of(job).task.channels, cases)
        if found is None:
            return CasesMeasured(job.experiment, None)
        limits = self._config.limits
        memory = limits.gpu_memory if limits.gpus else limits.ram
        told = StatisticsReady(statistics=found, memory_mib=None if memory is None else max(1, memory // 2**20))
        return CasesMeasured(job.experiment, told)

    def take_failed(self, job: Job, reply: protocol.Failed) -> TrainerFailed:
        """The trainer could not; its own words go to the local log only."""
        log.error("training failed", experiment=job.experiment, reason=reply.code)
        log.debug("training failed, in the trainer's words", experiment=job.experiment, detail=reply.detail)
        return TrainerFailed(job.experiment, _known_reason(reply.code))

    def _keep_shareable(self, rows: TaskRows) -> SplitScores:
        return policy.scores_for_sharing(self._floors, rows.scores())

    def note_lost(self, key: TransferKey) -> UpdateLost:
        """The update's file is not what was sealed."""
        return UpdateLost(key.experiment, key.round, key.attempt)


def _update_manifest(job: Job) -> Manifest:
    """What the update looks like on the wire: the round's tensors in the experiment's codec."""
    return job.round_start.transfer.manifest.in_codec(experiment_of(job).wire.codec)


def _known_reason(code: str) -> Reason:
    """A code of the list; whatever else a trainer says stays here."""
    try:
        return Reason(code)
    except ValueError:
        return Reason.TRAINING_ERROR
