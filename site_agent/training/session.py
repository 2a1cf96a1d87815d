"""What the training process holds between rounds: the data, the net and the device; one method a request.

`deploy.baseline` uses the same object without a socket, so that a baseline trains with the very same code.
"""

from __future__ import annotations

import copy
import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from messages import codec
from messages.experiment import Experiment
from messages.ground.errors import DataError, WorkFailed
from messages.reasons import Reason
from messages.tasks.base import TaskRows
from messages.tensors.codecs import Tensor
from messages.tensors.layout import Manifest
from messages.tensors.travelling import is_beside
from nets.build import build_for
from nets.combined import CombinedNet
from nets.monai_parts import MONAI_VERSION
from nets.registry import spec_of
from nets.weights import arrays_of, load_weights, manifest
from site_agent.data.described import dataset_of
from site_agent.datasets.barrier import hold_faults
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.opening import show_name
from site_agent.datasets.source import Case, CaseError, LoadedCase, Survey, load_case, survey_cases
from site_agent.datasets.splits import split_cases
from site_agent.datasets.vault import ARRAYS, CASES, Vault
from site_agent.dicom.base import Accounting
from site_agent.disk.lineage import plain_name
from site_agent.disk.room import Room
from site_agent.training.cases import cache
from site_agent.training.cases.cache import CachedCase
from site_agent.training.cases.precision import choose_format
from site_agent.training.cases.preprocess import prepare_case, without_label
from site_agent.training.compiling import Forward, can_compile, compile_net
from site_agent.training.engine import blame_nan_loss, train_round
from site_agent.training.files import kept_folder, open_model, strategy_folder, write_update
from site_agent.training.interrupt import Interrupt
from site_agent.training.optimise import KeptState
from site_agent.training.protocol import (
    CheckpointEvent,
    Evaluate,
    Evaluated,
    Phase,
    Prepare,
    Prepared,
    Progress,
    Split,
    Train,
    Trained,
    UsedCase,
    Written,
)
from site_agent.training.resuming.checkpoint import Checkpoints
from site_agent.training.resuming.kept import KeptTensors
from site_agent.training.resuming.resume import Keeper, key_of
from site_agent.training.strategies.table import rule_of
from site_agent.training.tasks.registry import learner_for
from site_agent.training.together.gradients import find_obstacle
from site_agent.training.together.team import SharedCase, Team, name_bits, share_limits

REPORT_SECONDS = 0.4
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class DatasetGone(DataError):
    """The folder is not there (any more); `messages.reasons.Reason.DATASET_GONE`."""

    reason = Reason.DATASET_GONE


class NoImages(DataError):
    """Konsil's own trainer has nothing to see; `messages.reasons.Reason.MISSING_CHANNEL`."""

    reason = Reason.MISSING_CHANNEL


class GpuGone(WorkFailed):
    """The site lends a GPU and none is to be seen; `messages.reasons.Reason.GPU_ERROR`."""

    reason = Reason.GPU_ERROR


Send = Callable[[Progress | CheckpointEvent | Written], None]


class TrainingSession:
    """A site's data and net for one experiment.

    Raises:
        ConfigError: the experiment or its net is not allowed.
        DataError: the data set cannot be read.
        GpuGone: the site lends a GPU that is not there.
    """

    def __init__(self, request: Prepare, send: Send, interrupt: Interrupt | None = None) -> None:
        self.experiment = Experiment.model_validate(request.experiment)
        self.site = request.site
        self._send = send
        self._interrupt = interrupt or Interrupt()
        self._sent = 0.0
        # Only what comes from DICOM is encrypted, where the operator asks for it; what was, opens in any case.
        self._cases = Vault(request.secret, CASES) if "encrypt" in request.dataset else None
        self._arrays = Vault(request.secret, ARRAYS) if request.dataset.get("encrypt") else None
        self.learner = learner_for(self.experiment)
        self._set_up_net(request)
        self.cache_folder = Path(request.cache)
        self._kept = KeptTensors(strategy_folder(self.cache_folder, self.experiment.id))
        self._checkpoints = Checkpoints(self.cache_folder)
        self._shared_cases: list[SharedCase] = []
        self.splits: dict[Split, list[CachedCase]] = {}
        self.prepared = self._prepare_cases(request)

    def _set_up_net(self, request: Prepare) -> None:
        strict = self.experiment.training.dims in spec_of(self.experiment).deterministic_on_cuda
        self.device = choose_device(request.gpus, request.threads, strict=strict)
        self._net = build_for(self.experiment)
        self._rule = rule_of(self.experiment.plan.strategy)
        built = manifest(self._net)
        self._manifest = Manifest(tensors=self.experiment.plan.strategy.choose_travelling(built.tensors))
        travelling = {spec.name for spec in self._manifest.tensors}
        self._own = {
            name: torch.from_numpy(array.copy())
            for name, array in arrays_of(self._net).items()
            if name not in travelling
        }
        """The tensors that do not travel, as they were built."""
        self._net.to(self.device)
        self._request = self._share_work(request)
        self._team: Team | None = None
        self._forward = self._compile_net()

    def _share_work(self, request: Prepare) -> Prepare:
        """The request with as many processes as can train this experiment together, to the same result as one."""
        Team.close_present()
        size = min(request.processes, self.experiment.training.batch)
        obstacle = find_obstacle(self._net)
        if self.experiment.plan.strategy.name == "MOON":
            obstacle = "MOON compares what a whole batch looks like to the net"
        if size > 1 and obstacle is not None:
            _say_line(f"trained by one process instead of {size}: {obstacle}")
        shared = request.model_copy(update={"processes": 1 if obstacle is not None else size})
        if shared.processes > 1:
            own = share_limits(shared, 0)
            torch.set_num_threads(own.threads)
            if own.ram_bytes is not None and not own.gpus:  # softly: the next request may train alone again
                resource.setrlimit(resource.RLIMIT_DATA, (own.ram_bytes, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        return shared

    def _compile_net(self) -> Forward | None:
        """The net compiled, where the site asks for it, this machine can, and one process trains it alone."""
        watched = self.experiment.plan.strategy.name == "MOON"  # it looks into the net while it works
        if not self._request.compile or self._request.processes > 1 or watched or not can_compile(self.device):
            return None
        return compile_net(self._net)

    def _call_team(self) -> Team | None:
        """The processes that take a part of each batch; they are started for the first round, and after a failure."""
        if self._request.processes > 1 and (self._team is None or self._team.closed):
            self._team = Team(self._request, self._shared_cases, self.device)
        return self._team

    @property
    def net_bytes(self) -> int:
        """What the net's weights take."""
        return self._manifest.nbytes

    def train_round(self, request: Train) -> Trained:
        """One round: score the received model if asked to, train, write the update.

        A round that was begun before (the same model, data, settings and software) goes on from its checkpoint, to
        the same bits.

        Raises:
            Interrupted: the process was asked to end.
        """
        experiment = self.experiment
        keeper = Keeper(
            self._checkpoints,
            request.round,
            lambda: key_of(request, experiment, self.site, self.prepared, self._kept.digest_before(request.round)),
            request.checkpoint_seconds,
            self._interrupt,
            self._send,
        )
        resumes = keeper.look_for_checkpoint()
        received, before = self._load_model(request.model, request.manifest, request.round)
        if request.round > 1 and not before and (self._own or self._rule.remembers):
            _say_line(f"{experiment.plan.strategy.name}: nothing is kept from an earlier round: it begins anew")
        if request.evaluate and not resumes:
            keeper.scores = self.score_split("validation", request.round, "validating")
        kept = None
        if not experiment.training.optimizer.reset:
            kept = KeptState(kept_folder(self.cache_folder, experiment.id))
        cases = self.splits["train"]

        def report(done: int, total: int, epoch: int, loss: float | None, left: float | None) -> None:
            self._report_progress(
                request.round, "training", done, total,
                epoch=epoch, epochs=experiment.training.epochs or 0, loss=loss, eta_seconds=left,
            )  # fmt: skip

        def written(first: int, digests: list[bytes]) -> None:
            self._send(
                Written(
                    round=request.round, attempt=request.attempt, cases=len(cases), first=first, digests=digests
                )
            )  # fmt: skip

        beside = {name: tensor.read_all() for name, tensor in received.items() if is_beside(name)}
        self._rule.begin_round(self._net, beside, before)
        self._sent = 0.0  # a new phase is told at once
        if not resumes:
            report(0, 0, 1, None, None)
        with self._interrupt.hold_signal():
            with blame_nan_loss(cases):
                result = train_round(
                    self._net,
                    cases,
                    experiment,
                    self.learner,
                    round_number=request.round,
                    site=self.site,
                    device=self.device,
                    kept=kept,
                    report=report,
                    keeper=keeper,
                    rule=self._rule,
                    team=self._call_team(),
                    forward=self._forward,
                )
            arrays, leaves = arrays_of(self._net), self._rule.end_round(result.steps)
            own = {name: torch.from_numpy(arrays[name]) for name in self._own}
            if own or leaves.kept:
                self._kept.write_round({**leaves.kept, **own}, request.round)
            # The checkpoint stays until the agent frees the round: a kill before the update is stored costs little.
            update = self._described_manifest(request.update)
            write_update(request.output, {**arrays, **leaves.beside}, update, received, on_chunks=written)
        return Trained(
            round=request.round,
            attempt=request.attempt,
            cases=len(cases),
            steps=result.steps,
            epochs=result.epochs,
            loss=result.loss,
            seconds=keeper.seconds,
            evaluation=keeper.scores,
        )

    def evaluate_model(self, request: Evaluate) -> Evaluated:
        """Score a model on whole splits."""
        net = self._net
        if request.parts:
            net = self._combine_models(request)
        else:
            self._load_model(request.model, request.manifest, request.round)
        phases: dict[Split, Phase] = {"train": "training", "validation": "validating", "test": "testing"}
        scores = [self.score_split(split, request.round, phases[split], net) for split in request.splits]
        return Evaluated(round=request.round, label=request.label, scores=scores)

    def _combine_models(self, request: Evaluate) -> torch.nn.Module:
        """The ensemble of these models as one net: each part in memory of its own."""
        nets = []
        for path in request.parts:
            net = copy.deepcopy(self._net)
            load_weights(net, open_model(path, self._described_manifest(request.manifest)))
            nets.append(net)
        return CombinedNet(nets, request.weights, request.rule, reading=self.experiment.task.reading)

    def score_split(
        self, split: Split, round_number: int, phase: Phase, net: torch.nn.Module | None = None
    ) -> TaskRows:
        """Score a net on one split; None: the one in training, as it is."""
        return self.learner.evaluate(
            self._net if net is None else net,
            self.splits[split],
            split=split,
            device=self.device,
            report=lambda done, total: self._report_progress(round_number, phase, done, total),
        )

    def _prepare_cases(self, request: Prepare) -> Prepared:
        data = self.experiment.data
        cache.sweep_leftovers(self.cache_folder)
        self.cache_folder.mkdir(parents=True, exist_ok=True)
        self._room = Room(Path(request.state or request.cache), request.disk_bytes)
        config, prepared = self._find_data(request)
        self._keys: dict[str, str] = {}
        survey = self._survey_dataset(config) if prepared is None or prepared.used else Survey(0, (), {}, ())
        for name in self._keys.keys() - {case.key for case in survey.cases}:  # a copy of somebody who has withdrawn
            cache.remove_case(self.cache_folder, self._keys[name], self._arrays)
        for one in survey.details:
            _name_left_out(one.key, one.reason, one.text)
        # What was left out on the way from DICOM counts with what the survey leaves out.
        left_out = Counter({str(reason): count for reason, count in survey.left_out.items()})
        before = Counter[Reason]() if prepared is None else prepared.left_out
        left_out.update({str(reason): count for reason, count in before.items()})
        parts = split_cases(survey.cases, request.secret, self.experiment.seed, data.split.model_dump())
        fingerprint = sha256(codec.canonical(self.experiment.preprocessing.model_dump(mode="json")))
        total, done = len(survey.cases), 0
        used: list[UsedCase] = []
        for name in SPLITS:
            self.splits[name] = []
            for case in parts[name]:
                done += 1
                try:
                    with hold_faults(case.key):
                        key, cached = self._cached_case(case, config)
                except CaseError as error:  # it could be read a moment ago: count it, and go on without it
                    left_out[str(error.reason)] += 1
                    _name_left_out(case.key, error.reason, str(error))
                    continue
                self.splits[name].append(cached)
                if name == "train":
                    self._shared_cases.append(SharedCase(key=key, name=cached.name, truth=[*map(float, case.truth)]))
                said = f"{key} {list(case.truth)}" if case.truth else key
                fingerprint.update(f"{name} {said}\n".encode())
                used.append(_describe_case(case, name, said))
                self._report_progress(0, "preparing", total + done, 2 * total)
        self.learner.look_at_cases(self.splits["train"])
        # That nothing may be left to train on is for the agent to judge: it tells of it with these counts.
        cuda = self.device.type == "cuda"
        return Prepared(
            found=survey.found + before.total(),
            used=sum(len(cases) for cases in self.splits.values()),
            left_out=dict(sorted(left_out.items())),
            train=len(self.splits["train"]),
            validation=len(self.splits["validation"]),
            test=len(self.splits["test"]),
            device=torch.cuda.get_device_name(self.device) if cuda else platform.machine(),
            device_type="cuda" if cuda else "cpu",
            threads=torch.get_num_threads(),
            versions={
                **_library_versions(),
                **name_bits(self._request.processes),
                **({} if self._forward is None else {"compile": "inductor"}),
            },
            deterministic=not cuda or not torch.is_deterministic_algorithms_warn_only_enabled(),
            fingerprint=fingerprint.hexdigest(),
            data="" if prepared is None else prepared.fingerprint,
            as_of=None if prepared is None else prepared.as_of,
            cases=used,
        )

    def _survey_dataset(self, config: DatasetConfig) -> Survey:
        if not config.path.is_dir():
            raise DatasetGone("there is no such folder", where=str(config.path))
        if config.table is not None and config.table.numbers:
            raise NoImages("the data set is a table of numbers, and Konsil's nets see images", where=str(config.path))
        task = self.experiment.task
        return survey_cases(
            config,
            task.channels,
            task.concepts,
            lambda done, total: self._report_progress(0, "preparing", done, 2 * total),
            cache=self.cache_folder / "survey.sqlite",
            vault=self._cases,
            preprocessing=self.experiment.preprocessing,
            visit=self._keep_case,
            encode=task.encode_value if task.truth == "table" else None,
        )

    def _find_data(self, request: Prepare) -> tuple[DatasetConfig, Accounting | None]:
        """The folder to read; from DICOM it is prepared first, with what that left out."""
        dataset = dataset_of(request.dataset)
        if isinstance(dataset, DatasetConfig):
            return dataset, None
        from site_agent.dicom.preparing.build import for_experiment  # pydicom only where it is needed

        name = self.experiment.data.dataset
        return for_experiment(
            name,
            dataset,
            Path(request.state),
            request.secret,
            self.cache_folder,
            lambda done, total: self._report_progress(0, "preparing", done, total),
            limit=request.disk_bytes,
            processes=request.threads,
        )

    def _cached_case(self, case: Case, config: DatasetConfig) -> tuple[str, CachedCase]:
        """A case out of the cache; it is read and made again where it is not there, or does not read any more."""
        for last in (False, True):
            if case.key not in self._keys:
                self._keep_case(case, load_case(case, config, self._cases))
            key = self._keys[case.key]
            try:
                return key, cache.fetch_case(self.cache_folder, key, show_name(case.key), self._arrays, case.truth)
            except (OSError, EOFError, ValueError, LookupError, TypeError):  # what lies there is damaged
                if last:
                    raise
                cache.remove_case(self.cache_folder, self._keys.pop(case.key), self._arrays)
        raise AssertionError("unreachable")

    def _keep_case(self, case: Case, loaded: LoadedCase) -> None:
        """Preprocess a case and put it into the cache, as far as it is not there."""
        with hold_faults(case.key):
            settings, concepts = self.experiment.preprocessing, self.experiment.task.concepts
            label = in_terms_of(concepts, loaded.label, loaded.concepts)
            numbers = choose_format(loaded.image, settings)
            key = cache.content_key(loaded.image, label, loaded.affine, settings, concepts, numbers)
            if not cache.holds_case(self.cache_folder, key, self._arrays):
                prepared = prepare_case(loaded.image, label, loaded.affine, settings)
                if case.truth:
                    prepared = without_label(prepared)
                self._room.require_room(cache.size_of(prepared), "preprocessed cases")
                cache.store_case(self.cache_folder, key, prepared, self._arrays)
            self._keys[case.key] = key

    def _load_model(
        self, path: str, plain: Mapping[str, object], round_number: int
    ) -> tuple[dict[str, Tensor], dict[str, torch.Tensor]]:
        """Decode a model into the net, with this site's own tensors as its last round left them.

        Returns:
            What was read, mapped, for the update to differ from; what the site kept of its last round.
        """
        received = open_model(path, self._described_manifest(plain))
        kept: dict[str, torch.Tensor] = {}
        if self._own or self._rule.remembers:
            kept = self._kept.read_before(round_number) or {}
        weights = {name: tensor for name, tensor in received.items() if not is_beside(name)}
        load_weights(self._net, {**weights, **{name: kept.get(name, one).numpy() for name, one in self._own.items()}})
        return received, kept

    def _described_manifest(self, plain: Mapping[str, object]) -> Manifest:
        described = Manifest.model_validate(plain)
        if not described.same_tensors(self._manifest):
            raise WorkFailed("the received model is not the experiment's net", where="manifest")
        return described

    def _report_progress(
        self,
        round_number: int,
        phase: Phase,
        done: int,
        total: int,
        *,
        epoch: int = 0,
        epochs: int = 0,
        loss: float | None = None,
        eta_seconds: float | None = None,
    ) -> None:
        now = time.monotonic()
        if now - self._sent < REPORT_SECONDS and done != total:
            return
        self._sent = now
        self._send(
            Progress(
                round=round_number,
                phase=phase,
                done=done,
                total=total,
                epoch=epoch,
                epochs=epochs,
                loss=loss,
                eta_seconds=eta_seconds,
            )
        )


def _describe_case(case: Case, split: Split, content: str) -> UsedCase:
    """A case for the agent's own record."""
    digest = sha256(content.encode()).hexdigest()
    return UsedCase(case=plain_name(case.key), patient=plain_name(case.patient), split=split, digest=digest)


def _name_left_out(key: str, reason: Reason, text: str) -> None:
    _say_line(f"left out: {show_name(key)} ({reason}): {text}")


def _say_line(text: str) -> None:
    """A line in the trainer's own log, which stays at the site."""
    sys.stderr.write(f"{text}\n")


def in_terms_of(concepts: Sequence[str], label: NDArray[np.uint8], own: Sequence[str]) -> NDArray[np.uint8]:
    """A data set's label values → the experiment's; concepts that it does not name become background."""
    table = np.zeros(256, dtype=np.uint8)
    for value, concept in enumerate(own, start=1):
        table[value] = concepts.index(concept) + 1 if concept in concepts else 0
    return table[label]


def choose_device(gpus: list[int], threads: int, *, strict: bool) -> torch.device:
    """Set up torch for the same bits each time, and choose the device.

    The process sees only the GPUs that its site lends (CUDA_VISIBLE_DEVICES), so the first is number 0.

    Raises:
        GpuGone: none of them is to be seen. Training on the CPU instead would take days, and make other bits.
    """
    if gpus and not torch.cuda.is_available():
        raise GpuGone("the GPU that the site lends is not to be seen", where="limits.gpus", advice="Run nvidia-smi")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=bool(gpus) and not strict)
    # By default the mode also fills every new tensor with NaN, 7 % of a round (benchmarks.training_loop). That makes
    # reading memory before it is written reproducible; nothing here does (a test trains both ways).
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of a module
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    kind: Literal["cuda", "cpu"] = "cuda" if gpus else "cpu"
    return torch.device(kind)


def _library_versions() -> dict[str, str]:
    """Of what decides the bits."""
    found = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "monai": MONAI_VERSION,
        "numpy": np.__version__,
    }
    if torch.cuda.is_available():
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        found |= {"cuda": str(torch.version.cuda), "cudnn": str(cudnn)}
    return found
