"""The trained model: from the `models` stream into one safetensors file (`nets.model_file`). Torch-free."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from deploy.session.connection import COORDINATOR_WITHIN, QUIET, BrokerSession, no_coordinator
from deploy.story.telling import tell_event
from messages import kinds
from messages.bus.base import Start
from messages.experiment import Experiment
from messages.ground.errors import MalformedMessage, RequestError, WorkFailed
from messages.ground.units import human_bytes
from messages.kinds import ExperimentComplete
from messages.names import AUDIT, COORDINATOR, DOWNLINK, MODELS, RoutingKey, inbox_of
from messages.reasons import Reason, advise_on
from messages.tensors.layout import Manifest
from messages.tensors.transfer import Incoming, TransferKey, decode_chunk
from nets.digest import model_digest

WITHIN = 600.0
"""Seconds without the missing chunks until the model counts as gone from the broker."""

SILENCES = 2
"""Times that the broker keeps quiet until what a stream holds counts as read."""


def write_model(
    path: Path, experiment: Experiment, manifest: Manifest, buffer: Path, digest: str, round_number: int
) -> None:
    """Check the weights against the digest and write the file, whole or not at all.

    Raises:
        WorkFailed: the weights are not those that the digest names, or the file cannot be written.
    """
    from nets.model_file import save_model

    content = np.memmap(buffer, dtype=np.uint8, mode="r") if manifest.nbytes else np.zeros(0, np.uint8)
    if model_digest(manifest, content) != digest:
        raise WorkFailed("the model's weights do not match the digest that was announced", where=str(path))
    try:
        save_model(path, experiment, manifest, content, round_number=round_number)
    except OSError as error:
        raise WorkFailed(f"cannot be written ({error.strerror})", where=str(path)) from None


def find_announced(session: BrokerSession, experiment: str) -> tuple[Experiment, ExperimentComplete]:
    """The experiment's file and its end, as the coordinator announced them.

    Raises:
        RequestError: no such experiment, or it has no model (yet).
    """
    from deploy.session.history import HistoryReader, require_known
    from deploy.story.story import ExperimentStory

    story, reader = ExperimentStory(experiment), HistoryReader()
    complete: ExperimentComplete | None = None
    queue = DOWNLINK if session.profile.role == "researcher" else AUDIT
    for heard in session.read_history(queue):
        for event in reader.events_of(heard, experiment):
            story = tell_event(story, event)
            if event.experiment == experiment and isinstance(event.body, kinds.ExperimentComplete):
                complete = event.body
    require_known(story)
    if complete is None or story.experiment is None:
        rounds = story.completed_rounds
        kept = f"; that of round {rounds} is kept: add --round {rounds}" if rounds else ""
        raise RequestError(
            f"has no model: it is {story.phase}",
            where=experiment,
            advice=f"A model exists once it is complete{kept}",
        )
    return story.experiment, complete


def fetch_round(session: BrokerSession, experiment: str, rounds: int, path: Path, show: Callable[[str], None]) -> str:
    """Have the coordinator publish the model that so many rounds made, and fetch it into `path`; returns its digest.

    Raises:
        RequestError: no such experiment, another researcher's, or no model of that round is kept.
        Unreachable: the coordinator does not answer.
        WorkFailed: it does not come whole, or is not what was announced.
    """
    from deploy.session.history import story_of

    _require_folder(path)
    session.may_send()
    story = story_of(session, experiment)
    if story.experiment is None:
        raise RequestError("was started by a newer version", where=experiment, advice="Update this one")
    session.listen_to(MODELS, start=Start.NEXT)
    session.listen_to(inbox_of(session.profile.name))
    sent = session.publish_event("model-wanted", kinds.ModelWanted(round=rounds), experiment)
    show("waiting for the coordinator")
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".konsil-") as folder:
        incoming, ready = _receive_published(session, experiment, rounds, sent.id, Path(folder), show)
        buffer = Path(folder, "buffer")
        try:
            incoming.finish(ready.model.transfer.manifest, ready.model.transfer.seal, buffer)
        except MalformedMessage as error:
            raise WorkFailed(f"what came is not the model ({error.reason})", where=experiment) from None
        finally:
            incoming.close()
        write_model(path, story.experiment, ready.model.transfer.manifest, buffer, ready.model.model_digest, rounds)
    return ready.model.model_digest


def _receive_published(
    session: BrokerSession, experiment: str, rounds: int, asked: str, folder: Path, show: Callable[[str], None]
) -> tuple[Incoming, ExperimentComplete]:
    """The chunks that follow on a request, and the word that closes them."""
    incoming: Incoming | None = None
    quiet_until = session.clock.monotonic() + COORDINATOR_WITHIN
    while session.clock.monotonic() < quiet_until:
        heard = session.next_heard(QUIET)
        if heard is None:
            continue
        event, route = heard.event, RoutingKey.parse(heard.delivery.key)
        if event is not None and isinstance(event.body, kinds.Refused) and event.body.event == asked:
            raise _refused_round(experiment, rounds, event.body.reason)
        if route.experiment != experiment or heard.delivery.queue != MODELS:
            continue
        quiet_until = session.clock.monotonic() + COORDINATOR_WITHIN
        if route.kind == "model-chunk":
            header, data = decode_chunk(heard.delivery.body)
            if header.key.round == rounds + 1 and incoming is None:
                incoming = Incoming(folder, header.key, size=header.size, total=header.total)
            if incoming is not None and header.key == incoming.key:
                incoming.add_chunk(header, data)
                show(
                    f"{human_bytes(min(incoming.received * incoming.size, incoming.total))} of "
                    f"{human_bytes(incoming.total)}"
                )
        elif event is not None and isinstance(event.body, ExperimentComplete) and event.body.model_round == rounds:
            if incoming is not None and incoming.received >= incoming.chunks:
                return incoming, event.body
            raise WorkFailed("the model did not come whole", where=experiment, advice="Try again")
    raise no_coordinator(COORDINATOR_WITHIN, kept=False, since="model-wanted")


def _refused_round(experiment: str, rounds: int, reason: Reason) -> RequestError:
    if reason is Reason.NOT_ALLOWED:
        return RequestError(
            f"the coordinator has sent the model of round {rounds} as often as it does in a day",
            where=experiment,
            advice="Ask again tomorrow",
        )
    if reason is Reason.WRONG_ROUND:
        return RequestError(
            f"the coordinator keeps no model of round {rounds}",
            where=experiment,
            advice="It keeps those of the last round and of the best-scored one",
        )
    return RequestError(f"refused: {reason}", where=experiment, advice=advise_on(reason, by_coordinator=True))


def _require_folder(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise RequestError("the folder does not exist", where=str(path), advice="Name another place with --out")


def fetch_model(session: BrokerSession, experiment: str, path: Path, show: Callable[[str], None]) -> str:
    """Fetch an experiment's model into `path`; returns its digest.

    Raises:
        RequestError: no such experiment, or no model yet; the file's folder does not exist.
        WorkFailed: the broker does not hold all of it any more, or it is not what was announced.
    """
    _require_folder(path)
    described, complete = find_announced(session, experiment)
    combined, model = complete.combined, complete.model
    sent = {model.label: model.transfer} if combined is None else combined.transfers()
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".konsil-") as folder:
        buffers = {label: Path(folder, f"{label}.buffer") for label in sent}
        _fetch_transfers(session, experiment, sent, buffers, show)
        if combined is not None:
            _write_ensemble(path, described, combined, buffers, complete.model_round)
        else:
            buffer = buffers[model.label]
            write_model(path, described, model.transfer.manifest, buffer, model.model_digest, complete.model_round)
    return model.model_digest


def _write_ensemble(
    path: Path, experiment: Experiment, combined: kinds.Combined, buffers: Mapping[str, Path], round_number: int
) -> None:
    from nets.model_file import save_ensemble

    mapped = {label: np.memmap(buffer, dtype=np.uint8, mode="r") for label, buffer in buffers.items()}
    try:
        save_ensemble(path, experiment, combined, mapped, round_number)
    except OSError as error:
        raise WorkFailed(f"cannot be written ({error.strerror})", where=str(path)) from None


def _fetch_transfers(
    session: BrokerSession,
    experiment: str,
    sent: Mapping[str, kinds.Transfer],
    buffers: Mapping[str, Path],
    show: Callable[[str], None],
) -> None:
    """Models out of the stream, each into its file."""
    incoming = {
        label: Incoming(
            buffers[label].parent,
            TransferKey(experiment, one.round, COORDINATOR, one.attempt),
            size=one.manifest.chunk_bytes,
            total=one.manifest.nbytes,
        )
        for label, one in sent.items()
    }
    try:
        _receive_chunks(session, list(incoming.values()), show)
        for label, one in sent.items():
            incoming[label].finish(one.manifest, one.seal, buffers[label])
    except MalformedMessage as error:
        raise WorkFailed(f"what the broker holds is not the model ({error.reason})", where=experiment) from None
    finally:
        for each in incoming.values():
            each.close()


def _receive_chunks(session: BrokerSession, wanted: Sequence[Incoming], show: Callable[[str], None]) -> None:
    """Take the chunks of these transfers out of `models`; WorkFailed where the stream ends without them."""
    session.listen_to(MODELS)
    deadline = session.clock.monotonic() + WITHIN
    by_key, total = {one.key: one for one in wanted}, sum(one.total for one in wanted)
    experiment, silences = wanted[0].key.experiment, 0
    while missing := sum(one.chunks - one.received for one in wanted):
        heard = session.next_heard(QUIET, quiet=True)
        if heard is not None and heard.delivery.queue == MODELS:
            silences = 0
            route = RoutingKey.parse(heard.delivery.key)
            if route.experiment == experiment and route.kind == "model-chunk":
                _take_chunk(by_key, heard.delivery.body)
                here = sum(min(one.received * one.size, one.total) for one in wanted)  # the last chunk is shorter
                show(f"{human_bytes(here)} of {human_bytes(total)}")
            continue
        silences += heard is None
        if silences >= SILENCES or session.clock.monotonic() > deadline:
            raise WorkFailed(
                f"{missing} of {sum(one.chunks for one in wanted)} chunks of the model are not in the broker",
                where=experiment,
                advice="It may have been evicted, or still be on its way: try again, or ask the operator",
            )


def _take_chunk(wanted: Mapping[TransferKey, Incoming], body: bytes) -> None:
    header, data = decode_chunk(body)
    incoming = wanted.get(header.key)
    if incoming is not None and (header.size, header.total) == (incoming.size, incoming.total):
        incoming.add_chunk(header, data)
