"""What the training process holds between rounds: the data, the net and the device; one method a request.

`deploy.baseline` uses the same object without a socket, so that a baseline trains with the very same code.
"""

from __future__ import annotations

import copy
import resource
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch

from messages.experiment import Experiment
from messages.ground.errors import WorkFailed
from messages.secure.section import DifferentialPrivacy
from messages.tasks.base import TaskRows
from messages.tensors.codecs import Tensor
from messages.tensors.layout import Manifest
from messages.tensors.travelling import is_beside
from nets.build import build_for
from nets.combined import CombinedNet
from nets.registry import spec_of
from nets.weights import arrays_of, load_weights, manifest
from site_agent.privacy.keys import RoundKeys, derive_keys
from site_agent.training.cases.reading import read_cases
from site_agent.training.cases.shelf import PreprocessedCases
from site_agent.training.compiling import Forward, can_compile, compile_net
from site_agent.training.engine import blame_nan_loss, train_round
from site_agent.training.files import kept_folder, open_model, strategy_folder, write_update
from site_agent.training.machine import choose_device, describe_machine
from site_agent.training.optimise import KeptState
from site_agent.training.private import Patients, noise_update, require_private_net
from site_agent.training.progress import ProgressTeller, Send, say_line
from site_agent.training.protocol import (
    Evaluate,
    Evaluated,
    Phase,
    Prepare,
    Split,
    Train,
    Trained,
    Written,
)
from site_agent.training.resuming.checkpoint import Checkpoints
from site_agent.training.resuming.interrupt import Interrupt
from site_agent.training.resuming.kept import KeptTensors
from site_agent.training.resuming.resume import Keeper, key_of
from site_agent.training.strategies.table import rule_of
from site_agent.training.tasks.registry import learner_for
from site_agent.training.together.gradients import find_obstacle
from site_agent.training.together.team import SharedCase, Team, name_bits, share_limits


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
        self._teller = ProgressTeller(send)
        self._interrupt = interrupt or Interrupt()
        self.learner = learner_for(self.experiment)
        self._set_up_net(request)
        self.cache_folder = Path(request.cache)
        self._kept = KeptTensors(strategy_folder(self.cache_folder, self.experiment.id))
        self._checkpoints = Checkpoints(self.cache_folder)
        shelf = PreprocessedCases(request, self.experiment)
        read = read_cases(request, self.experiment, shelf, self._teller)
        self.splits = read.splits
        self.learner.look_at_cases(self.splits["train"])
        self._groups = read.patients if self.experiment.privacy.dp is not None else ()
        self._shared_cases = [
            SharedCase(key=key, name=case.name, truth=case.truth.tolist())
            for key, case in zip(read.keys["train"], self.splits["train"], strict=True)
        ]
        compiled = {} if self._forward is None else {"compile": "inductor"}
        machine = describe_machine(self.device, {**name_bits(self._request.processes), **compiled})
        self.prepared = read.join_as(machine).model_copy(update={"patients": len(self._groups)})

    def _set_up_net(self, request: Prepare) -> None:
        strict = self.experiment.training.dims in spec_of(self.experiment).deterministic_on_cuda
        self.device = choose_device(request.gpus, request.threads, strict=strict)
        self._net = build_for(self.experiment)
        if self.experiment.privacy.dp is not None:
            require_private_net(self._net)
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
        if self.experiment.privacy.dp is not None:
            obstacle = "under differential privacy one process adds up each step's patients"
        if size > 1 and obstacle is not None:
            say_line(f"trained by one process instead of {size}: {obstacle}")
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
        identify = cache(
            lambda: key_of(request, experiment, self.site, self.prepared, self._kept.digest_before(request.round))
        )
        keeper = Keeper(
            self._checkpoints,
            request.round,
            identify,
            request.checkpoint_seconds,
            self._interrupt,
            self._teller.send,
        )
        resumes = keeper.look_for_checkpoint()
        received, before = self._load_model(request.model, request.manifest, request.round)
        if request.round > 1 and not before and (self._own or self._rule.remembers):
            say_line(f"{experiment.plan.strategy.name}: nothing is kept from an earlier round: it begins anew")
        if request.evaluate and not resumes:
            keeper.scores = self.score_split("validation", request.round, "validating")
        kept = None
        if not experiment.training.optimizer.reset:
            kept = KeptState(kept_folder(self.cache_folder, experiment.id))
        cases = self.splits["train"]

        private = experiment.privacy.dp is not None

        def report(done: int, total: int, epoch: int, loss: float | None, left: float | None) -> None:
            loss = None if private else loss  # it is withheld
            self._teller.tell_progress(
                request.round, "training", done, total,
                epoch=epoch, epochs=experiment.training.epochs or 0, loss=loss, eta_seconds=left,
            )  # fmt: skip

        def written(first: int, digests: list[bytes]) -> None:
            self._teller.send(
                Written(
                    round=request.round, attempt=request.attempt, cases=len(cases), first=first, digests=digests
                )
            )  # fmt: skip

        beside = {name: tensor.read_all() for name, tensor in received.items() if is_beside(name)}
        self._rule.begin_round(self._net, beside, before)
        self._teller.begin_phase()
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
                    patients=self._list_patients(request, identify),
                )
            arrays, leaves = arrays_of(self._net), self._rule.end_round(result.steps)
            own = {name: torch.from_numpy(arrays[name]) for name in self._own}
            if own or leaves.kept:
                self._kept.write_round({**leaves.kept, **own}, request.round)
            # The checkpoint stays until the agent frees the round: a kill before the update is stored costs little.
            update = self._described_manifest(request.update)
            words = result.words
            if self._by_site is not None:
                words = noise_update(arrays, received, self._by_site, experiment, self._derive_keys(identify))
            if words is not None:  # whole numbers, in the place of weights of as many bytes
                arrays = {name: one.view(np.float32) for name, one in words.items()}
            write_update(request.output, {**arrays, **leaves.beside}, update, received, on_chunks=written)
        return Trained(
            round=request.round,
            attempt=request.attempt,
            cases=len(cases),
            steps=result.steps,
            epochs=result.epochs,
            loss=0.0 if private else result.loss,
            seconds=keeper.seconds,
            evaluation=keeper.scores,
        )

    def _list_patients(self, request: Train, identify: Callable[[], str]) -> Patients | None:
        """Whom a round trains on under differential privacy; None: the experiment asks for none."""
        if self.experiment.privacy.dp is None or self._by_site is not None:
            return None
        if request.patients < 1:
            raise WorkFailed("the site has not announced how many patients it trains on", where="patients")
        return Patients(self._groups, request.patients, self._derive_keys(identify))

    def _derive_keys(self, identify: Callable[[], str]) -> RoundKeys:
        return derive_keys(self._request.secret, identify(), self._groups)

    @property
    def _by_site(self) -> DifferentialPrivacy | None:
        """What the whole site is protected by, if it is."""
        dp = self.experiment.privacy.dp
        return dp if dp is not None and dp.by_site else None

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
            report=lambda done, total: self._teller.tell_progress(round_number, phase, done, total),
        )

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
