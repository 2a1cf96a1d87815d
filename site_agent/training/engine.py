"""One round of local training: the loop itself, and nothing that knows of sockets, files or events."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from messages.experiment import Experiment
from messages.ground.errors import WorkFailed
from messages.reasons import Reason
from site_agent.datasets.opening import show_name
from site_agent.training import optimise
from site_agent.training.averaging import WeightAverage
from site_agent.training.cases.cache import CachedCase
from site_agent.training.cases.sampling import Batch, Sampler
from site_agent.training.compiling import Forward
from site_agent.training.private import Patients, PrivateSteps, has_finite_weights
from site_agent.training.resuming.resume import Keeper, Moment
from site_agent.training.seeds import derive_seed
from site_agent.training.strategies.base import PLAIN, LocalRule
from site_agent.training.tasks.base import Learner, cast_numbers, loss_of_outputs, weigh_batches
from site_agent.training.together.team import Team

REPORT_SECONDS = 0.4
"""Progress at most this often: reading the loss makes a GPU wait."""

Report = Callable[[int, int, int, float | None, float | None], None]
"""(steps done, steps, epoch from 1, mean loss so far, seconds left)."""


AddGradients = Callable[[Any, torch.amp.GradScaler], torch.Tensor]
"""Adds a step's gradients, scaled, and gives its loss; of what was drawn for the step."""


class RoundLength(Protocol):
    """How long a round is, in optimiser steps."""

    @property
    def steps(self) -> int: ...
    @property
    def steps_per_epoch(self) -> int: ...


class NotANumber(WorkFailed):
    """The loss became NaN or infinite; `messages.reasons.Reason.NAN_LOSS`."""

    reason = Reason.NAN_LOSS


class NotFiniteCase(WorkFailed):
    """A case that is trained on holds NaN or infinity; `messages.reasons.Reason.NOT_FINITE`."""

    reason = Reason.NOT_FINITE


@contextmanager
def blame_nan_loss(cases: Sequence[CachedCase]) -> Iterator[None]:
    """Around training: where the loss is no number, say whether these cases' data or the training is to blame.

    Raises:
        NotFiniteCase: the data: a case is not finite. NotANumber: the training: every case is.
    """
    try:
        yield
    except NotANumber as error:
        for case in cases:
            if not np.isfinite(case.image).all():
                advice = "The file in the cache is damaged: remove the experiment's folder under STATE/cache"
                raise NotFiniteCase("holds NaN or infinity", where=show_name(case.name), advice=advice) from None
        what = f"{error.what}; every image is finite, so the training is to blame"
        raise NotANumber(what, advice=error.advice) from None


@dataclass(frozen=True)
class RoundResult:
    """What a round of training came to; the weights are in the net.

    `words`: under `noise = "shared"` what travels in their place, by name; the net is as it was.
    """

    steps: int
    epochs: float
    loss: float
    words: Mapping[str, NDArray[np.int32]] | None = None


def train_round(
    net: torch.nn.Module,
    cases: Sequence[CachedCase],
    experiment: Experiment,
    learner: Learner,
    *,
    round_number: int,
    site: str,
    device: torch.device,
    kept: optimise.KeptState | None = None,
    report: Report | None = None,
    keeper: Keeper | None = None,
    rule: LocalRule = PLAIN,
    team: Team | None = None,
    forward: Forward | None = None,
    patients: Patients | None = None,
) -> RoundResult:
    """Train `net` in place on `cases` for one round.

    The weights that come out are a function of the weights that go in, the cases, the experiment, the round and the
    site (and of device type, library versions and thread count).

    Args:
        kept: where the optimiser's state lives between rounds, for `optimizer.reset = false`.
        keeper: writes checkpoints, and resumes from one.
        rule: what the strategy asks; its round has begun.
        team: processes that take a part of each batch.
        forward: the net's pass in another form (`compiling`); None: the net itself.
        patients: whom it trains on under the experiment's `[privacy.dp]`; None: without noise.

    Raises:
        NotANumber: the loss is not finite, or under differential privacy a weight.
        Interrupted: the process was asked to end; `keeper` holds what was done.
        torch.cuda.OutOfMemoryError, MemoryError: as they come; `failures.code_of` names them.
    """
    settings = experiment.training
    number = round_number + experiment.rounds_before
    seed = seed_of(experiment, round_number, site)
    rate = settings.optimizer.lr * settings.schedule.factor(number, experiment.rounds.count + experiment.rounds_before)
    optimizer = optimise.make_optimizer(settings.optimizer, net.parameters(), rate)
    if kept is not None:
        kept.restore_state(optimizer, round_number)
        for group in optimizer.param_groups:
            group["lr"] = rate
    asked, dp = net if forward is None else forward, experiment.privacy.dp
    dp = None if dp is None or dp.by_site else dp  # then it is the whole update that gets noise, in the end
    if (dp is None) is not (patients is None):  # nothing is trained without the noise that the file asks for
        raise ValueError("[privacy.dp] and patients go together")
    pace: RoundLength
    draw: Callable[[int], Iterator[Any]]
    add: AddGradients
    if dp is not None and patients is not None:
        pace = private = PrivateSteps(net, asked, learner, cases, experiment, dp, patients, device)
        if dp.is_shared:
            net.train()
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                return RoundResult(pace.steps, pace.steps / pace.steps_per_epoch, 0.0, private.sum_round())
        draw, add = private.draw_steps, private.add_gradients
    else:
        pace = sampler = make_sampler(cases, experiment, round_number, site)
        draw = partial(draw_steps, sampler, device)
        add = partial(_add_gradients, asked, learner, settings.precision, rule)
    if team is not None:
        add = partial(team.add_gradients, net, learner)
    rule.set_pace(settings, rate, pace.steps)
    begin = None if team is None else partial(team.begin_round, round_number)
    loss = _run_steps(net, optimizer, pace, draw, experiment, device, seed, report, keeper, rule, learner, add, begin)
    if patients is not None and not has_finite_weights(net):
        raise NotANumber("a weight is not a finite number any more", advice="Lower the learning rate")
    if kept is not None:
        kept.keep_state(optimizer, round_number)
    return RoundResult(pace.steps, pace.steps / pace.steps_per_epoch, loss)


def _run_steps(
    net: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    pace: RoundLength,
    draw: Callable[[int], Iterator[Any]],
    experiment: Experiment,
    device: torch.device,
    seed: int,
    report: Report | None,
    keeper: Keeper | None,
    rule: LocalRule,
    learner: Learner,
    add_gradients: AddGradients,
    begin: Callable[[int], None] | None,
) -> float:
    settings = experiment.training
    amp = settings.precision == "amp" and device.type == "cuda"
    scaler = torch.amp.GradScaler(device.type, enabled=amp)
    parameters = list(net.parameters())
    total = torch.zeros((), dtype=torch.float64, device=device)
    average = WeightAverage(net, settings.ema)
    moment = Moment(net, optimizer, scaler, total, device, pace.steps, rule, average.state())
    net.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # dropout
        first = 0 if keeper is None else keeper.resume_at(moment)
        began = reported = time.monotonic()
        if first and report is not None:
            report(
                first,
                pace.steps,
                (first - 1) // pace.steps_per_epoch + 1,
                _require_finite(total.item() / first),
                None,
            )
        if begin is not None:
            begin(first)
        for step, batches in enumerate(draw(first), first):
            optimizer.zero_grad(set_to_none=True)
            loss = add_gradients(batches, scaler)
            if rule is not PLAIN or settings.clip_norm is not None:
                scaler.unscale_(optimizer)
            rule.adjust_gradients()
            if settings.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            rule.after_step(batches, learner)
            average.take_step()
            total += loss
            now = time.monotonic()
            if report is not None and now - reported >= REPORT_SECONDS:
                reported = now
                done = step + 1
                mean = _require_finite(total.item() / done)
                left = (now - began) / (done - first) * (pace.steps - done)
                report(done, pace.steps, step // pace.steps_per_epoch + 1, mean, left)
            if keeper is not None and keeper.is_due():
                _require_finite(total.item())  # what is spoilt is not kept
                keeper.save_checkpoint(moment, step + 1, total.item())
    average.leave_mean()
    return _require_finite(total.item() / max(pace.steps, 1))


def _add_gradients(
    forward: Forward,
    learner: Learner,
    precision: str,
    rule: LocalRule,
    batches: Sequence[Batch],
    scaler: torch.amp.GradScaler,
) -> torch.Tensor:
    """The gradients of a step, in the net that `forward` asks; its loss, the task's alone, detached."""
    device = batches[0][0].device
    loss = torch.zeros((), device=device)
    for (images, labels), share in weigh_batches(batches):
        with cast_numbers(precision, device):
            outputs = forward(images)
            extra = rule.extra_loss(images)
        part = loss_of_outputs(learner, outputs, labels) * share
        scaler.scale(part if extra is None else part + extra * share).backward()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        loss += part.detach()
    return loss


def seed_of(experiment: Experiment, round_number: int, site: str) -> int:
    """What every choice of a round at a site derives from."""
    return derive_seed(experiment.seed, "round", round_number + experiment.rounds_before, "site", site)


def make_sampler(cases: Sequence[CachedCase], experiment: Experiment, round_number: int, site: str) -> Sampler:
    """The batches of a round at a site."""
    return Sampler(cases, experiment.training, experiment.augmentation, seed_of(experiment, round_number, site))


def draw_steps(sampler: Sampler, device: torch.device, first: int) -> Iterator[list[Batch]]:
    """The round's steps from `first` on, on the device; on a GPU the next ones are cut while this one trains."""
    if device.type == "cpu":
        for step in range(first, sampler.steps):
            yield sampler.draw_step(step)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="sampler") as pool:
        ahead = [pool.submit(sampler.draw_step, step) for step in range(first, min(first + 2, sampler.steps))]
        for step in range(first, sampler.steps):
            batches = ahead.pop(0).result()
            if step + 2 < sampler.steps:
                ahead.append(pool.submit(sampler.draw_step, step + 2))
            yield [
                (
                    images.pin_memory().to(device, non_blocking=True),
                    labels.pin_memory().to(device, non_blocking=True),
                )
                for images, labels in batches
            ]


def _require_finite(loss: float) -> float:
    if not math.isfinite(loss):
        advice = "Lower the learning rate, or set training.clip_norm"
        raise NotANumber("the loss is not a finite number any more", advice=advice)
    return loss
