"""What agent and training process say to each other: frames over one inherited socket. No torch here.

A frame is a 4-byte big-endian length and one msgpack map; `kind` names the model. Tensors never travel this
way: both sides name files that hold one contiguous buffer, laid out by a manifest (`messages.tensors.layout`).

The process says `Ready` with the version of this protocol that it speaks, before anything else, where the environment
names `ANNOUNCED`: an agent that does not know the word would not understand it. `training.compatibility` has the rules.

The process answers `Prepare` with `Prepared`, `Train` with `Trained`, `Evaluate` with `Evaluated`, `Measure` with
`Measured`, or any of them with `Failed`, in the order of the requests; `Progress`, `CheckpointEvent` and `Written` come
in between. It ends on `Stop`, and at once when the socket closes.
"""

from __future__ import annotations

import os
import socket
from typing import Annotated, Any, Literal, TypeVar

import msgpack
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from messages.ground.errors import MalformedMessage
from messages.kinds import Versions
from messages.tasks.base import Split
from messages.tasks.registry import AnyRows
from messages.tasks.segmentation import CaseRow, RegionRow, SplitRows

__all__ = ["CaseRow", "RegionRow", "Split", "SplitRows"]  # a site's own trainer imports them from here

PROTOCOL = "1.5"
"""This version. 1.0 is 0.1's, in which the process says none. A field that a request gets later has a default, and
`json_schema_extra={"since": MINOR}`; what changes the meaning of a frame gets a new major version."""
ANNOUNCED = "KONSIL_TRAINER_PROTOCOL"
"""Environment variable in which the agent tells the process its own version."""
LARGEST_FRAME = 64 * 2**20

Phase = Literal["preparing", "training", "validating", "testing"]


class Frame(BaseModel):
    """Base of all frames: strict, frozen, nothing unknown."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Prepare(Frame):
    """First request: what to train on, with which limits.

    Attributes:
        experiment: the experiment file as plain data; validates as `messages.experiment.Experiment`.
        dataset: `site_agent.data.described.AnyDataset` as plain data (`model_dump(mode="json")`).
        site: this site's name; seeds derive from it.
        secret: the site's secret, for the split by keyed hash. Never logged, never sent on.
        threads: CPU threads, part of reproducibility.
        gpus: indices of the GPUs that the site lends; empty: CPU.
        ram_bytes: most anonymous memory that the process may take on a CPU; None: no limit.
        disk_bytes: most bytes under the state directory, of which preparing leaves some to rounds; None: no limit.
        cache: folder for preprocessed cases and optimiser state; made if missing.
        state: the site's state directory, under which a data set from DICOM is prepared.
        strategy: the name of the experiment's strategy, where it asks something of the training itself (`plan.strategy`
            of the experiment has its numbers); else "". A process whose version lacks this field is not asked.
        external: `site_agent.config.ExternalTrainer` as plain data, where the experiment asks for a program that the
            operator registered (`training.trainer`); else empty.
        processes: that train together, this one with them: they share threads and memory, and have a GPU each.
        compile: whether torch may compile the net for training.
    """

    kind: Literal["prepare"] = "prepare"
    experiment: dict[str, Any]
    dataset: dict[str, Any]
    site: str
    secret: bytes
    threads: int
    gpus: list[int] = []
    ram_bytes: int | None = None
    disk_bytes: int | None = None
    cache: str
    state: str = ""
    strategy: str = Field("", json_schema_extra={"since": 2})
    external: dict[str, Any] = Field({}, json_schema_extra={"since": 3})
    processes: int = Field(1, json_schema_extra={"since": 4})
    compile: bool = Field(False, json_schema_extra={"since": 4})


class Train(Frame):
    """Train the received global model for one round.

    Attributes:
        round: counted from 1.
        model: file with the received global model's buffer, laid out by `manifest`.
        manifest: `messages.tensors.layout.Manifest` as plain data.
        update: the same for the update: the same tensors, in a codec that may be another.
        output: where the update goes; `site_agent.training.files.write_update` writes it as `update` says.
        evaluate: also score the received global model on the validation cases, before training.
        checkpoint_seconds: the process may write a checkpoint into `Prepare.cache` so often, to resume the round from
            after a kill; on SIGTERM it ends within seconds, and may write one first. None: it writes none.
        patients: how many training patients the site has announced, under the experiment's `[privacy.dp]`; else 0.
    """

    kind: Literal["train"] = "train"
    round: int
    attempt: int
    model: str
    manifest: dict[str, Any]
    update: dict[str, Any]
    output: str
    evaluate: bool = False
    checkpoint_seconds: float | None = None
    patients: int = Field(0, json_schema_extra={"since": 5})


class Evaluate(Frame):
    """Score a model on whole splits; `label` ("final", "selected", …) comes back with the scores.

    `parts`: files of the models of an ensemble, each with its weight; `rule`: how they make one prediction.
    """

    kind: Literal["evaluate"] = "evaluate"
    round: int
    model: str
    manifest: dict[str, Any]
    splits: list[Split]
    label: str
    parts: list[str] = Field([], json_schema_extra={"since": 2})
    weights: list[float] = Field([], json_schema_extra={"since": 2})
    rule: Literal["mean", "majority"] = Field("mean", json_schema_extra={"since": 2})


class Measure(Frame):
    """Tell what was measured of a split's cases, before there is a net. A process of an older version is not asked."""

    kind: Literal["measure"] = "measure"
    round: int
    split: Literal["", "train"] = Field("", json_schema_extra={"since": 4})


class Stop(Frame):
    """End the process, exit status 0."""

    kind: Literal["stop"] = "stop"


Request = Prepare | Measure | Train | Evaluate | Stop


class Ready(Frame):
    """The process's first word: `protocol` is the version that it speaks, MAJOR.MINOR; all else in it is skipped."""

    model_config = ConfigDict(extra="ignore")

    kind: Literal["ready"] = "ready"
    protocol: Annotated[str, Field(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$")] = PROTOCOL


class UsedCase(Frame):
    """A case that is used. It stays on this machine: the agent keeps keyed hashes of it, and sends nothing of it.

    Attributes:
        case, patient: as the data set names them; what is not UTF-8 in them is escaped.
        digest: SHA-256 (hex) of what is trained on, with the preprocessing.
    """

    case: str
    patient: str
    split: Split
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Prepared(Frame):
    """The data are read, preprocessed and cached.

    Attributes:
        left_out: reason code → number of cases found and not used.
        train, validation, test: cases in each split.
        device: name as torch reports it ("cpu", "NVIDIA H100"); local.
        device_type: "cpu" or "cuda".
        versions: library → version, of what decides the bits.
        deterministic: whether the same bits come again on this device type, versions and thread count.
        fingerprint: hex SHA-256 over cases used, splits and preprocessing: changes when the data change.
        data: what the agent is to hold the data set against before each task, where it cannot tell itself; else "".
        as_of: when the PACS was last asked (Unix time), where it was away now; else None.
        cases: those that are used; a process may leave this out, and then nobody can say what a case went into.
        patients: of the training cases, under the experiment's `[privacy.dp]`; else 0.
    """

    kind: Literal["prepared"] = "prepared"
    found: int
    used: int
    left_out: dict[str, int]
    train: int
    validation: int
    test: int
    device: str
    device_type: Literal["cpu", "cuda"]
    threads: int
    versions: Versions
    deterministic: bool
    fingerprint: str
    data: str = ""
    as_of: float | None = None
    cases: list[UsedCase] = []
    patients: int = 0


class Progress(Frame):
    """Where the process is; at most a few a second. `done` of `total` are steps (training) or cases."""

    kind: Literal["progress"] = "progress"
    round: int
    phase: Phase
    done: int
    total: int
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    eta_seconds: float | None = None


class CheckpointEvent(Frame):
    """What became of a round's checkpoint; comes in between, as `Progress` does.

    Attributes:
        what: it was "written"; the round "resumed" from it; it was "unused" (of another model, data, settings or
            software) or "unreadable" (damaged), and is gone; it could not be written ("unwritten").
        step: optimiser steps that it holds. steps: of the whole round.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    round: int
    what: Literal["written", "resumed", "unused", "unreadable", "unwritten"]
    step: int
    steps: int


class Written(Frame):
    """The next chunks of the update lie in its file (`files.growing_path`) and do not change any more: they may travel
    while the rest is written. A process may leave this out; then its update is read once more to be hashed.

    Attributes:
        cases: as in `Trained`.
        first: index of the first of these chunks; without gaps, from 0.
        digests: SHA-256 of each.
    """

    kind: Literal["written"] = "written"
    round: int
    attempt: int
    cases: int
    first: Annotated[int, Field(ge=0)]
    digests: list[Annotated[bytes, Field(min_length=32, max_length=32)]]


class Trained(Frame):
    """The update lies in `Train.output`.

    Attributes:
        cases: training cases used: the weight of the update.
        steps: optimiser steps. epochs: passes over the training cases. loss: mean over the round's steps; 0 where it
            is withheld (`[privacy.dp]`).
        evaluation: the received global model on the validation cases, if it was asked for.
    """

    kind: Literal["trained"] = "trained"
    round: int
    attempt: int
    cases: int
    steps: int
    epochs: float
    loss: float
    seconds: float
    evaluation: AnyRows | None = None


class Evaluated(Frame):
    """Answer to `Evaluate`: one entry for each split asked for, in that order."""

    kind: Literal["evaluated"] = "evaluated"
    round: int
    label: str
    scores: list[AnyRows]


class MeasuredChannel(Frame):
    """Voxels inside any concept by their value: `messages.statistics.histograms`, bins of values, ascending."""

    bins: list[int]
    counts: list[int]


class MeasuredCase(Frame):
    """What the fingerprint needs of one case. It stays on this machine: the agent decides what leaves.

    Attributes:
        spacing: mm. shape: voxels. cropped: voxels of the box of all that is not 0. By axis, once oriented.
        channels: by name. volumes: mm³ by concept, 0 where the case lacks it.
    """

    spacing: list[float]
    shape: list[int]
    cropped: list[int]
    channels: dict[str, MeasuredChannel]
    volumes: dict[str, float]


class Measured(Frame):
    """Answer to `Measure`."""

    kind: Literal["measured"] = "measured"
    round: int
    cases: list[MeasuredCase]


class Failed(Frame):
    """The request failed; the process lives on unless `fatal`.

    Attributes:
        code: out of `messages.reasons.Reason`; this alone may leave the site.
        detail: for the local log only.
    """

    kind: Literal["failed"] = "failed"
    code: str
    round: int
    detail: str = ""
    fatal: bool = False


Reply = Prepared | Progress | CheckpointEvent | Written | Trained | Evaluated | Measured | Failed

_Model = TypeVar("_Model", bound=Frame)
_REQUESTS: dict[str, type[Request]] = {
    "prepare": Prepare,
    "train": Train,
    "evaluate": Evaluate,
    "measure": Measure,
    "stop": Stop,
}
_REPLIES: dict[str, type[Reply]] = {
    "prepared": Prepared,
    "progress": Progress,
    "checkpoint": CheckpointEvent,
    "written": Written,
    "trained": Trained,
    "evaluated": Evaluated,
    "measured": Measured,
    "failed": Failed,
}


def encode_frame(frame: Frame) -> bytes:
    """One frame with its length in front."""
    return in_frame(frame.model_dump())


encode = encode_frame
"""0.1's name: a site's own trainer that uses it works for one release more."""


def in_frame(plain: dict[str, Any]) -> bytes:
    """A frame's content with its length in front."""
    body: bytes = msgpack.packb(plain)
    if len(body) > LARGEST_FRAME:
        raise MalformedMessage("too-large", f"a frame to or from the trainer has {len(body)} bytes")
    return len(body).to_bytes(4, "big") + body


def greeting() -> bytes:
    """What a process writes first: `Ready` in its frame, or nothing to an agent that does not know it."""
    return encode_frame(Ready()) if os.environ.get(ANNOUNCED) else b""


def step_of(reply: Reply) -> str:
    """The step of the protocol that a reply is (`messages.ground.crash`)."""
    return f"trainer:{reply.phase if isinstance(reply, Progress) else reply.kind}"


def _decode_frame(body: bytes, models: dict[str, type[_Model]]) -> _Model:
    try:
        plain = msgpack.unpackb(body, strict_map_key=True)
        return models[plain["kind"]].model_validate(plain)
    except (ValueError, KeyError, TypeError, ValidationError, msgpack.UnpackException) as error:
        raise MalformedMessage("malformed", f"frame from the other side of the trainer's socket: {error}") from error


def decode_request(body: bytes) -> Request:
    """A frame's body as a request; raises MalformedMessage."""
    return _decode_frame(body, _REQUESTS)


def decode_reply(body: bytes) -> Reply:
    """A frame's body as a reply; raises MalformedMessage."""
    return _decode_frame(body, _REPLIES)


def read_frame(source: socket.socket) -> bytes | None:
    """The body of the next frame; None where the other side has closed (also in mid-frame)."""
    head = _read_exactly(source, 4)
    if head is None:
        return None
    length = int.from_bytes(head, "big")
    if length > LARGEST_FRAME:
        raise MalformedMessage("too-large", f"a frame on the trainer's socket announces {length} bytes")
    return _read_exactly(source, length)


def _read_exactly(source: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        try:
            part = source.recv(min(size - len(parts), 2**20))
        except (ConnectionError, OSError):
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)
