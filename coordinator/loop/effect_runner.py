"""Carries out what was decided: each effect by the part whose work it is; what raises is set aside."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from coordinator.core import effects as e
from coordinator.core import inputs as i
from coordinator.core.announce import STATISTICS_ALONE, Announcement
from coordinator.core.steps.table import STEPS
from coordinator.record.heads import END, HEAD, LogHeads
from coordinator.record.journal import Journal, JournalDiskFull
from coordinator.wire.announcer import Announcer
from coordinator.wire.incoming import ChunkReceiver
from coordinator.wire.outgoing import Models, Shipment
from coordinator.work.pool import Work
from messages import kinds
from messages.ground.clock import Queue
from messages.ground.naming import NO_EXPERIMENT

log = structlog.get_logger("coordinator")
ENDINGS = frozenset({"experiment-complete", "experiment-failed", "experiment-aborted"})


def make_shipment(
    kind: str,
    experiment: str,
    sent: kinds.Transfer,
    chunks: tuple[int, ...] | None = None,
    done: Callable[[], None] | None = None,
) -> Shipment:
    """A model, or chunks of it, as it is sent."""
    return Shipment(kind, experiment, sent.round, sent.seal, sent.manifest, chunks, done, sent.attempt)


class EffectRunner:
    """Effects → work. Main loop's thread.

    Args:
        inputs: the main loop's queue: takes a closure for what comes after long work.
        heads: of the journal, where the coordinator has a key.
        set_aside: called with experiment, reason and description of an effect that raised: neither the next message
            nor the next start trips on it.
    """

    def __init__(
        self,
        journal: Journal,
        say: Announcer,
        models: Models,
        receiver: ChunkReceiver,
        work: Work,
        inputs: Queue[Any],
        set_aside: Callable[[str, str, Any], None],
        heads: LogHeads | None = None,
    ) -> None:
        self._journal, self._say, self._models = journal, say, models
        self._receiver, self._work = receiver, work
        self._inputs, self._set_aside, self._heads = inputs, set_aside, heads
        self._table: dict[type[e.Effect], Callable[[Any], object]] = {
            e.Announce: self._announce,
            e.Acknowledge: lambda effect: say.send_receipt(effect.party, effect.event, effect.experiment),
            e.Tell: say.tell_refusal,
            e.Initialise: work.make_initial_model,
            e.SendModel: self._send_model,
            e.Listen: receiver.put_item,
            e.Expect: receiver.put_item,
            e.Forget: receiver.put_item,
            e.Mail: say.send_mail,
            e.Aggregate: work.aggregate_updates,
            e.PublishModel: self._publish_model,
            e.Prune: work.prune_blobs,
        }

    def carry_out(self, effect: e.Effect) -> None:
        """Do what was decided.

        Raises:
            DiskFull: the journal cannot be written.
        """
        try:
            self._do_effect(effect)
        except JournalDiskFull:
            raise
        except Exception as error:
            name = getattr(effect, "experiment", NO_EXPERIMENT)
            log.exception("an effect is set aside", experiment=name, effect=type(effect).__name__)
            self._set_aside(str(name), type(error).__name__, {"effect": type(effect).__name__})
            self._tell_undone(effect)

    def _tell_undone(self, effect: e.Effect) -> None:
        """Work that never began ends as work that failed; what is only said is said again at the next occasion."""
        now = self._work.now()
        if isinstance(effect, e.Initialise):
            self._inputs.put((effect.experiment.id, i.InitialisationFailed(time=now)))
        elif isinstance(effect, e.Aggregate):
            self._inputs.put((effect.experiment, i.AggregationFailed(time=now, round=effect.round)))

    def _do_effect(self, effect: e.Effect) -> None:
        self._table[type(effect)](effect)

    def _announce(self, effect: e.Announce) -> None:
        """Say it to all; a head of the log goes before what opens a step or ends an experiment."""
        what = effect.what
        opens = any(row.opens == what.kind for row in STEPS.values())
        ends = what.kind in ENDINGS or (what.kind == "statistics-pooled" and what.attempt == STATISTICS_ALONE)
        if self._heads is not None and (opens or ends):
            self._publish_head(self._heads, what.experiment, what.round, int(what.attempt) if opens else END)
        self._say.announce_to_all(what)

    def _publish_head(self, heads: LogHeads, experiment: str, round_: int, opening: int) -> None:
        if not heads.is_due(experiment, opening):
            return
        head, old_size = heads.make_head(experiment, round_, opening), heads.last_size
        self._journal.append_entry(NO_EXPERIMENT, HEAD, head.write_body(), time=self._work.now())
        body = heads.tell_head(head, old_size)
        self._say.announce_to_all(Announcement("log-head", experiment, body, round_, head.size))

    def _send_model(self, effect: e.SendModel) -> None:
        self._models.send_shipment(make_shipment("global-chunk", effect.experiment, effect.transfer))

    def _publish_model(self, effect: e.PublishModel) -> None:
        done = partial(self._inputs.put, partial(self._tell_published, effect.experiment, effect.body))
        combined, model = effect.body.combined, effect.body.model.transfer
        *first, last = (model,) if combined is None else combined.transfers().values()
        for one in first:
            self._models.send_shipment(make_shipment("model-chunk", effect.experiment, one))
        self._models.send_shipment(make_shipment("model-chunk", effect.experiment, last, done=done))

    def _tell_published(self, experiment: str, body: kinds.ExperimentComplete) -> None:
        self._say.send_live("model-ready", body, experiment=experiment, round_number=body.rounds)
        self._journal.put_value(f"published:{experiment}", b"1")
