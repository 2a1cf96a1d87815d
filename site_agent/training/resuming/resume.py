"""What the rest of a round follows from ↔ its checkpoint; when one is written.

Beside the experiment, the data and the received model that is: weights and buffers, the optimiser's state, the
gradient scaler's, what the strategy's rule has gathered, PyTorch's random numbers (dropout), and the sum of the losses
so far. Batches are drawn by their step (`sampling`), so they need no state. What is not here is in its key.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from messages import codec
from messages.experiment import Experiment
from messages.tasks.base import TaskRows
from messages.tensors.codecs import Tensor
from messages.tensors.layout import Manifest, TensorSpec
from site_agent.training import optimise
from site_agent.training.protocol import CheckpointEvent, Prepared, Train
from site_agent.training.resuming.checkpoint import Checkpoint, Checkpoints, Header, Unreadable
from site_agent.training.resuming.interrupt import Interrupt, Interrupted
from site_agent.training.strategies.base import PLAIN, LocalRule

VERSION = 1
"""Raise it when the training loop makes other weights of the same input."""

_NET, _OPTIMIZER, _RULE, _MEAN, _RANDOM = "net.", "optimizer.", "strategy.", "mean.", "random."


def key_of(request: Train, experiment: Experiment, site: str, prepared: Prepared, kept: str = "") -> str:
    """SHA-256 (hex) over all that decides a round's bits, beside what a checkpoint holds. The attempt does not.

    Args:
        kept: digest of what the site kept for its strategy.
    """
    model = sha256()
    with Path(request.model).open("rb") as file:
        while piece := file.read(2**22):
            model.update(piece)
    platform = prepared.model_dump(include={"device", "device_type", "threads", "versions", "fingerprint"})
    parts = [
        VERSION, version("konsil"), experiment.digest(), site, request.round, request.evaluate, model.digest(),
        request.manifest, request.update, platform, *([kept] if kept else []),
    ]  # fmt: skip
    return sha256(codec.canonical(parts)).hexdigest()


@dataclass
class Moment:
    """A round between two steps.

    Attributes:
        total: sum of the losses, float64 on the device.
        steps: of the whole round.
        rule: what the strategy asks; it may have gathered something. mean: of the weights, where the file asks for it.
    """

    net: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    total: torch.Tensor
    device: torch.device
    steps: int
    rule: LocalRule = PLAIN
    mean: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def tensors_by_name(self) -> dict[str, torch.Tensor]:
        """By name, where they lie."""
        found = {_NET + name: tensor.detach() for name, tensor in self.net.state_dict().items()}
        found |= {_OPTIMIZER + name: tensor for name, tensor in optimise.flatten_state(self.optimizer).items()}
        found |= {_RULE + name: tensor for name, tensor in self.rule.state().items()}
        found |= {_MEAN + name: tensor for name, tensor in self.mean.items()}
        found[_RANDOM + "cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            found[_RANDOM + "cuda"] = torch.cuda.get_rng_state(self.device)
        return found

    def restore_from(self, checkpoint: Checkpoint) -> None:
        """Go to where the checkpoint was written.

        Raises:
            Unreadable: it is of another net or optimiser; nothing was changed.
        """
        held = checkpoint.tensors
        mine = self.tensors_by_name()
        kept, gathered = (
            {name.removeprefix(part): one for name, one in held.items() if name.startswith(part)}
            for part in (_OPTIMIZER, _RULE)
        )
        fixed = {name: one for name, one in held.items() if not name.startswith((_OPTIMIZER, _RULE))}
        if fixed.keys() != {name for name in mine if not name.startswith((_OPTIMIZER, _RULE))}:
            raise Unreadable("it does not hold this net")
        for name, one in fixed.items():
            if (tuple(mine[name].shape), _dtype_of(mine[name])) != (one.shape, one.dtype.name):
                raise Unreadable("it does not hold this net")
        if not optimise.fits_state(self.optimizer, {name: one.shape for name, one in kept.items()}):
            raise Unreadable("it does not hold this optimiser's state")
        if not self.rule.fits_state({name: one.shape for name, one in gathered.items()}):
            raise Unreadable("it does not hold what this strategy gathers")
        state = self.net.state_dict()
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(_copy_tensor(held[_NET + name]))
            for name, tensor in self.mean.items():
                tensor.copy_(_copy_tensor(held[_MEAN + name]))
        optimise.load_state(self.optimizer, {name: _copy_tensor(one) for name, one in kept.items()})
        self.rule.restore_state({name: _copy_tensor(one) for name, one in gathered.items()})
        if checkpoint.header.scaler:
            self.scaler.load_state_dict(_whole_state(checkpoint.header.scaler))
        self.total.fill_(checkpoint.header.loss_sum)
        torch.set_rng_state(_copy_tensor(held[_RANDOM + "cpu"]))
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(_copy_tensor(held[_RANDOM + "cuda"]), self.device)


class Keeper:
    """Writes a round's checkpoints, and resumes from one.

    Args:
        key: the round's key; asked for only when there is a checkpoint, or one to write.
        every: seconds between checkpoints; None: none is written.
        say: tells the agent.
    """

    def __init__(
        self,
        folder: Checkpoints,
        round_number: int,
        key: Callable[[], str],
        every: float | None,
        interrupt: Interrupt,
        say: Callable[[CheckpointEvent], None],
    ) -> None:
        self._folder, self._round, self._every = folder, round_number, every
        self._interrupt, self._say = interrupt, say
        self._ask_key = key
        self._key: str | None = None
        self._began = self._written = time.monotonic()
        self._found: Checkpoint | None = None
        self.scores: TaskRows | None = None

    def look_for_checkpoint(self) -> bool:
        """Whether there is a checkpoint of this very round; then `scores` holds what it holds."""
        try:
            self._folder.keep_only(self._round)
            found = self._folder.read_checkpoint(self._round)
            if found is None:
                return False
        except Unreadable as error:
            self._give_up(error)
            return False
        except OSError as error:
            self._warn_of("its folder cannot be used", error)
            return False
        if found.header.key != self._this_key():
            self._tell_event("unused", found.header.step, found.header.steps)
            self._remove_checkpoint()
            return False
        self._found, self.scores = found, found.header.scores
        return True

    def resume_at(self, moment: Moment) -> int:
        """Steps that are done already; the moment is as it was after them."""
        found, self._found = self._found, None
        if found is None:
            return 0
        try:
            if found.header.steps != moment.steps or found.header.step > moment.steps:
                raise Unreadable("it is of a round of another length")
            moment.restore_from(found)
        except Unreadable as error:
            self._give_up(error)
            return 0
        self._began -= found.header.seconds
        self._tell_event("resumed", found.header.step, moment.steps)
        return found.header.step

    @property
    def seconds(self) -> float:
        """Spent on the round, in this process and in those before it."""
        return time.monotonic() - self._began

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        every = self._every
        return self._interrupt.asked or (every is not None and time.monotonic() - self._written >= every)

    def save_checkpoint(self, moment: Moment, step: int, loss_sum: float) -> None:
        """Write a checkpoint after so many steps; one that cannot be written is told, and training goes on.

        Raises:
            Interrupted: the process was asked to end.
        """
        if self._every is not None:
            try:
                self._folder.write_checkpoint(
                    self._make_header(moment, step, loss_sum), _Arrays(moment.tensors_by_name())
                )
                self._tell_event("written", step, moment.steps)
            except OSError as error:
                self._warn_of("it cannot be written", error)
                self._tell_event("unwritten", step, moment.steps)
        self._written = time.monotonic()
        if self._interrupt.asked:
            raise Interrupted

    def _make_header(self, moment: Moment, step: int, loss_sum: float) -> Header:
        specs = [
            TensorSpec.model_validate({"name": name, "shape": tuple(one.shape), "dtype": _dtype_of(one)})
            for name, one in moment.tensors_by_name().items()
        ]
        return Header(
            key=self._this_key(),
            round=self._round,
            step=step,
            steps=moment.steps,
            loss_sum=loss_sum,
            seconds=self.seconds,
            scaler=moment.scaler.state_dict(),
            scores=self.scores,
            manifest=Manifest(tensors=tuple(specs)),
        )

    def _this_key(self) -> str:
        if self._key is None:
            self._key = self._ask_key()
        return self._key

    def _give_up(self, error: Unreadable) -> None:
        self._warn_of("it is set aside, and the round trained from its beginning", error)
        self._tell_event("unreadable", 0, 0)
        self._remove_checkpoint()

    def _remove_checkpoint(self) -> None:
        try:
            self._folder.clear_rounds()
        except OSError as error:  # it will be found wanting again, and no worse
            self._warn_of("it cannot be removed", error)

    def _tell_event(self, what: Any, step: int, steps: int) -> None:
        self._say(CheckpointEvent(round=self._round, what=what, step=step, steps=steps))

    @staticmethod
    def _warn_of(what: str, error: Exception) -> None:
        print(f"checkpoint: {what} ({error})", file=sys.stderr, flush=True)  # noqa: T201 (the local log)


class _Arrays(Mapping[str, NDArray[Any]]):
    """Tensors as arrays, each copied from a GPU only when it is asked for."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._tensors[name].numpy(force=True)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _dtype_of(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _copy_tensor(tensor: Tensor) -> torch.Tensor:
    return torch.from_numpy(tensor.read_all())


def _whole_state(scaler: Mapping[str, float]) -> dict[str, float | int]:
    """The scaler counts steps in integers."""
    return {
        name: int(value) if name in ("growth_interval", "_growth_tracker") else value for name, value in scaler.items()
    }
