"""What a site's agenda may hear, the way into each phase, and what it then does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from messages import kinds
from messages.envelope import Author, Event
from messages.experiment import Experiment
from messages.kinds import (
    Candidate,
    CaseCounts,
    ChunksWanted,
    EvaluationStart,
    ExperimentAborted,
    ExperimentAccepted,
    ExperimentFailed,
    Platform,
    RoundComplete,
    RoundStart,
    StatisticsPooled,
    StatisticsReady,
    StatisticsStart,
)
from messages.kinds import Transfer as Sealed
from messages.reasons import Reason
from messages.scores import SplitScores
from messages.statistics.configuration import Configuration
from messages.statistics.fingerprint import DataFingerprint
from messages.tensors.layout import Manifest, TensorSpec
from messages.tensors.transfer import TransferKey
from site_agent.core.agenda import decide
from site_agent.core.decisions import Decision
from site_agent.core.effects import Effect, Say, effects
from site_agent.core.evolve import evolve
from site_agent.core.inputs import AnyInput, Heard, ModelReady, Prepared, Scored, SecureAnswered
from site_agent.core.jobs import Agenda, Phase, Trained
from site_agent.core.policy import PolicyVerdict
from site_agent.core.secure.decisions import SecretsKept
from site_agent.core.secure.state import TrainedInside

MANIFEST = Manifest(tensors=(TensorSpec(name="w", shape=(600,), dtype="float32"),), chunk_bytes=1024)

SEAL = "a" * 64

COUNTS = CaseCounts(found=10, used=10, train=7, validation=1, test=2)

PLATFORM = Platform(device_type="cpu", threads=1, versions={}, deterministic=True)

COORDINATOR = Author("c", "coordinator", 1, 1)

STANDING = [phase for phase in Phase if phase is not Phase.UNKNOWN]


def sealed(round_number: int) -> Sealed:
    return Sealed(round=round_number, seal=SEAL, manifest=MANIFEST)


def said(kind: str, body: Any, round_number: int = 0, name: str = "e", attempt: int = 1) -> Event:
    return COORDINATOR.write_event(kind, body, time=0.0, experiment=name, round_number=round_number, attempt=attempt)


def accepted(name: str = "e", verdict: PolicyVerdict | None = None, opens_in: float = 0.0, **changes: Any) -> Heard:
    plain = Experiment.model_validate(
        {
            "schema": 1,
            "id": name,
            "sites": ["site-a"],
            "task": {"kind": "segmentation", "channels": ["T1"], "regions": {"WT": ["ET"]}},
            "data": {"dataset": "d"},
            "net": {"name": "UNet"},
            "rounds": {"count": 5},
            **changes,
        }
    ).as_plain()
    body = ExperimentAccepted(experiment=plain, digest="b" * 64, researcher="dr-a", original=b"", enrol_within=1.0)
    return Heard(said("experiment-accepted", body, name=name), verdict or PolicyVerdict(), opens_in)


def round_start(number: int = 1, name: str = "e", sites: Iterable[str] = ("site-a",), **more: Any) -> Heard:
    body = RoundStart(
        transfer=sealed(number), model_digest="0" * 64, sites=list(sites), evaluate=False, train_within=100.0
    )
    return Heard(said("round-start", body, number, name), **more)


THREE = ("site-a", "site-b", "site-c")
MASKS: dict[str, Any] = {
    "sites": list(THREE), "quorum": {"least_sites": 3}, "privacy": {"secure_aggregation": "masks"},
}  # fmt: skip


def secure_start(
    number: int = 1,
    tried: int = 1,
    opening: int = 1,
    sites: Iterable[str] = THREE,
    digest: str = "0" * 64,
    threshold: Literal["two-thirds", "majority"] = "two-thirds",
    **more: Any,
) -> Heard:
    """Opens a try of a secure round."""
    begun = kinds.SecureStart(tried=tried, threshold=threshold, within=60.0)
    body = RoundStart(
        transfer=sealed(number), model_digest=digest, sites=list(sites), evaluate=False, train_within=100.0,
        secure=begun,
    )  # fmt: skip
    return Heard(said("round-start", body, number, attempt=opening), **more)


def secure_said(kind: str, opening: int, number: int = 1, tried: int = 1, **more: Any) -> Heard:
    """A later step of a secure round, with what the agenda itself looks at."""
    bodies: dict[str, Any] = {
        "secure-roster": lambda: kinds.SecureRoster(tried=tried, keys=[], within=60.0),
        "secure-masking": lambda: kinds.SecureMasking(
            tried=tried, weights=more.get("weights", dict.fromkeys(THREE, 7)), within=60.0
        ),
        "secure-mail": lambda: kinds.SecureMail(tried=tried, shares={}),
        "secure-closing": lambda: kinds.SecureClosing(tried=tried, sites=list(THREE), within=60.0),
        "secure-unmasking": lambda: kinds.SecureUnmasking(tried=tried, consents=[], within=60.0),
    }
    to = "site-a" if kind == "secure-mail" else None
    event = COORDINATOR.write_event(
        kind, bodies[kind](), time=0.0, experiment="e", round_number=number, attempt=opening, to=to
    )
    return Heard(event)


KEPT = SecretsKept(b"sealed", b"record")
ANSWERS: dict[str, Any] = {
    "secure-keys": kinds.SecureKeys(tried=1, sealing=b"s" * 32, masking=b"m" * 32),
    "secure-shares": kinds.SecureShares(tried=1, roster="a" * 64, shares={}, seed="b" * 64),
    "secure-consent": kinds.SecureConsent(tried=1, context="a" * 64, closing="b" * 64),
    "secure-reveal": kinds.SecureReveal(tried=1, seeds={}),
}


def answered(kind: str, opening: int, number: int = 1) -> SecureAnswered:
    """What our own part says of a step."""
    return SecureAnswered("e", number, opening, kind, ANSWERS[kind], KEPT)


def inside(number: int = 1, attempt: int = 1) -> TrainedInside:
    return TrainedInside(
        experiment="e", round=number, attempt=attempt, cases=7, epochs=1, steps=3, loss=0.5, seconds=1.0
    )


def evaluation_start(number: int = 3, selected: int = 2) -> Heard:
    models = [
        Candidate(label="final", transfer=sealed(number), model_digest="1" * 64),
        Candidate(label="selected", transfer=sealed(selected), model_digest="2" * 64),
    ]
    body = EvaluationStart(models=models, sites=["site-a"], evaluate_within=100.0)
    return Heard(said("evaluation-start", body, number))


def statistics_start() -> Heard:
    return Heard(said("statistics-start", StatisticsStart(sites=["site-a"], within=100.0), attempt=2))


def statistics_pooled() -> Heard:
    configuration = Configuration(
        spacing_mm=(1.0, 1.0, 1.0),
        normalise="zscore",
        patch=(32, 32, 32),
        batch=2,
        filters=(32, 64, 128),
        strides=((2, 2, 2), (2, 2, 2)),
        kernels=((3, 3, 3), (3, 3, 3), (3, 3, 3)),
        median_shape=(32, 32, 32),
        memory_mib=8192,
    )
    body = StatisticsPooled(
        statistics=STATISTICS.statistics, contributors={"site-a": 7}, left_out={}, configuration=configuration
    )
    return Heard(said("statistics-pooled", body))


def round_complete(number: int = 1) -> Heard:
    body = RoundComplete(contributors={}, left_out={}, model_digest="0" * 64, seconds=1.0)
    return Heard(said("round-complete", body, number))


def model_ready(number: int = 1, name: str = "e") -> ModelReady:
    return ModelReady(name, TransferKey(name, number, "coordinator", 1))


def trained(number: int = 1, attempt: int = 1, name: str = "e") -> Trained:
    transfer = Sealed(round=number, attempt=attempt, seal=SEAL, manifest=MANIFEST)
    return Trained(
        experiment=name, round=number, attempt=attempt, transfer=transfer, cases=7, epochs=1, steps=3, loss=0.5,
        seconds=1.0,
    )  # fmt: skip


def chunks_wanted(number: int = 1, seal: str = SEAL, chunks: list[int] | None = None) -> Heard:
    return Heard(said("chunks-wanted", ChunksWanted(round=number, attempt=1, seal=seal, chunks=chunks), number))


STATISTICS = StatisticsReady(statistics=DataFingerprint(cases=7))

PREPARED = Prepared("e", COUNTS, PLATFORM)

SCORES = {"test": SplitScores(cases=2, withheld=True)}

ENDINGS = (
    Heard(said("experiment-aborted", ExperimentAborted())),
    Heard(said("experiment-failed", ExperimentFailed(reason=Reason.QUORUM_NOT_MET))),
)

WAYS: dict[Phase, list[AnyInput]] = {
    Phase.AWAITING: [accepted(verdict=PolicyVerdict(by_hand=True))],
    Phase.PREPARING: [accepted()],
    Phase.IDLE: [accepted(), PREPARED],
    Phase.MEASURING: [accepted(), PREPARED, statistics_start()],
    Phase.FETCHING: [accepted(), PREPARED, round_start()],
    Phase.TRAINING: [accepted(), PREPARED, round_start(), model_ready()],
    Phase.MASKING: [accepted(**MASKS), PREPARED, secure_start(), model_ready(), inside()],
    Phase.SENDING: [accepted(), PREPARED, round_start(), model_ready(), trained()],
    Phase.EVALUATING: [accepted(), PREPARED, evaluation_start(), model_ready(3), model_ready(2)],
    Phase.REPORTED: [
        accepted(), PREPARED, evaluation_start(), model_ready(3), model_ready(2),
        Scored("e", "final", SCORES), Scored("e", "selected", SCORES),
    ],
    Phase.DECLINED: [accepted(verdict=PolicyVerdict(Reason.NOT_ALLOWED))],
    Phase.ENDED: [accepted(), ENDINGS[0]],
}  # fmt: skip
"""How to come into each phase."""


def step(agenda: Agenda, given: AnyInput) -> tuple[Agenda, tuple[Decision, ...], tuple[Effect, ...]]:
    """Decide and apply: the agenda after it, what was decided, what is to be done."""
    decided, todo = decide(agenda, given), list[Effect]()
    for decision in decided:
        before, agenda = agenda, evolve(agenda, decision)
        todo += effects(before, agenda, decision)
    return agenda, decided, tuple(todo)


def after(inputs: Iterable[AnyInput], agenda: Agenda | None = None) -> tuple[Agenda, list[Effect]]:
    agenda = agenda or Agenda("site-a")
    todo: list[Effect] = []
    for given in inputs:
        agenda, _, more = step(agenda, given)
        todo += more
    return agenda, todo


def does(agenda: Agenda, given: AnyInput) -> tuple[Phase, list[str], list[Effect]]:
    """The phase, the kinds said, and everything to do, after one more given."""
    agenda, _, todo = step(agenda, given)
    return agenda.phase_of("e"), [one.kind for one in todo if isinstance(one, Say)], list(todo)
