"""The wire bytes of every kind: each event as little as it may say, and with everything that it can say.

`wire_words` gives name → bytes, as the code writes them. Chunks and journal entries, which are no events, are there
too.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from coordinator_kit import CONSORTIUM
from format_files import EVERY_KEY, MINIMAL
from pydantic import BaseModel
from secure_bodies import BODIES as SECURE_BODIES
from secure_bodies import START as SECURE_START

from messages import chain, codec, experiment, kinds
from messages.envelope import Author
from messages.kinds import KINDS, Body
from messages.names import COORDINATOR
from messages.reasons import Reason
from messages.scores import ScoreSums, SplitScores
from messages.sections import Intensities
from messages.statistics.configuration import Configuration
from messages.statistics.fingerprint import ClassVolume, DataFingerprint
from messages.statistics.histograms import Histogram
from messages.tasks.histograms import bin_scores
from messages.tensors.layout import Manifest, TensorSpec
from messages.tensors.transfer import ChunkHeader, TransferKey, encode_chunk

NONCE, EVENT, DIGEST = "0f" * 16, "1e" * 16, "2d" * 32
TIME = 1_999_999_999.125

LITTLE_MANIFEST = Manifest(tensors=())
FULL_MANIFEST = Manifest(
    tensors=tuple(
        TensorSpec(name=f"net.{dtype}", shape=(2, 3) if dtype != "bool" else (), dtype=dtype)
        for dtype in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
    ),
    codec="bfloat16-difference",
    chunk_bytes=4096,
)
LITTLE_TRANSFER = kinds.Transfer(round=0, seal=DIGEST, manifest=LITTLE_MANIFEST)
FULL_TRANSFER = kinds.Transfer(round=1_000_000, attempt=3, seal=DIGEST, manifest=FULL_MANIFEST)
REGION = ScoreSums(n=7, sum=3.5, squares=2.25, both_empty=1, reference_empty=3, false_positive=1, failed=1, withheld=2)
LITTLE_SCORES = SplitScores(cases=0)
FULL_SCORES = SplitScores(
    cases=12,
    withheld=False,
    metrics={"dice": {"WT": REGION, "ET": ScoreSums()}, "hd95": {"WT": ScoreSums(n=1, sum=4.5, squares=20.25)}},
    rows=[{"WT": 0.5, "ET": None}, {"WT": 1.0}],
    histograms={"WT": bin_scores([0.1, 0.5, 0.9], [False, True, True])},
    confusion={"WT": {"WT": 2, "ET": 0}},
)
LITTLE_COUNTS = kinds.CaseCounts(found=0, used=0, train=0, validation=0, test=0)
FULL_COUNTS = kinds.CaseCounts(
    found=2**53, used=40, left_out={Reason.NO_LABEL: 2, Reason.TILTED: 1}, train=30, validation=4, test=6
)
LITTLE_PLATFORM = kinds.Platform(device_type="cpu", threads=0, versions={}, deterministic=False)
FULL_PLATFORM = kinds.Platform(
    device_type="cuda", threads=16, versions={"torch": "2.13.0+cu130", "python": "3.11.2"}, deterministic=True
)
FULL_PRIVACY = kinds.PrivacyPlan(
    unit="patient",
    noise="shared",
    colluding=1,
    patients=24,
    sample_rate=0.1,
    noise_multiplier=1.5,
    clip_norm=0.5,
    steps=400,
    epsilon=6.25,
    delta=1e-5,
)
LITTLE_CANDIDATE = kinds.Candidate(label="final", transfer=LITTLE_TRANSFER, model_digest=DIGEST)
FULL_CANDIDATE = kinds.Candidate(label="selected", transfer=FULL_TRANSFER, model_digest=DIGEST)
SPARSE: dict[str, Any] = tomllib.loads(MINIMAL)
FULL_OWN = kinds.OwnModel(round=1_000_000, attempt=33, seal=DIGEST, model_digest=DIGEST)
FULL_COMBINED = kinds.Combined(
    label="ensemble",
    rule="majority",
    weights={"own-1": 0.25, "own-16": 0.75},
    parts={"own-1": FULL_OWN, "own-16": FULL_OWN},
    manifest=FULL_MANIFEST,
    model_digest=DIGEST,
)

LITTLE_FINGERPRINT = DataFingerprint(cases=0)
_SIZES = Histogram(bins=(-3, 0, 700), counts=(5, 6, 7))
FULL_FINGERPRINT = DataFingerprint(
    cases=18,
    spacing=(_SIZES, _SIZES, _SIZES),
    shape=(_SIZES, _SIZES, _SIZES),
    cropped=(_SIZES, _SIZES, _SIZES),
    extent=(_SIZES, _SIZES, _SIZES),
    kept=_SIZES,
    intensities={"CT": Histogram(bins=(-900, 900), counts=(50_000, 130_000))},
    classes={"ED": ClassVolume(cases=18, mm3=81_000, volumes=_SIZES)},
)
FULL_CONFIGURATION = Configuration(
    spacing_mm=(0.8, 0.8, 3.0),
    normalise="zscore-nonzero",
    intensities=(Intensities(channel=1, low=-100.5, high=300.25, mean=70.5, deviation=44.0),),
    patch=(192, 160, 32),
    batch=2,
    filters=(32, 64, 128),
    strides=((2, 2, 1), (2, 2, 2)),
    kernels=((3, 3, 1), (3, 3, 3), (3, 3, 3)),
    median_shape=(300, 290, 40),
    memory_mib=24_576,
)
FULL_FILE = experiment.parse_experiment(EVERY_KEY).as_plain()
STATES = (
    "idle", "preparing", "fetching", "training", "evaluating", "sending", "paused", "draining", "outside-hours",
    "running",
)  # fmt: skip
PHASES = ("preparing", "fetching", "training", "validating", "testing", "sending")


def _original() -> bytes:
    start = kinds.ExperimentStart(experiment=FULL_FILE)
    return (
        Author(CONSORTIUM, "dr-a")
        .write_event("experiment-start", start, time=TIME, experiment=FULL_FILE["id"], seq=1)
        .raw
    )


def little_bodies() -> dict[str, Body]:
    """Each kind's body with only what it must say."""
    return SECURE_BODIES | {
        "experiment-start": kinds.ExperimentStart(experiment=SPARSE),
        "experiment-abort": kinds.ExperimentAbort(),
        "experiment-pause": kinds.ExperimentPause(),
        "experiment-resume": kinds.ExperimentResume(),
        "experiment-check": kinds.ExperimentCheck(experiment=SPARSE, nonce=NONCE),
        "echo": kinds.Echo(nonce=NONCE),
        "nonce": kinds.Nonce(nonce=NONCE),
        "hello": kinds.Hello(versions={}),
        "joined": kinds.Joined(cases=LITTLE_COUNTS, platform=LITTLE_PLATFORM),
        "declined": kinds.Declined(reason=Reason.NOT_ALLOWED),
        "round-accepted": kinds.RoundAccepted(),
        "weights-ready": kinds.WeightsReady(
            transfer=LITTLE_TRANSFER,
            cases_used=0,
            cases=LITTLE_COUNTS,
            epochs=0,
            steps=0,
            seconds=0.0,
            platform=LITTLE_PLATFORM,
        ),
        "round-failed": kinds.RoundFailed(reason=Reason.CUDA_OOM),
        "evaluated": kinds.Evaluated(scores={}),
        "leaving": kinds.Leaving(),
        "statistics-start": kinds.StatisticsStart(sites=[], within=0.0),
        "statistics-ready": kinds.StatisticsReady(statistics=LITTLE_FINGERPRINT),
        "statistics-pooled": kinds.StatisticsPooled(statistics=LITTLE_FINGERPRINT, contributors={}, left_out={}),
        "head-witnessed": kinds.HeadWitnessed(size=0, root=DIGEST, cosignature=bytes(76)),
        "log-head": kinds.LogHead(note=b"", old_size=0, proof=[]),
        "last-heard": kinds.LastHeard(incarnation=0, seq=0),
        "experiment-accepted": kinds.ExperimentAccepted(
            experiment=SPARSE, digest=DIGEST, researcher="dr-a", original=b"", enrol_within=0.0
        ),
        "experiment-refused": kinds.ExperimentRefused(reason=Reason.UNKNOWN_NET, event=EVENT),
        "experiment-checked": kinds.ExperimentChecked(experiment=SPARSE, researcher="dr-a", nonce=NONCE),
        "round-start": kinds.RoundStart(
            transfer=LITTLE_TRANSFER, model_digest=DIGEST, sites=[], evaluate=False, train_within=0.0
        ),
        "round-complete": kinds.RoundComplete(contributors={}, left_out={}, model_digest=DIGEST, seconds=0.0),
        "evaluation-start": kinds.EvaluationStart(models=[], sites=[], evaluate_within=0.0),
        "experiment-complete": kinds.ExperimentComplete(
            model=LITTLE_CANDIDATE, model_round=0, final_digest=DIGEST, rounds=0
        ),
        "experiment-failed": kinds.ExperimentFailed(reason=Reason.NO_ROUND_CLOSED),
        "experiment-aborted": kinds.ExperimentAborted(),
        "experiment-paused": kinds.ExperimentPaused(),
        "experiment-resumed": kinds.ExperimentResumed(),
        "coordinator-hello": kinds.CoordinatorHello(versions={}),
        "register": kinds.RegisterAnnounced(note=b""),
        "model-ready": kinds.ExperimentComplete(model=LITTLE_CANDIDATE, model_round=0, final_digest=DIGEST, rounds=0),
        "experiment-finish": kinds.ExperimentFinish(),
        "experiment-exclude": kinds.ExperimentExclude(site="site-c", reason=Reason.EXCLUDED),
        "site-excluded": kinds.SiteExcluded(site="site-c", reason=Reason.EXCLUDED),
        "model-wanted": kinds.ModelWanted(round=0),
        "receipt": kinds.Receipt(events=[]),
        "refused": kinds.Refused(event=EVENT, kind="joined", reason=Reason.LATE),
        "standing": kinds.Standing(state="idle", events=[]),
        "chunks-wanted": kinds.ChunksWanted(round=0, attempt=0, seal=DIGEST),
        "alive": kinds.Alive(state="idle"),
        "progress": kinds.Progress(phase="training", done=0, total=0),
        "check-answer": kinds.CheckAnswer(nonce=NONCE, accepts=False),
        "echo-reply": kinds.EchoReply(nonce=NONCE, time=0.0),
    }


def full_bodies() -> dict[str, Body]:
    """Each kind's body with everything that it can say; of a body without fields, nothing."""
    scored = kinds.ModelScores(model_digest=DIGEST, splits={"validation": FULL_SCORES, "test": FULL_SCORES})
    complete = kinds.ExperimentComplete(
        model=FULL_CANDIDATE,
        model_round=17,
        final_digest=DIGEST,
        test=FULL_SCORES,
        rounds=50,
        combined=FULL_COMBINED,
    )
    return SECURE_BODIES | {
        "experiment-start": kinds.ExperimentStart(experiment=FULL_FILE),
        "experiment-check": kinds.ExperimentCheck(experiment=FULL_FILE, nonce=NONCE),
        "echo": kinds.Echo(nonce=NONCE),
        "nonce": kinds.Nonce(nonce=NONCE),
        "hello": kinds.Hello(versions={"konsil": "0.1.0", "python": "3.11.2"}, head=80),
        "joined": kinds.Joined(cases=FULL_COUNTS, platform=FULL_PLATFORM, privacy=FULL_PRIVACY),
        "declined": kinds.Declined(reason=Reason.TOO_FEW_CASES, cases=FULL_COUNTS),
        "weights-ready": kinds.WeightsReady(
            transfer=FULL_TRANSFER,
            cases_used=30,
            cases=FULL_COUNTS,
            epochs=2,
            steps=150,
            loss=0.1,
            seconds=12.75,
            validation=FULL_SCORES,
            platform=FULL_PLATFORM,
            epsilon=1.5,
        ),
        "round-failed": kinds.RoundFailed(reason=Reason.TRAINER_STUCK),
        "evaluated": kinds.Evaluated(scores={"final": scored, "selected": scored}),
        "leaving": kinds.Leaving(reason=Reason.SITE_DRAINING),
        "statistics-start": kinds.StatisticsStart(sites=["site-a"], within=7200.0),
        "statistics-ready": kinds.StatisticsReady(statistics=FULL_FINGERPRINT, memory_mib=24_576),
        "statistics-pooled": kinds.StatisticsPooled(
            statistics=FULL_FINGERPRINT,
            contributors={"site-a": 12},
            left_out={"site-c": Reason.STATISTICS_NOT_ALLOWED},
            memory_mib=24_576,
            configuration=FULL_CONFIGURATION,
        ),
        "head-witnessed": kinds.HeadWitnessed(size=96, root=DIGEST, cosignature=bytes(range(76))),
        "last-heard": kinds.LastHeard(
            incarnation=3,
            seq=41,
            digest=DIGEST,
            parts={"exp-1": kinds.PartHeard(round=2, opening=2, attempt=3, reported=True)},
            private=["exp-1"],
        ),
        "log-head": kinds.LogHead(
            note=b"konsil/demo\n96\n",
            old_size=80,
            proof=[bytes(range(32))],
            opening=2,
            witnessed=b"konsil/demo\n80\n",
            witness_proof=[bytes(32)],
            fork=b"konsil fork 1\n",
            fork_proof=[bytes(32)],
        ),
        "experiment-accepted": kinds.ExperimentAccepted(
            experiment=FULL_FILE, digest=DIGEST, researcher="dr-a", original=_original(), enrol_within=5400.0
        ),
        "experiment-refused": kinds.ExperimentRefused(
            reason=Reason.INVALID_EXPERIMENT, mistakes="key 'data' is missing; rounds.count = 0", event=EVENT
        ),
        "experiment-checked": kinds.ExperimentChecked(experiment=FULL_FILE, researcher="dr-a", nonce=NONCE),
        "round-start": kinds.RoundStart(
            secure=SECURE_START,
            transfer=FULL_TRANSFER,
            model_digest=DIGEST,
            sites=["site-a", "site-b", "site-c"],
            evaluate=True,
            train_within=7200.0,
            own={"site-a": FULL_OWN},
            going_on={"site-b": 1_000_000},
        ),
        "round-complete": kinds.RoundComplete(
            pooled=kinds.PooledFigures(cases=9, loss=0.5),
            contributors={"site-a": 10, "site-b": 2**53},
            left_out={"site-c": Reason.STRAGGLER},
            model_digest=DIGEST,
            validation=FULL_SCORES,
            seconds=61.5,
            staleness={"site-b": 2**53},
        ),
        "evaluation-start": kinds.EvaluationStart(
            secure=SECURE_START,
            models=[LITTLE_CANDIDATE, FULL_CANDIDATE],
            sites=["site-a"],
            evaluate_within=7200.0,
            combined=FULL_COMBINED,
        ),
        "experiment-complete": complete,
        "experiment-failed": kinds.ExperimentFailed(reason=Reason.QUORUM_NOT_MET),
        "experiment-aborted": kinds.ExperimentAborted(reason=Reason.ABORTED),
        "experiment-paused": kinds.ExperimentPaused(reason=Reason.DISK_FULL),
        "coordinator-hello": kinds.CoordinatorHello(versions={"konsil": "0.1.0"}),
        "register": kinds.RegisterAnnounced(note=b"konsil register 1\n"),
        "model-ready": complete,
        "receipt": kinds.Receipt(events=[EVENT, NONCE]),
        "model-wanted": kinds.ModelWanted(round=50),
        "experiment-exclude": kinds.ExperimentExclude(site="site-c", reason=Reason.WRONG_LABELS),
        "site-excluded": kinds.SiteExcluded(site="site-c", reason=Reason.OUTLYING_UPDATE),
        "refused": kinds.Refused(event=EVENT, kind="weights-ready", reason=Reason.NOT_FINITE_UPDATE),
        "standing": kinds.Standing(state="running", events=[_original(), b"\x00\xff"]),
        "chunks-wanted": kinds.ChunksWanted(round=2, attempt=3, seal=DIGEST, chunks=[0, 7, 99_999]),
        "alive": kinds.Alive(state="outside-hours", busy_with="kept-every-key", queued=3, opens_in=86400.0),
        "progress": kinds.Progress(
            phase="validating",
            done=3,
            total=10,
            epoch=1,
            epochs=2,
            loss=math.pi,
            eta_seconds=99.5,
            bytes_down=2**40,
            bytes_up=1,
        ),
        "check-answer": kinds.CheckAnswer(nonce=NONCE, accepts=True, reason=Reason.AWAITS_APPROVAL),
        "echo-reply": kinds.EchoReply(nonce=NONCE, time=TIME),
    }


def _event(kind: str, body: Body, *, full: bool) -> bytes:
    roles = KINDS[kind].senders
    sender = COORDINATOR if COORDINATOR in roles else "site-a" if "site" in roles else "dr-a"
    term = (2**40 if full else 1) if sender == COORDINATOR else 0
    author = Author(CONSORTIUM, sender, incarnation=7 if full else 0, term=term)
    if not full:
        return author.write_event(kind, body, time=0.0).raw
    seq = 2**62 if KINDS[kind].history else 0
    name = body.experiment["id"] if isinstance(body, kinds.ExperimentStart) else "kept-every-key"
    return author.write_event(kind, body, time=TIME, experiment=name, round_number=3, attempt="0f" * 16, seq=seq).raw


def _chunks() -> Iterator[tuple[str, bytes]]:
    data = bytes(range(256)) * 8
    for kind, sender in (("global-chunk", COORDINATOR), ("update-chunk", "site-a"), ("model-chunk", COORDINATOR)):
        for name, index, part, total in (("little", 0, b"\0", 1), ("full", 1, data[1024:], len(data))):
            key = TransferKey("kept-every-key", index, sender, 1 + index)
            header = ChunkHeader(key, index, 1024, total, sha256(part).digest())
            yield f"{kind}.{name}.chunk", encode_chunk(header, part)


def _entries() -> Iterator[tuple[str, bytes]]:
    first = chain.Entry(1, 1, "none", 0.0, "term", codec.pack({"term": 1})).with_hash()
    body = codec.pack({"input": {}, "decisions": []})
    second = chain.Entry(2, 1, "kept-every-key", TIME, "step", body, before=first.hash).with_hash()
    yield "journal-entry.little.entry", first.encode()
    yield "journal-entry.full.entry", second.encode()


def wire_words() -> dict[str, bytes]:
    """Name → bytes on the wire, of every kind.

    Raises:
        AssertionError: a kind has no example, or a full one leaves something out.
    """
    little, full = little_bodies(), full_bodies()
    assert set(little) == {kind for kind, spec in KINDS.items() if spec.body is not None}
    assert {kind for kind, body in little.items() if type(body).model_fields} <= set(full)
    unsaid = [name for kind, body in full.items() for name in _unsaid(body, kind)]
    assert unsaid == [], unsaid
    words = {f"{kind}.little.event": _event(kind, body, full=False) for kind, body in little.items()}
    words |= {f"{kind}.full.event": _event(kind, body, full=True) for kind, body in full.items()}
    words |= {f"alive.{state}.event": _event("alive", kinds.Alive(state=state), full=True) for state in STATES}
    words |= {
        f"progress.{phase}.event": _event("progress", kinds.Progress(phase=phase, done=1, total=2), full=True)
        for phase in PHASES
    }
    words |= {
        f"declined.{reason}.event": _event("declined", kinds.Declined(reason=reason), full=True) for reason in Reason
    }
    words |= dict(_chunks()) | dict(_entries())
    assert {name.partition(".")[0] for name in words} == set(KINDS)
    return words


def _unsaid(value: Any, where: str) -> Iterator[str]:
    """Fields that an example leaves out; in a list or a map one full example is enough."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            inner = getattr(value, name)
            if inner is None or name not in value.model_fields_set:
                yield f"{where}.{name}"
            elif isinstance(inner, list | tuple) and inner and isinstance(inner[0], BaseModel):
                yield from min(([*_unsaid(one, f"{where}.{name}")] for one in inner), key=len)
            elif isinstance(inner, BaseModel):
                yield from _unsaid(inner, f"{where}.{name}")
