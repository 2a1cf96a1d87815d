"""`effects(state_after, decision) -> effects`: what the shell has to carry out. Pure data; each is safe to repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from coordinator.core import announce
from coordinator.core import decisions as d
from coordinator.core.announce import Announcement
from coordinator.core.plans.buffering import discount_update, takes_more
from coordinator.core.plans.table import plan_of
from coordinator.core.records import ModelOrigin
from coordinator.core.secure.facts import arrived_in, context_of, rebuild_from, sealed_for
from coordinator.core.state import CONSENT, MASKED, ExperimentState, Kept, Model, Phase, Round, Update
from coordinator.core.steps.table import row_of
from messages import kinds
from messages.abilities import WORDS_6
from messages.envelope import event_id
from messages.experiment import Experiment
from messages.reasons import Reason
from messages.secure.context import Context
from messages.secure.figures import Figure
from messages.secure.pooled import describe_masked, list_figures
from messages.secure.shared import find_step
from messages.secure.unmasking import RebuiltSecrets
from messages.strategies import FEDAVG, AnyStrategy
from messages.tensors.codecs import CodecName
from messages.tensors.layout import Manifest


@dataclass(frozen=True, slots=True)
class Announce:
    """Publish an event to all."""

    what: Announcement


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Send a receipt."""

    party: str
    event: str
    experiment: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Send `refused`."""

    party: str
    experiment: str
    round: int
    event: str
    kind: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Initialise:
    """Build the initial model, or take the one that the experiment begins with, and write it in the codec of the rounds
    too."""

    experiment: Experiment
    origin: ModelOrigin | None = None


@dataclass(frozen=True, slots=True)
class SendModel:
    """Send all chunks of a global model on `global`."""

    experiment: str
    transfer: kinds.Transfer


@dataclass(frozen=True, slots=True)
class Listen:
    """Take chunks of updates of this round. `signed`: of these sites, those whose version signs its chunks. `oldest`:
    and of rounds from this one on, where work for them goes on."""

    experiment: str
    round: int
    manifest: Manifest
    sites: frozenset[str]
    signed: frozenset[str] = frozenset()
    oldest: int | None = None


@dataclass(frozen=True, slots=True)
class Expect:
    """An update is sealed: verify it once its chunks are here. `again`: forget them, all are sent again.

    `model`: seal of the exact model that the site received, which the update is held against. `strategy`: what is to
    bear it.
    """

    experiment: str
    round: int
    site: str
    attempt: int
    seal: str
    manifest: Manifest
    model: str
    strategy: AnyStrategy
    again: bool = False


@dataclass(frozen=True, slots=True)
class Forget:
    """Take no more chunks for this experiment's round."""

    experiment: str


@dataclass(frozen=True, slots=True)
class Mail:
    """Send one site what its peers have sealed for it. `attempt`: tells this mail from all others of its round."""

    site: str
    experiment: str
    round: int
    attempt: str
    body: kinds.SecureMail


@dataclass(frozen=True, slots=True)
class SecureSum:
    """What the masks of a round's updates are taken off with.

    Attributes:
        context: what they were made under.
        sites: whose updates are in the sum.
        secrets: what the sites' reveals gave.
        experiment: says how the pooled figures read.
        figures: which there are, in their order.
        norm_max: most that the mean difference can be long, in the L2 norm; None: no bound.
        step: `messages.secure.shared.find_step`, where only the sum has its whole noise; else None.
    """

    context: Context
    sites: tuple[str, ...]
    secrets: RebuiltSecrets
    experiment: Experiment
    figures: tuple[Figure, ...]
    norm_max: float | None = None
    step: float | None = None


@dataclass(frozen=True, slots=True)
class Contribution:
    """One site's update, as it goes into what is made of a round.

    Attributes:
        seal: names its blob.
        cases: training cases that it used.
        chunk_bytes: of its transfer: a site chooses its own chunk size, and the seal depends on it.
        norm: as it was measured when the update came; None: it was not.
        steps: optimiser steps that it says it took, where the strategy counts them.
        model: seal of the exact model that it began with, where that is an earlier round's.
        discount: what its share is multiplied by, for its staleness.
    """

    site: str
    seal: str
    cases: int
    chunk_bytes: int
    norm: float | None = None
    steps: int = 1
    model: str | None = None
    discount: float = 1.0


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Make the next global model.

    Attributes:
        manifest: of the model, exact.
        updates: in the order of the sites' names.
        codec: of the updates.
        model: seal of the round's own exact model.
        master: the same, where the aggregate is made from it.
        wire: the codec in which the next round sends what is made, where that is not exact.
        strategy: how updates make a model.
        memory: seal of what the strategy kept after the round before, where there is such a thing.
        apart: where each update makes a model of its own: the making of each, with its one update.
        parties: sites that took part in the round; None: those whose updates are here.
        buffered: whether the updates may have begun with different models, and move the round's own one.
        secure: where they are masked, how they are unmasked.
    """

    experiment: str
    round: int
    manifest: Manifest
    updates: tuple[Contribution, ...]
    weight_by: str
    weight_cap: float
    model: str
    codec: CodecName = "float32"
    master: str | None = None
    wire: CodecName | None = None
    strategy: AnyStrategy = FEDAVG
    memory: str | None = None
    apart: tuple[Aggregate, ...] = ()
    parties: int | None = None
    buffered: bool = False
    secure: SecureSum | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """Seals of the models that it is made from, the round's own first; none where it is made of updates alone."""
        if self.master is None:
            return ()
        return tuple(dict.fromkeys((self.master, *(one.model for one in self.updates if one.model is not None))))

    def manifest_of(self, update: Contribution) -> Manifest:
        """The manifest under which an update was sealed."""
        if self.secure is not None:
            masked = describe_masked(self.manifest, len(self.secure.figures))
            return masked.model_copy(update={"chunk_bytes": update.chunk_bytes})
        return self.manifest.in_codec(self.codec).model_copy(update={"chunk_bytes": update.chunk_bytes})


@dataclass(frozen=True, slots=True)
class PublishModel:
    """Send the yielded model to `models`, then model-ready."""

    experiment: str
    body: kinds.ExperimentComplete


@dataclass(frozen=True, slots=True)
class Prune:
    """Keep these blobs of the experiment, delete its others."""

    experiment: str
    keep: frozenset[str]


Effect = (
    Announce
    | Acknowledge
    | Tell
    | Initialise
    | SendModel
    | Listen
    | Expect
    | Forget
    | Mail
    | Aggregate
    | PublishModel
    | Prune
)


def effects(state: ExperimentState | None, decision: d.AnyDecision) -> tuple[Effect, ...]:
    """What follows from a decision, given the state after it."""
    if isinstance(decision, d.StartRefused):
        refused = kinds.ExperimentRefused(reason=decision.reason, mistakes=decision.mistakes, event=decision.event)
        return (Announce(Announcement("experiment-refused", decision.experiment, refused, attempt=decision.event)),)
    experiment = state.id if state is not None else "none"
    if isinstance(decision, d.Settled):
        return (Acknowledge(decision.sender, decision.event, experiment),)
    if isinstance(decision, d.Refused):
        by_site = state is not None and decision.sender in state.members
        told = state.tellable_reason(decision.reason, decision.sender) if state and by_site else decision.reason
        return (Tell(decision.sender, experiment, decision.round, decision.event, decision.kind, told),)
    made = _EFFECTS.get(type(decision))
    return () if state is None or made is None else made(state, decision)


def _open_step(state: ExperimentState, x: d.RoundStarted) -> tuple[Effect, ...]:
    # A masked update that comes once a sum is agreed on is neither taken nor stored.
    before = (Forget(state.id),) if x.step == CONSENT else _listen_for_updates(state)
    return (*before, Announce(announce.round_opened(state)), *_send_models(state), *list_mail(state))


def list_mail(state: ExperimentState, site: str | None = None) -> tuple[Mail, ...]:
    """What peers have sealed for each site, or for one, as long as sites may need it to mask."""
    round_ = state.round
    if round_ is None or round_.role != MASKED:
        return ()
    return tuple(
        Mail(
            name,
            state.id,
            round_.number,
            f"{round_.tried}.{state.experiment.number_of(name)}",
            kinds.SecureMail(tried=round_.tried, shares=sealed_for(round_, name)),
        )
        for name in sorted(round_.weighed)
        if site in (None, name)
    )


def _initialise(state: ExperimentState) -> tuple[Effect, ...]:
    """The initial model, as soon as its net is known."""
    return () if state.awaits_statistics else (Initialise(state.experiment, state.origin),)


def _yield_model(state: ExperimentState, x: d.Completed) -> tuple[Effect, ...]:
    publish = PublishModel(state.id, announce.complete_body(state))
    return (Forget(state.id), Announce(announce.announce_ended(state)), publish, Prune(state.id, needed_blobs(state)))


def _go_on_configured(state: ExperimentState, x: d.StatisticsPooled) -> tuple[Effect, ...]:
    """The net is built now that it is known; an experiment that asked for statistics alone has ended."""
    if state.ended is not None:
        return (Forget(state.id), Announce(announce.announce_ended(state)))
    return (Announce(announce.announce_statistics(state)), Initialise(state.experiment, state.origin))


def _end_experiment(state: ExperimentState, x: d.Failed | d.Aborted) -> tuple[Effect, ...]:
    return (Forget(state.id), Announce(announce.announce_ended(state)))


def _tell_excluded(state: ExperimentState, x: d.Excluded) -> tuple[Effect, ...]:
    """To all, where all can read it; else the site alone, in older words, as a refusal of what it joined with."""
    listen = () if state.round is None or state.round.closed_at is not None else _listen_for_updates(state)
    if announce.may_tell_excluded(state):
        return (*listen, Announce(announce.announce_excluded(state, x.site)))
    joined = event_id(state.id, 0, "joined", x.site)
    told = state.tellable_reason(Reason.EXCLUDED, x.site)
    return (*listen, Tell(x.site, state.id, 0, joined, "joined", told))


def _announce_result(state: ExperimentState) -> tuple[Effect, ...]:
    """The last round that has made a model, or the one behind it that ended without a sum."""
    if (void := state.void) is not None:
        told = kinds.RoundVoid(
            reason=void.reason, left_out=dict(void.left_out), model_digest=void.digest, seconds=void.seconds
        )
        return (Announce(Announcement("round-void", state.id, told, void.number)),)
    made = state.last_result
    if made is None:
        return ()
    body = kinds.RoundComplete(
        contributors=dict(made.contributors),
        left_out={site: state.tellable_reason(reason) for site, reason in made.left_out.items()},
        model_digest=made.digest,
        validation=made.validation,
        seconds=made.seconds,
        staleness=dict(made.staleness) or None,
        pooled=None if made.pooled is None else kinds.PooledFigures(cases=made.pooled.cases, loss=made.pooled.loss),
    )
    return (Announce(Announcement("round-complete", state.id, body, made.number)),)


def _listen_for_updates(state: ExperimentState) -> tuple[Effect, ...]:
    if state.round is None or state.update_manifest is None or not row_of(state.round).takes_updates:
        return ()
    round_ = state.round
    sites = frozenset(round_.parts)
    signed = frozenset(site for site in sites if WORDS_6 in state.members[site].abilities)
    oldest = min((one.base for one in round_.parts.values() if one.base is not None), default=None)
    return (Listen(state.id, round_.number, state.update_manifest, sites, signed, oldest),)


def _send_models(state: ExperimentState) -> tuple[Effect, ...]:
    """The open step's models on `global`."""
    if state.round is None or state.manifest is None:
        return ()
    return tuple(SendModel(state.id, one) for one in row_of(state.round).transfers(state, state.round))


def _expect_update(state: ExperimentState, site: str, *, again: bool = False) -> tuple[Effect, ...]:
    if state.round is None or state.update_manifest is None:
        return ()
    update = state.round.parts[site].update
    if update is None:
        return ()
    manifest = state.update_manifest.model_copy(update={"chunk_bytes": update.chunk_bytes})
    number, strategy = state.round.base_of(site), state.experiment.plan.strategy
    model = "" if state.is_masked else _received_model(state, state.round, site).seal
    return (Expect(state.id, number, site, update.attempt, update.seal, manifest, model, strategy, again),)


def _received_model(state: ExperimentState, round_: Round, site: str) -> Model:
    """What a site received in a round."""
    plan = plan_of(state)
    base = round_.parts[site].base
    return plan.find_own(state, round_, site) or state.models[plan.find_shared(round_) if base is None else base]


def _aggregate_round(state: ExperimentState) -> tuple[Effect, ...]:
    if state.manifest is None or state.round is None or state.round.closed_at is None or state.is_between:
        return ()
    taken = tuple(
        _contribute(state, state.round, site, update)
        for site in plan_of(state).choose_contributors(state, state.round)
        if (update := state.round.trained[site].update) is not None
    )
    plan, codec = state.experiment.plan, state.codec
    # Only a training round sends in a codec: the model that the last one makes is evaluated, and published exactly.
    sent_on = not plan_of(state).is_trained(state.experiment, state.round.number) and codec.model != "float32"
    shared = state.models[plan_of(state).find_shared(state.round)]
    aggregate = Aggregate(
        experiment=state.id,
        round=state.round.number,
        manifest=state.manifest,
        updates=taken,
        weight_by=plan.weight_by,
        weight_cap=plan.weight_cap
        if state.bounds.weight_cap is None
        else min(plan.weight_cap, state.bounds.weight_cap),
        model=shared.seal,
        codec=codec.name,
        master=shared.seal if state.makes_from_model else None,
        wire=codec.model if sent_on else None,
        strategy=plan.strategy,
        memory=shared.memory,
        parties=len(state.round.cases),
        buffered=plan.keeps_work,
        secure=_unmask_round(state, state.round) if state.is_masked else None,
    )
    return (replace(aggregate, apart=_make_apart(state, state.round, aggregate)),)


def _unmask_round(state: ExperimentState, round_: Round) -> SecureSum:
    dp = state.experiment.privacy.dp
    return SecureSum(
        context=context_of(state, round_),
        sites=arrived_in(round_),
        secrets=rebuild_from(state, round_),
        experiment=state.experiment,
        figures=list_figures(state.experiment, evaluate=round_.evaluate),
        norm_max=state.experiment.privacy.update_norm_max,
        step=find_step(state.experiment, dp, round_.number) if dp is not None and dp.is_shared else None,
    )


def _contribute(state: ExperimentState, round_: Round, site: str, update: Update) -> Contribution:
    part, plan = round_.trained[site], state.experiment.plan
    return Contribution(
        site,
        update.seal,
        update.cases_used,
        update.chunk_bytes,
        part.norm,
        update.steps or 1,
        model=None if part.base is None else state.models[part.base].seal,
        discount=discount_update(plan.staleness, round_.number - round_.base_of(site)) if plan.keeps_work else 1.0,
    )


def _make_apart(state: ExperimentState, round_: Round, all_: Aggregate) -> tuple[Aggregate, ...]:
    """The making of each site's own model, where the plan has it so."""
    if state.experiment.plan.shares_model:
        return ()
    received = {one.site: _received_model(state, round_, one.site).seal for one in all_.updates}
    return tuple(
        replace(all_, updates=(one,), model=seal, master=None if all_.master is None else seal)
        for one in all_.updates
        for seal in (received[one.site],)
    )


_EFFECTS: dict[type[d.Decision], Callable[[ExperimentState, Any], tuple[Effect, ...]]] = {
    d.Accepted: lambda state, x: (Announce(announce.announce_accepted(state)),),
    d.Excluded: _tell_excluded,
    d.RecruitingClosed: lambda state, x: _initialise(state),
    d.StatisticsPooled: _go_on_configured,
    d.RoundStarted: _open_step,
    d.AnnouncedAgain: lambda state, x: (Announce(announce.round_opened(state)),),
    d.UpdateAnnounced: lambda state, x: _expect_update(state, x.site),
    d.TransferAgain: lambda state, x: _expect_update(state, x.site, again=True),
    d.RoundClosed: lambda state, x: (*(() if takes_more(state) else (Forget(state.id),)), *_aggregate_round(state)),
    d.RoundVoided: lambda state, x: (
        Forget(state.id),
        *_announce_result(state),
        Prune(state.id, needed_blobs(state)),
    ),
    d.RoundCompleted: lambda state, x: (*_announce_result(state), Prune(state.id, needed_blobs(state))),
    d.Completed: _yield_model,
    d.Failed: _end_experiment,
    d.Aborted: _end_experiment,
    d.Paused: lambda state, x: (Announce(announce.announce_paused(state)),),
    d.Resumed: lambda state, x: (Announce(announce.announce_resumed(state)), *_unfinished_effects(state)),
}
"""What each decision asks for, given the state after it; the others ask for nothing."""


def pending_effects(state: ExperimentState) -> tuple[Effect, ...]:
    """What may be unfinished after a restart: done again. Models are only sent where they are asked for."""
    return (*_announce_result(state), *_unfinished_effects(state))


def _unfinished_effects(state: ExperimentState) -> tuple[Effect, ...]:
    """What the phase that an experiment is in asks for, after a restart or a pause."""
    if state.ended is not None:
        done: tuple[Effect, ...] = (Announce(announce.announce_ended(state)),)
        if state.phase is Phase.COMPLETE and state.outcome is not None:
            done += (PublishModel(state.id, announce.complete_body(state)), Prune(state.id, needed_blobs(state)))
        return done
    todo: tuple[Effect, ...] = tuple(Announce(what) for what in announce.current_announcements(state))
    if state.stage is Phase.INITIALISING and not state.models:
        return (*todo, *_initialise(state))
    if state.stage is Phase.AGGREGATING:
        todo = (*todo, *_aggregate_round(state))
    if state.round is None or not takes_more(state):
        return todo
    waiting = [
        effect
        for site, part in sorted(state.round.parts.items())
        if part.update is not None and not part.stored
        for effect in _expect_update(state, site)
    ]
    return (*todo, *_listen_for_updates(state), *waiting, *list_mail(state))


def needed_blobs(state: ExperimentState) -> frozenset[str]:
    """Seals of the blobs that must stay: models that may still be sent, updates to aggregate or kept for replay.

    Kept updates stay together with all that the round's aggregate is made from: the model that it received, where that
    counts, and what the strategy kept from the rounds before.
    """
    seals = {one.seal for one in state.kept}
    rounds = {state.completed + 1, state.selected + 1 if state.selected is not None else state.completed + 1}
    if state.outcome is not None:
        rounds.add(state.outcome.rounds + 1)
    replayed = {one.round for one in state.kept}
    if state.keep_updates is None:
        rounds |= _untouched_rounds(state.kept)
    if state.makes_from_model:
        rounds |= replayed | {one.base for one in state.kept}
    at_work = set() if state.round is None else {state.round.base_of(site) for site in state.round.parts}
    rounds |= at_work
    seals |= {state.models[number].seal for number in rounds if number in state.models}
    begun = [state.models[number] for number in {state.completed + 1} | replayed if number in state.models]
    seals |= {model.memory for model in begun if model.memory is not None}
    sent = [*(state.models.get(number) for number in {state.completed + 1} | at_work), *state.own_models.values()]
    seals |= {one.wire for one in sent if one is not None and one.wire is not None}
    seals |= _own_blobs(state, replayed)
    if state.round is not None:
        for parts in (state.round.parts, *state.round.earlier.values()):
            seals |= {part.update.seal for part in parts.values() if part.update is not None}
    return frozenset(seals)


def _untouched_rounds(kept: Iterable[Kept]) -> set[int]:
    """Rounds from the second on that were the first of some site: a rerun without it begins with the model that such a
    round received (`konsil experiment rerun`)."""
    first: dict[str, int] = {}
    for one in kept:
        first.setdefault(one.site, one.round)
    return set(first.values()) - {1}


def _own_blobs(state: ExperimentState, replayed: set[int]) -> set[str]:
    """Seals of the sites' own models, and of the initial one that they began with: who joins late begins with it."""
    if state.experiment.plan.shares_model:
        return set()
    rounds = {state.completed + 1} | (replayed if state.makes_from_model else set())
    seals = {one.seal for number in rounds for one in state.own.get(number, {}).values()}
    initial = state.models.get(1)
    return seals if initial is None else seals | {initial.seal} | ({initial.wire} if initial.wire else set())
