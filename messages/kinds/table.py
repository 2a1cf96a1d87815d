"""The table of kinds: body, queue, senders, and whether it is history (journaled) or only live."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

from messages.kinds.base import Body
from messages.kinds.coordinator import (
    CoordinatorHello,
    EvaluationStart,
    ExperimentAborted,
    ExperimentAccepted,
    ExperimentChecked,
    ExperimentComplete,
    ExperimentFailed,
    ExperimentPaused,
    ExperimentRefused,
    ExperimentResumed,
    LogHead,
    RegisterAnnounced,
    RoundComplete,
    RoundStart,
    SiteExcluded,
    StatisticsPooled,
    StatisticsStart,
)
from messages.kinds.inbox import ChunksWanted, LastHeard, Receipt, Refused, Standing
from messages.kinds.live import Alive, CheckAnswer, EchoReply, Progress
from messages.kinds.researcher import (
    ExperimentAbort,
    ExperimentCheck,
    ExperimentExclude,
    ExperimentFinish,
    ExperimentPause,
    ExperimentResume,
    ExperimentStart,
    ModelWanted,
)
from messages.kinds.secure import (
    RoundVoid,
    SecureClosing,
    SecureComplaint,
    SecureConsent,
    SecureFigures,
    SecureKeys,
    SecureMail,
    SecureMasking,
    SecureReveal,
    SecureRoster,
    SecureShares,
    SecureUnmasking,
)
from messages.kinds.site import (
    Declined,
    Echo,
    Evaluated,
    HeadWitnessed,
    Hello,
    Joined,
    Leaving,
    Nonce,
    RoundAccepted,
    RoundFailed,
    StatisticsReady,
    WeightsReady,
)
from messages.names import AUDIT, DOWNLINK, GLOBAL, MODELS, PROGRESS, UPLINK


class KindSpec(BaseModel):
    """One row of the table of kinds."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    queue: str
    body: type[Body] | None
    history: bool
    senders: frozenset[str]


def _make_row(queue: str, body: type[Body] | None, senders: str, *, history: bool = True) -> KindSpec:
    return KindSpec(queue=queue, body=body, history=history, senders=frozenset(senders.split()))


INBOX, UPDATE = "inbox", "update"

KINDS: Mapping[str, KindSpec] = MappingProxyType(
    ROWS := {
        "experiment-start": _make_row(UPLINK, ExperimentStart, "researcher"),
        "experiment-abort": _make_row(UPLINK, ExperimentAbort, "researcher"),
        "experiment-pause": _make_row(UPLINK, ExperimentPause, "researcher"),
        "experiment-resume": _make_row(UPLINK, ExperimentResume, "researcher"),
        "experiment-finish": _make_row(UPLINK, ExperimentFinish, "researcher"),
        "experiment-exclude": _make_row(UPLINK, ExperimentExclude, "researcher"),
        "model-wanted": _make_row(UPLINK, ModelWanted, "researcher", history=False),
        "experiment-check": _make_row(UPLINK, ExperimentCheck, "researcher", history=False),
        "echo": _make_row(UPLINK, Echo, "researcher site", history=False),
        "nonce": _make_row(UPLINK, Nonce, "coordinator", history=False),
        "hello": _make_row(UPLINK, Hello, "site", history=False),
        "joined": _make_row(UPLINK, Joined, "site"),
        "declined": _make_row(UPLINK, Declined, "site"),
        "round-accepted": _make_row(UPLINK, RoundAccepted, "site"),
        "weights-ready": _make_row(UPLINK, WeightsReady, "site"),
        "round-failed": _make_row(UPLINK, RoundFailed, "site"),
        "evaluated": _make_row(UPLINK, Evaluated, "site"),
        "statistics-ready": _make_row(UPLINK, StatisticsReady, "site"),
        "secure-keys": _make_row(UPLINK, SecureKeys, "site"),
        "secure-shares": _make_row(UPLINK, SecureShares, "site"),
        "secure-figures": _make_row(UPLINK, SecureFigures, "site"),
        "secure-consent": _make_row(UPLINK, SecureConsent, "site"),
        "secure-reveal": _make_row(UPLINK, SecureReveal, "site"),
        "secure-complaint": _make_row(UPLINK, SecureComplaint, "site"),
        "leaving": _make_row(UPLINK, Leaving, "site"),
        "head-witnessed": _make_row(UPLINK, HeadWitnessed, "site"),
        "experiment-accepted": _make_row(DOWNLINK, ExperimentAccepted, "coordinator"),
        "experiment-refused": _make_row(DOWNLINK, ExperimentRefused, "coordinator"),
        "experiment-checked": _make_row(DOWNLINK, ExperimentChecked, "coordinator", history=False),
        "round-start": _make_row(DOWNLINK, RoundStart, "coordinator"),
        "round-complete": _make_row(DOWNLINK, RoundComplete, "coordinator"),
        "round-void": _make_row(DOWNLINK, RoundVoid, "coordinator"),
        "secure-roster": _make_row(DOWNLINK, SecureRoster, "coordinator"),
        "secure-masking": _make_row(DOWNLINK, SecureMasking, "coordinator"),
        "secure-closing": _make_row(DOWNLINK, SecureClosing, "coordinator"),
        "secure-unmasking": _make_row(DOWNLINK, SecureUnmasking, "coordinator"),
        "evaluation-start": _make_row(DOWNLINK, EvaluationStart, "coordinator"),
        "experiment-complete": _make_row(DOWNLINK, ExperimentComplete, "coordinator"),
        "experiment-failed": _make_row(DOWNLINK, ExperimentFailed, "coordinator"),
        "experiment-aborted": _make_row(DOWNLINK, ExperimentAborted, "coordinator"),
        "experiment-paused": _make_row(DOWNLINK, ExperimentPaused, "coordinator"),
        "experiment-resumed": _make_row(DOWNLINK, ExperimentResumed, "coordinator"),
        "site-excluded": _make_row(DOWNLINK, SiteExcluded, "coordinator"),
        "statistics-start": _make_row(DOWNLINK, StatisticsStart, "coordinator"),
        "statistics-pooled": _make_row(DOWNLINK, StatisticsPooled, "coordinator"),
        "register": _make_row(DOWNLINK, RegisterAnnounced, "coordinator"),
        "log-head": _make_row(DOWNLINK, LogHead, "coordinator"),
        "coordinator-hello": _make_row(DOWNLINK, CoordinatorHello, "coordinator", history=False),
        "global-chunk": _make_row(GLOBAL, None, "coordinator", history=False),
        "update-chunk": _make_row(UPDATE, None, "site", history=False),
        "model-chunk": _make_row(MODELS, None, "coordinator", history=False),
        "model-ready": _make_row(MODELS, ExperimentComplete, "coordinator", history=False),
        "journal-entry": _make_row(AUDIT, None, "coordinator", history=False),
        "receipt": _make_row(INBOX, Receipt, "coordinator", history=False),
        "refused": _make_row(INBOX, Refused, "coordinator"),
        "standing": _make_row(INBOX, Standing, "coordinator", history=False),
        "secure-mail": _make_row(INBOX, SecureMail, "coordinator"),
        "last-heard": _make_row(INBOX, LastHeard, "coordinator", history=False),
        "chunks-wanted": _make_row(INBOX, ChunksWanted, "coordinator site", history=False),
        "alive": _make_row(PROGRESS, Alive, "coordinator site", history=False),
        "progress": _make_row(PROGRESS, Progress, "site", history=False),
        "check-answer": _make_row(PROGRESS, CheckAnswer, "site", history=False),
        "echo-reply": _make_row(PROGRESS, EchoReply, "coordinator", history=False),
    }
)

ROUTES: Mapping[str, str] = MappingProxyType({kind: spec.queue for kind, spec in KINDS.items()})
"""Kind → queue; "update" stands for the sender's `update.<site>`, "inbox" for the addressee's inbox."""
