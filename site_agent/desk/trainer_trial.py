"""One step of the real trainer on invented data, before an experiment asks for it.

The process is started as the agent starts it. Over its protocol it is asked to prepare a data set of noise and to train
one optimiser step, and it writes its update under the state folder. So what would fail in the night fails here: an
import, the GPU, the memory for one step, a folder. Not covered: the site's own images (data sets are looked at apart),
DICOM, a whole round's time and memory, evaluation.
"""

from __future__ import annotations

import contextlib
import json
import queue
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from messages.experiment import Experiment
from messages.ground.clock import Clock, Queue, SystemClock
from messages.ground.errors import KonsilError, WorkFailed
from messages.reasons import ADVICE, Reason
from messages.tensors.layout import Manifest
from site_agent.config import SiteConfig
from site_agent.datasets.config import DatasetConfig
from site_agent.desk.checks import Check, Grade, failed_check
from site_agent.disk.room import room_left
from site_agent.trainers.processes import EXTERNAL
from site_agent.training.client import TrainerProcess
from site_agent.training.protocol import (
    PROTOCOL,
    CheckpointEvent,
    Failed,
    Prepare,
    Prepared,
    Progress,
    Reply,
    Request,
    Train,
    Trained,
    Written,
)

READY_WITHIN = 10.0
"""Seconds for a trainer of the operator's own to say its first word."""
SILENT_WITHIN = 300.0
"""Seconds without any word: the import of torch from a slow disk is the longest of them."""
CASES = 2
LABEL = "label of the case"
"""The invented table's column; no channel is called so."""
LARGEST = 2**28
"""Voxels of all channels of an invented case; a larger patch is not tried."""
LOG = "preflight.trainer.log"
Tell = Callable[[str], None]
Answer = TypeVar("Answer", Prepared, Trained)


def usual_experiment(site: str) -> Experiment:
    """What is tried where no experiment is named: a small U-Net on 64³ voxels, two patches a step."""
    return Experiment.model_validate(
        {
            "schema": 1,
            "id": "preflight",
            "sites": [site],
            "task": {
                "kind": "segmentation",
                "channels": ["T1", "T1c", "T2", "FLAIR"],
                "activation": "sigmoid",
                "regions": {"WT": ["NCR", "ED", "ET"], "TC": ["NCR", "ET"], "ET": ["ET"]},
            },
            "data": {"dataset": "preflight"},
            "net": {"name": "UNet", "channels": [16, 32, 64, 128], "strides": [2, 2, 2], "num_res_units": 2},
            "rounds": {"count": 1},
        }
    )


def try_trainer(
    config: SiteConfig,
    experiment: Experiment | None = None,
    tell: Tell = lambda _: None,
    *,
    clock: Clock = SystemClock(),
) -> Iterator[Check]:
    """Have the trainer do one step; of the operator's own, also which version of the protocol it speaks.

    Args:
        experiment: by whose net, patch, batch and channels; None: by those of `usual_experiment`.
        tell: what is being done, in words.
    """
    asked = None if experiment is None else experiment.training.trainer
    if asked is not None and asked not in config.trainers:
        yield Check("trainer", Grade.FAIL, f"site.toml registers no {asked!r}", f"Add [trainers.{asked}]", 2)
        return
    command = config.training.command if asked is None else None
    if command is not None:
        tell(f"starting {command[0]}")
        heard = hear_version(command)
        yield heard
        if heard.grade is Grade.FAIL:
            return
    yield _try_step(config, experiment, tell, clock)


def _try_step(config: SiteConfig, experiment: Experiment | None, tell: Tell, clock: Clock) -> Check:
    shape = _one_step(experiment or usual_experiment(config.site.name), config.site.name)
    voxels = _voxels(shape)
    if voxels > LARGEST:
        return Check("trainer", Grade.WARN, f"not tried: {voxels:,} voxels a case are too many to invent")
    words = f"{shape.net.name}, {len(shape.task.channels)} channels, patch {_by(shape)}, batch {shape.training.batch}"
    try:
        with _trial_folder(config.site.state) as folder:
            begun = clock.monotonic()
            trained, prepared = _Trial(config, shape, folder, tell, clock).run()
            seconds = clock.monotonic() - begun
    except _NotDone as problem:
        return _tell_failure(config, problem, given=experiment is not None, words=words)
    except KonsilError as error:
        return failed_check("trainer", error)
    except OSError as error:
        return Check("trainer", Grade.FAIL, f"invented data cannot be written ({error.strerror})", "Free disk space")
    what = f"one step on invented data in {seconds:.0f} s on {prepared.device}, loss {trained.loss:.3g} ({words})"
    return Check("trainer", Grade.OK, what)


def hear_version(command: tuple[str, ...]) -> Check:
    """Start the operator's own trainer, and hear which version of the protocol it speaks."""
    exited: list[int] = []
    try:
        process = TrainerProcess(lambda _reply: None, exited.append, program=command)
    except KonsilError as error:
        return Check("trainer", Grade.FAIL, f"{command[0]} cannot be started", error.advice, 2)
    try:
        version = process.wait_version(READY_WITHIN)
    except KonsilError as error:
        return failed_check("trainer", error)
    finally:
        process.stop()
    if version is not None:
        return Check("trainer", Grade.OK, f"{command[0]} speaks version {version} of the protocol")
    if exited and exited[0]:
        advice = "Run training.command by hand with --help: it names what is missing"
        return Check("trainer", Grade.FAIL, f"{command[0]} ended with status {exited[0]} before it said a word", advice)
    return Check(
        "trainer", Grade.WARN, f"{command[0]} says no version of the protocol: taken for Konsil 0.1's",
        f"Have it say version {PROTOCOL} first (docs/site.md): the next release refuses a trainer that says none",
    )  # fmt: skip


class _NotDone(Exception):
    """The trainer did not do what it was asked: in words, with the code that it gave."""

    def __init__(self, what: str, code: str = "") -> None:
        self.what, self.code = what, code
        super().__init__(what)


def _tell_failure(config: SiteConfig, problem: _NotDone, *, given: bool, words: str) -> Check:
    log = config.site.state / "logs" / LOG
    own = config.training.command is not None
    what = f"{problem.what} ({words})"
    if own and not given and problem.code:
        advice = "It may train other experiments: name one of yours with --experiment"
        return Check("trainer", Grade.WARN, f"{what}: it does not take the invented one", advice)
    with contextlib.suppress(ValueError, KeyError):
        return Check("trainer", Grade.FAIL, what, f"{ADVICE[Reason(problem.code)]}. Its own words: {log}")
    return Check("trainer", Grade.FAIL, what, f"Its own words: {log}")


def _one_step(experiment: Experiment, site: str) -> Experiment:
    """The experiment cut down to one optimiser step at this site, all cases for training."""
    plain = experiment.filled()
    plain["sites"] = [site]
    plain["data"] |= {"split": {"train": 1.0, "validation": 0.0, "test": 0.0}, "least_cases": 1}
    plain["data"]["least_used_share"] = 0.0
    plain["rounds"]["count"] = 1
    plain["training"] |= {"local_epochs": None, "local_steps": 1}
    plain["quorum"] = {"least_sites": "all"}
    return Experiment.model_validate(plain)


def _by(experiment: Experiment) -> str:
    return " × ".join(map(str, experiment.training.patch))


def _voxels(experiment: Experiment) -> int:
    return prod(experiment.training.patch) * len(experiment.task.channels)


@contextlib.contextmanager
def _trial_folder(state: Path) -> Iterator[Path]:
    """A folder for the block under the state folder, where the agent's own files would lie."""
    (state / "logs").mkdir(mode=0o700, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="preflight-", dir=state))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Trial:
    """One trial in a folder of its own."""

    def __init__(self, config: SiteConfig, shape: Experiment, folder: Path, tell: Tell, clock: Clock) -> None:
        self._config, self._shape, self._folder, self._tell = config, shape, folder, tell
        self._log = config.site.state / "logs" / LOG
        self._said: Queue[Reply | int] = clock.make_queue()
        self._external = config.trainers.get(shape.training.trainer or "")
        dataset = config.datasets.get(shape.data.dataset)
        self._numbers = isinstance(dataset, DatasetConfig) and dataset.table is not None and bool(dataset.table.numbers)

    def run(self) -> tuple[Trained, Prepared]:
        """The trainer's answers.

        Raises:
            _NotDone: it ended, failed, or fell silent. WorkFailed: net or process cannot be made.
            OSError: the data cannot be written.
        """
        self._tell("inventing two cases")
        if self._numbers:
            _write_numbers(self._folder / "data", self._shape)
        else:
            _write_cases(self._folder / "data", self._shape)
        self._tell(f"making {self._shape.net.name}'s first weights")
        manifest = self._make_model()
        self._require_room(manifest)
        self._log.unlink(missing_ok=True)
        process = TrainerProcess(
            self._said.put,
            self._said.put,
            log=self._log,
            nice=self._config.training.nice,
            program=self._config.training.command if self._external is None else EXTERNAL,
        )
        try:
            self._tell("starting the trainer, which reads the cases")
            prepared = self._ask(process, self._preparation(), Prepared)
            self._tell(f"training one step on {prepared.device}")
            update = manifest.in_codec(self._shape.wire.codec)
            trained = self._ask(process, self._training(manifest, update), Trained)
        finally:
            process.kill()
            process.wait(5.0)
        written = self._folder / "update"
        if not written.exists() or written.stat().st_size != update.nbytes:
            raise _NotDone("the trainer says that it trained, and its update is not what was asked for")
        return trained, prepared

    def _make_model(self) -> Manifest:
        """The net's first weights in the folder's `model`, by a process of its own: torch stays out of this one."""
        source, described = self._folder / "experiment.json", self._folder / "manifest.json"
        source.write_text(json.dumps(self._shape.as_plain()), encoding="utf-8")
        command = [sys.executable, "-m", "nets.initial", "--experiment", str(source)]
        command += ["--out", str(self._folder / "model"), "--manifest", str(described)]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SILENT_WITHIN, check=False
        )
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise WorkFailed(
                f"the net cannot be built: {said[-1] if said else f'exit status {done.returncode}'}",
                where="trainer",
                advice="Install the site agent's training part again, or correct the experiment's net",
            )
        return Manifest.model_validate_json(described.read_bytes())

    def _require_room(self, manifest: Manifest) -> None:
        wanted = manifest.nbytes + manifest.in_codec(self._shape.wire.codec).nbytes
        if room_left(self._config.site.state, self._config.limits.disk) < wanted:
            raise WorkFailed(
                f"a round needs {wanted:,} bytes for its model and update, and there is less",
                where=str(self._config.site.state),
                advice="Free disk space, or raise limits.disk",
            )

    def _preparation(self) -> Prepare:
        limits = self._config.limits
        task = self._shape.task
        dataset: dict[str, Any] = {"path": str(self._folder / "data"), "channels": list(task.channels)}
        if self._numbers:
            dataset |= {"source": "table", "table": {"numbers": list(task.channels), "label": LABEL}}
        elif task.truth == "table":
            dataset |= {"source": "table", "table": {"images": list(task.channels), "label": LABEL}}
        else:
            labels = {str(number): concept for number, concept in enumerate(task.concepts, 1)}
            dataset |= {"source": "decathlon", "labels": labels}
        return Prepare(
            experiment=self._shape.filled(),
            dataset=dataset,
            site=self._config.site.name,
            secret=secrets.token_bytes(32),
            threads=limits.threads,
            gpus=list(limits.gpus),
            ram_bytes=limits.ram,
            disk_bytes=None,
            cache=str(self._folder / "cache"),
            state=str(self._folder),
            external={} if self._external is None else self._external.model_dump(mode="json"),
        )

    def _training(self, manifest: Manifest, update: Manifest) -> Train:
        return Train(
            round=1,
            attempt=1,
            model=str(self._folder / "model"),
            manifest=manifest.plain(),
            update=update.plain(),
            output=str(self._folder / "update"),
        )

    def _ask(self, process: TrainerProcess, request: Request, wanted: type[Answer]) -> Answer:
        process.send_request(request)
        while True:
            try:
                said = self._said.get(timeout=SILENT_WITHIN)
            except queue.Empty:
                raise _NotDone(f"the trainer said nothing for {SILENT_WITHIN:.0f} s") from None
            if isinstance(said, wanted):
                return said
            if isinstance(said, int):
                how = f"was killed by signal {-said}" if said < 0 else f"ended with status {said}"
                raise _NotDone(f"the trainer {how}: {_last_words(self._log)}")
            if isinstance(said, Failed):
                raise _NotDone(f"the trainer failed: {said.detail or _last_words(self._log)}", said.code)
            if not isinstance(said, Progress | CheckpointEvent | Written):
                raise _NotDone(f"the trainer answers {request.kind} with {said.kind}")


def _write_numbers(folder: Path, shape: Experiment) -> None:
    """A table of invented numbers."""
    task = shape.task
    folder.mkdir(parents=True)
    lines = [[*task.channels, LABEL]]
    lines += [[*(f"{number + 0.5}" for _ in task.channels), task.invent_word(number)] for number in range(CASES)]
    (folder / "labels.csv").write_text("".join(",".join(line) + "\n" for line in lines), encoding="utf-8")


def _write_cases(folder: Path, shape: Experiment) -> None:
    """Noise on the experiment's own grid: in the Decathlon layout, or beside a table."""
    import nibabel as nib
    import numpy as np

    def write(file: Path, voxels: Any) -> None:
        made = nib.Nifti1Image(voxels, affine)
        made.header.set_xyzt_units("mm")
        nib.save(made, file)

    spacing = shape.preprocessing.spacing_mm or (1.0, 1.0, 1.0)
    affine = np.diag([*spacing, 1.0])
    size, task = (*shape.training.patch, 1)[:3], shape.task
    drawn = np.random.default_rng(0)
    if task.truth == "table":
        folder.mkdir(parents=True)
        lines = [[*task.channels, LABEL]]
        for number in range(CASES):
            names = [f"case{number}_{place}.nii" for place in range(len(task.channels))]
            for name in names:
                write(folder / name, drawn.normal(100.0, 20.0, size).astype(np.float32))
            lines.append([*names, task.invent_word(number)])
        (folder / "labels.csv").write_text("".join(",".join(line) + "\n" for line in lines), encoding="utf-8")
        return
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number in range(CASES):
        image = drawn.normal(100.0, 20.0, (*size, len(task.channels))).astype(np.float32)
        label = drawn.integers(0, len(task.concepts) + 1, size).astype(np.uint8)
        for place, voxels in (("imagesTr", image), ("labelsTr", label)):
            write(folder / place / f"case{number}.nii", voxels)


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "it left no words"
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")
