"""An experiment at a site whose training is an operator's program: the requests of the protocol, as runs of it."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from messages.experiment import Experiment
from messages.ground.errors import DataError
from messages.reasons import Reason
from messages.tasks.base import Split, TaskRows
from messages.tensors.codecs import Tensor
from messages.tensors.layout import Manifest
from nets.registry import spec_of
from site_agent.config import ExternalTrainer
from site_agent.data.described import dataset_of
from site_agent.datasets.barrier import CaseError, hold_faults
from site_agent.datasets.cases import Case
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.source import Survey, survey_cases
from site_agent.datasets.splits import SPLITS, split_cases
from site_agent.disk.lineage import plain_name
from site_agent.external import work
from site_agent.external.program import ProgressLine, run_program
from site_agent.external.sandbox import Places, TrainerUnfit, read_program, start_command, try_sandbox
from site_agent.training.files import open_model, write_update
from site_agent.training.protocol import (
    Evaluate,
    Evaluated,
    Phase,
    Prepare,
    Prepared,
    Progress,
    Reply,
    Train,
    Trained,
    UsedCase,
    Written,
)
from site_agent.training.resuming.interrupt import Interrupt

REPORT_SECONDS = 0.4
_SEED_BYTES = 4


class FolderGone(DataError):
    """The folder is not there (any more)."""

    reason = Reason.DATASET_GONE


@dataclass(frozen=True)
class _Run:
    """What a run is told beside the experiment: `do` is "train" or "predict"."""

    do: str
    phase: Phase
    round: int
    split: Split
    model: dict[str, Tensor]


class ExternalSession:
    """A site's data for one experiment, and the program that trains on them.

    Raises:
        TrainerUnfit: site.toml has no such program, its file has another hash, there is no sandbox, or it cannot take
            what the experiment asks for.
        DataError: the data set cannot be read.
    """

    def __init__(self, request: Prepare, send: Callable[[Reply], None], interrupt: Interrupt | None = None) -> None:
        del interrupt  # SIGTERM ends this process, and the program with it: there is no checkpoint to write
        self._request, self._send, self._sent = request, send, 0.0
        self.experiment = Experiment.model_validate(request.experiment)
        name = self.experiment.training.trainer or ""
        if not request.external:
            raise TrainerUnfit("site.toml registers no such trainer", where=f"trainers.{name}")
        self._trainer = ExternalTrainer.model_validate(request.external)
        self._folder = Path(request.cache) / "external"
        self._places = Places.under(self._folder)
        self._places.remove()  # what a run that was killed has left
        read_program(self._trainer)
        if self._trainer.sandbox == "namespaces" and (why := try_sandbox(self._folder / "trial")) is not None:
            raise TrainerUnfit(f"no sandbox can be made here ({why})", where=f"trainers.{name}")
        dataset = dataset_of(request.dataset)
        if not isinstance(dataset, DatasetConfig) or dataset.table is None or dataset.table.label is None:
            raise TrainerUnfit("a trainer of one's own reads tables alone", where=self.experiment.data.dataset)
        self._dataset, self._table = dataset, dataset.table
        self._cases: dict[Split, tuple[Case, ...]] = {}
        self.prepared = self._prepare_cases()

    def train_round(self, request: Train) -> Trained:
        """One round: score the received model if asked to, train, write the update.

        Raises:
            ProgramFailed: the program did not do it. TrainerUnfit: its file has changed, for one.
        """
        began = time.monotonic()
        received = open_model(request.model, Manifest.model_validate(request.manifest))
        scores = None
        if request.evaluate:
            scores = self._score_split("validation", "validating", request.round, received)
        cases = len(self._cases["train"])
        update = Manifest.model_validate(request.update)

        def written(first: int, digests: list[bytes]) -> None:
            told = Written(round=request.round, attempt=request.attempt, cases=cases, first=first, digests=digests)
            self._send(told)

        try:
            self._run_program(_Run("train", "training", request.round, "train", received))
            result = work.read_result(self._places.work)
            arrays = work.read_update(self._places.work, update)
            write_update(request.output, arrays, update, received, on_chunks=written)
        finally:
            self._places.remove()
        return Trained(
            round=request.round,
            attempt=request.attempt,
            cases=cases,
            steps=result.steps,
            epochs=result.epochs,
            loss=result.loss,
            seconds=time.monotonic() - began,
            evaluation=scores,
        )

    def evaluate_model(self, request: Evaluate) -> Evaluated:
        """Score a model on whole splits.

        Raises:
            ProgramFailed, TrainerUnfit: as `train_round`.
        """
        if request.parts:
            raise TrainerUnfit("a trainer of one's own scores no ensemble", where="trainer")
        model = open_model(request.model, Manifest.model_validate(request.manifest))
        scores = [self._score_split(split, "testing", request.round, model) for split in request.splits]
        return Evaluated(round=request.round, label=request.label, scores=scores)

    def _score_split(self, split: Split, phase: Phase, round_number: int, model: dict[str, Tensor]) -> TaskRows:
        cases, task = self._cases[split], self.experiment.task
        truths, answers = [case.truth for case in cases], list[list[float]]()
        if cases:
            try:
                self._run_program(_Run("predict", phase, round_number, split, model))
                answers = work.read_predictions(self._places.work, task.targets, len(cases))
            finally:
                self._places.remove()
        try:
            return task.rows_of_answers(split, truths, answers)
        except ValueError:
            raise work.ProgramFailed("a prediction is none of this task (a probability is from 0 to 1)") from None

    def _run_program(self, run: _Run) -> None:
        trainer, dataset = self._trainer, self._dataset
        self._places.make_anew(read_program(trainer))
        work.write_task(self._places.work, self._describe_run(run), run.model, self._list_cases(run))
        pictured = bool(self._table.pictures)
        command = start_command(
            trainer,
            self._places,
            shown=[dataset.path] if pictured else [],
            hidden=[*([Path(self._request.state)] if self._request.state else []), dataset.path / self._table.file],
            threads=self._request.threads,
            gpus=self._request.gpus,
            ram=trainer.ram if trainer.ram is not None else self._request.ram_bytes,
        )
        self._report(run, ProgressLine(step=0, of=0), now=True)
        run_program(trainer, self._places, command, lambda line: self._report(run, line))

    def _describe_run(self, run: _Run) -> dict[str, Any]:
        """`task.json`; docs/trainers.md has each key."""
        experiment, training = self.experiment, self.experiment.training
        number, rounds = (one + experiment.rounds_before for one in (run.round, experiment.rounds.count))
        factor = training.schedule.factor(number, rounds)
        named = f"{experiment.seed}|{self._request.site}|{number}"
        return {
            "do": run.do,
            "round": number,
            "rounds": rounds,
            "seed": int.from_bytes(sha256(named.encode()).digest()[:_SEED_BYTES], "big"),
            "task": experiment.task.model_dump(mode="json"),
            "targets": list(experiment.task.targets),
            "inputs": list(experiment.task.channels),
            "images": bool(self._table.pictures),
            "training": {
                "epochs": training.epochs,
                "steps": training.local_steps,
                "batch": training.batch,
                "learning_rate": training.optimizer.lr * factor,
                "optimizer": training.optimizer.model_dump(mode="json"),
                "loss": training.loss_table.model_dump(mode="json", exclude_unset=True),
                "clip_norm": training.clip_norm,
            },
            "net": {"name": experiment.net.name, **experiment.net.parameters},
            "threads": self._request.threads,
            "gpus": list(self._request.gpus),
        }

    def _list_cases(self, run: _Run) -> list[list[str | float]]:
        """The lines of `cases.csv`; a case's name on disk is not told, nor its truth where it is to be predicted."""
        task = self.experiment.task
        head: list[str | float] = ["case", *task.channels]
        lines = [head if run.do == "predict" else [*head, *(f"true {name}" for name in task.targets)]]
        for number, case in enumerate(self._cases[run.split]):
            inputs = case.numbers or map(str, case.images)
            lines.append([number, *inputs, *(case.truth if run.do == "train" else ())])
        return lines

    def _report(self, run: _Run, line: ProgressLine, *, now: bool = False) -> None:
        at = time.monotonic()
        if not now and at - self._sent < REPORT_SECONDS:
            return
        self._sent = 0.0 if now else at  # the first word of a run is told at once, too
        self._send(Progress(round=run.round, phase=run.phase, done=line.step, total=line.of, loss=line.loss))

    def _prepare_cases(self) -> Prepared:
        experiment, request = self.experiment, self._request
        spec_of(experiment)
        survey = self._survey_dataset()
        shares = experiment.data.split.model_dump()
        self._cases = dict(split_cases(survey.cases, request.secret, experiment.seed, shares))
        left_out = Counter({str(reason): count for reason, count in survey.left_out.items()})
        used: list[UsedCase] = []
        for name in SPLITS:
            kept = []
            for case in self._cases[name]:
                try:
                    with hold_faults(case.key):
                        used.append(_describe_case(case, name))
                except CaseError as error:  # it could be read a moment ago: count it, and go on without it
                    left_out[str(error.reason)] += 1
                    continue
                kept.append(case)
                self._report_preparing(len(used), len(survey.cases))
            self._cases[name] = tuple(kept)
        lines = "".join(f"{one.split} {one.case} {one.digest}\n" for one in used)
        return Prepared(
            found=survey.found,
            used=len(used),
            left_out=dict(sorted(left_out.items())),
            train=len(self._cases["train"]),
            validation=len(self._cases["validation"]),
            test=len(self._cases["test"]),
            device=platform.machine(),
            device_type="cuda" if request.gpus else "cpu",
            threads=request.threads,
            versions={"trainer": self._trainer.sha256[:16]},
            deterministic=False,
            fingerprint=sha256(lines.encode()).hexdigest(),
            cases=used,
        )

    def _report_preparing(self, done: int, total: int) -> None:
        if time.monotonic() - self._sent >= REPORT_SECONDS:
            self._sent = time.monotonic()
            self._send(Progress(round=0, phase="preparing", done=done, total=total))

    def _survey_dataset(self) -> Survey:
        if not self._dataset.path.is_dir():
            raise FolderGone("there is no such folder", where=str(self._dataset.path))
        task, cache = self.experiment.task, Path(self._request.cache)
        cache.mkdir(parents=True, exist_ok=True)
        tell, place = self._report_preparing, cache / "survey.sqlite"
        return survey_cases(self._dataset, task.channels, (), tell, place, encode=task.encode_value)


def _describe_case(case: Case, split: Split) -> UsedCase:
    """A case for the agent's own record, with the digest of what the table says of it and of its images' bytes.

    Raises:
        OSError: an image cannot be read.
    """
    digest = sha256(f"{case.numbers} {case.truth}\n".encode())
    for path in case.images:
        with path.open("rb") as file:
            digest.update(file_digest(file, "sha256").digest())
    name, patient = plain_name(case.key), plain_name(case.patient)
    return UsedCase(case=name, patient=patient, split=split, digest=digest.hexdigest())
