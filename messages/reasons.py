"""The one list of reason codes. Events carry codes and counts, never a site's free text.

Codes are never renamed or reused. `ADVICE` says what a reader can do about each.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why something was left out, declined, refused or ended."""

    # cases of a data set that were left out
    NO_LABEL = "no-label"
    NO_IMAGE = "no-image"
    UNREADABLE = "unreadable"
    SHAPE_MISMATCH = "shape-mismatch"
    AFFINE_MISMATCH = "affine-mismatch"
    UNKNOWN_LABEL_VALUE = "unknown-label-value"
    MISSING_CHANNEL = "missing-channel"
    WITHDRAWN = "withdrawn"
    NOT_FINITE = "not-finite"
    EMPTY_IMAGE = "empty-image"
    # studies and series of a PACS that were left out
    RETRIEVE_FAILED = "retrieve-failed"
    INCOMPLETE_SERIES = "incomplete-series"
    MISSING_SLICES = "missing-slices"
    DUPLICATE_SLICES = "duplicate-slices"
    IRREGULAR_SPACING = "irregular-spacing"
    TILTED = "tilted"
    MIXED_GEOMETRY = "mixed-geometry"
    MISSING_GEOMETRY = "missing-geometry"
    TOO_FEW_SLICES = "too-few-slices"
    TIME_SERIES = "time-series"
    AMBIGUOUS_SERIES = "ambiguous-series"
    UNRECOGNISED_SERIES = "unrecognised-series"
    OTHER_SERIES_PREFERRED = "other-series-preferred"
    IGNORED_SERIES = "ignored-series"
    DERIVED_IMAGE = "derived-image"
    LOCALIZER = "localizer"
    SECONDARY_CAPTURE = "secondary-capture"
    BURNED_IN_ANNOTATION = "burned-in-annotation"
    UNSUPPORTED_IMAGE = "unsupported-image"
    UNDECODABLE_PIXELS = "undecodable-pixels"
    OTHER_FRAME_OF_REFERENCE = "other-frame-of-reference"
    LABEL_REFERENCES_OTHERS = "label-references-others"
    UNMATCHED_LABEL = "unmatched-label"
    OVERLAPPING_LABELS = "overlapping-labels"
    SEVERAL_LABELS = "several-labels"
    MIXED_PATIENTS = "mixed-patients"
    # a site declines an experiment or a round
    UNKNOWN_DATASET = "unknown-dataset"
    MISSING_CONCEPT = "missing-concept"
    TOO_FEW_CASES = "too-few-cases"
    TOO_MANY_LEFT_OUT = "too-many-left-out"
    NOT_ALLOWED = "not-allowed"
    RESEARCHER_NOT_ALLOWED = "researcher-not-allowed"
    NET_NOT_ALLOWED = "net-not-allowed"
    CODEC_NOT_ALLOWED = "codec-not-allowed"
    TASK_NOT_ALLOWED = "task-not-allowed"
    DATASET_NOT_ALLOWED = "dataset-not-allowed"
    TOO_MANY_ROUNDS = "too-many-rounds"
    AWAITS_APPROVAL = "awaits-approval"
    POLICY_EXPIRED = "policy-expired"
    EXPERIMENT_EXPIRED = "experiment-expired"
    PRIVACY_BELOW_FLOOR = "privacy-below-floor"
    SITE_PAUSED = "site-paused"
    SITE_DRAINING = "site-draining"
    OUTSIDE_HOURS = "outside-hours"
    DATASET_GONE = "dataset-gone"
    DATASET_CHANGED = "dataset-changed"
    UNSUPPORTED = "unsupported"
    # training
    CUDA_OOM = "cuda-oom"
    OUT_OF_MEMORY = "out-of-memory"
    NAN_LOSS = "nan-loss"
    GPU_ERROR = "gpu-error"
    DISK_FULL = "disk-full"
    TRAINER_DIED = "trainer-died"
    TRAINER_STUCK = "trainer-stuck"
    TRAINING_ERROR = "training-error"
    # the coordinator refuses an event or an update
    UNKNOWN_SITE = "unknown-site"
    NOT_INVITED = "not-invited"
    NOT_JOINED = "not-joined"
    UNKNOWN_EXPERIMENT = "unknown-experiment"
    UNKNOWN_KIND = "unknown-kind"
    WRONG_ROUND = "wrong-round"
    WRONG_STATE = "wrong-state"
    LATE = "late"
    DUPLICATE = "duplicate"
    OLDER_ATTEMPT = "older-attempt"
    WRONG_SHAPE = "wrong-shape"
    WRONG_DIGEST = "wrong-digest"
    WRONG_CODEC = "wrong-codec"
    NOT_FINITE_UPDATE = "not-finite-update"
    NO_CASES = "no-cases"
    ID_TAKEN = "id-taken"
    INVALID_EXPERIMENT = "invalid-experiment"
    UNKNOWN_NET = "unknown-net"
    NOT_THE_OWNER = "not-the-owner"
    OLD_TERM = "old-term"
    SENDER_MISMATCH = "sender-mismatch"
    # bytes from the wire
    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    TOO_DEEP = "too-deep"
    UNKNOWN_FIELD = "unknown-field"
    WRONG_TYPE = "wrong-type"
    UNKNOWN_SCHEMA = "unknown-schema"
    # a site was left out of a round
    ABSENT = "absent"
    STRAGGLER = "straggler"
    # an experiment ended or waits
    ENROLMENT_FAILED = "enrolment-failed"
    QUORUM_NOT_MET = "quorum-not-met"
    NO_ROUND_CLOSED = "no-round-closed"
    ABORTED = "aborted"
    INITIALISATION_FAILED = "initialisation-failed"
    AGGREGATION_FAILED = "aggregation-failed"
    LEAVING = "leaving"
    # what a site foresees of an experiment
    PATCH_TOO_LARGE = "patch-too-large"
    AMP_WITHOUT_GPU = "amp-without-gpu"
    # figures that cannot be, and sites that a researcher takes no further
    TOO_MANY_CASES = "too-many-cases"
    IMPLAUSIBLE_SCORES = "implausible-scores"
    OUTLYING_UPDATE = "outlying-update"
    WRONG_LABELS = "wrong-labels"
    EXCLUDED = "excluded"
    # a researcher has as many experiments as may be open at a time
    TOO_MANY_EXPERIMENTS = "too-many-experiments"
    # who may say what
    BAD_SIGNATURE = "bad-signature"
    SIGNATURE_MISSING = "signature-missing"
    NO_GOOD_KEY = "no-good-key"
    EQUIVOCATION = "equivocation"
    FORKED_LOG = "forked-log"
    WRONG_ADDRESSEE = "wrong-addressee"
    OUT_OF_TIME = "out-of-time"
    UNPROVEN_LOG = "unproven-log"
    # what a site's policy asks for beside
    PLAN_NOT_ALLOWED = "plan-not-allowed"
    PURPOSE_NOT_ALLOWED = "purpose-not-allowed"
    APPROVAL_MISSING = "approval-missing"
    # an update began too many models ago
    TOO_STALE = "too-stale"
    # a site's privacy budget
    PRIVACY_BUDGET_SPENT = "privacy-budget-spent"
    # statistics of the sites' data
    STATISTICS_NOT_ALLOWED = "statistics-not-allowed"
    NO_CONFIGURATION = "no-configuration"
    # secure rounds
    ROUND_VOID = "round-void"
    NET_NOT_MASKABLE = "net-not-maskable"
    SECRETS_LOST = "secrets-lost"
    # differential privacy
    NET_NOT_PRIVATE = "net-not-private"
    BAD_ROSTER = "bad-roster"
    TOO_FEW_PEERS = "too-few-peers"
    ASKED_TWICE = "asked-twice"
    OTHER_CONTEXT = "other-context"
    CONSENT_MISSING = "consent-missing"
    BAD_SHARE = "bad-share"
    SHARE_UNREADABLE = "share-unreadable"
    UPDATE_OUT_OF_RANGE = "update-out-of-range"
    SUM_OUT_OF_RANGE = "sum-out-of-range"
    # what a reader does not know
    OTHER = "other"


RETIRED = frozenset({Reason.NO_ROUND_CLOSED})
"""Codes that no version gives any more. They stay readable, since journals and streams hold them."""

PASSING = frozenset(
    {Reason.SITE_PAUSED, Reason.SITE_DRAINING, Reason.OUTSIDE_HOURS, Reason.POLICY_EXPIRED, Reason.DISK_FULL,
     Reason.DATASET_GONE, Reason.UNPROVEN_LOG}
)  # fmt: skip
"""Why a site gives up a round that it takes on after all once the reason is gone, if the round still waits for it."""

EXCLUDING = (
    Reason.EXCLUDED, Reason.OUTLYING_UPDATE, Reason.IMPLAUSIBLE_SCORES, Reason.TOO_MANY_CASES, Reason.WRONG_LABELS,
    Reason.DATASET_CHANGED, Reason.ABSENT,
)  # fmt: skip
"""What a researcher may give as the reason for excluding a site; the first says nothing more."""

IN_OLDER_WORDS: dict[Reason, Reason] = {
    Reason.TOO_MANY_CASES: Reason.MALFORMED,
    Reason.IMPLAUSIBLE_SCORES: Reason.MALFORMED,
    Reason.OUTLYING_UPDATE: Reason.MALFORMED,
    Reason.EXCLUDED: Reason.NOT_JOINED,
    Reason.WRONG_LABELS: Reason.NOT_JOINED,
    Reason.TOO_MANY_EXPERIMENTS: Reason.NOT_ALLOWED,
    Reason.BAD_SIGNATURE: Reason.SENDER_MISMATCH,
    Reason.SIGNATURE_MISSING: Reason.SENDER_MISMATCH,
    Reason.NO_GOOD_KEY: Reason.SENDER_MISMATCH,
    Reason.EQUIVOCATION: Reason.ID_TAKEN,
    Reason.FORKED_LOG: Reason.NOT_ALLOWED,
    Reason.WRONG_ADDRESSEE: Reason.SENDER_MISMATCH,
    Reason.OUT_OF_TIME: Reason.EXPERIMENT_EXPIRED,
    Reason.UNPROVEN_LOG: Reason.SITE_PAUSED,
    Reason.PLAN_NOT_ALLOWED: Reason.NOT_ALLOWED,
    Reason.PURPOSE_NOT_ALLOWED: Reason.NOT_ALLOWED,
    Reason.APPROVAL_MISSING: Reason.NOT_ALLOWED,
    Reason.TOO_STALE: Reason.LATE,
    Reason.PRIVACY_BUDGET_SPENT: Reason.PRIVACY_BELOW_FLOOR,
    Reason.STATISTICS_NOT_ALLOWED: Reason.NOT_ALLOWED,
    Reason.NO_CONFIGURATION: Reason.INITIALISATION_FAILED,
    Reason.ROUND_VOID: Reason.QUORUM_NOT_MET,
    Reason.NET_NOT_MASKABLE: Reason.INITIALISATION_FAILED,
    Reason.SECRETS_LOST: Reason.TRAINING_ERROR,
    Reason.NET_NOT_PRIVATE: Reason.NET_NOT_ALLOWED,
    Reason.BAD_ROSTER: Reason.NOT_ALLOWED,
    Reason.TOO_FEW_PEERS: Reason.NOT_ALLOWED,
    Reason.ASKED_TWICE: Reason.NOT_ALLOWED,
    Reason.OTHER_CONTEXT: Reason.NOT_ALLOWED,
    Reason.CONSENT_MISSING: Reason.NOT_ALLOWED,
    Reason.BAD_SHARE: Reason.MALFORMED,
    Reason.SHARE_UNREADABLE: Reason.MALFORMED,
    Reason.UPDATE_OUT_OF_RANGE: Reason.NAN_LOSS,
    Reason.SUM_OUT_OF_RANGE: Reason.AGGREGATION_FAILED,
    Reason.OTHER: Reason.TRAINING_ERROR,
}
"""What is told instead to whom the code may be unknown: a code of 0.1. "other" is how we read, and never said."""

ADVICE: dict[Reason, str] = {
    Reason.NO_LABEL: "Add the label, or leave the image out",
    Reason.NO_IMAGE: "Add the image file, or leave the label out",
    Reason.UNREADABLE: "The file is damaged, or neither NIfTI nor DICOM: copy it again from its source",
    Reason.SHAPE_MISMATCH: "Image and label must lie on one voxel grid: resample one to the other",
    Reason.AFFINE_MISMATCH: "Image and label say different positions in space: check their headers",
    Reason.UNKNOWN_LABEL_VALUE: "Map the integer, or the table's word, under [datasets.NAME] in site.toml",
    Reason.MISSING_CHANNEL: "Each case needs every modality that the experiment names",
    Reason.WITHDRAWN: "Consent was withdrawn: nothing to do",
    Reason.NOT_FINITE: "The image holds NaN or infinity, or does once it is normalised: export it again",
    Reason.EMPTY_IMAGE: "The image is empty: export it again",
    Reason.RETRIEVE_FAILED: "The PACS did not deliver all of it; it is asked for again at the next preparation",
    Reason.INCOMPLETE_SERIES: "The series has fewer images than it says: have the archive checked, or send it again",
    Reason.MISSING_SLICES: "Slices are missing inside the series: send it again from the scanner or archive",
    Reason.DUPLICATE_SLICES: "Several images lie at one position and nothing tells them apart: leave one out",
    Reason.IRREGULAR_SPACING: "The slices' distances differ: the series is no regular grid",
    Reason.TILTED: "The slices are sheared (gantry tilt): the series is no right-angled grid",
    Reason.MIXED_GEOMETRY: "Images of several sizes or directions lie in one series",
    Reason.MISSING_GEOMETRY: "The images do not say, or not believably, where they lie (position, direction, spacing)",
    Reason.TOO_FEW_SLICES: "The series is no volume",
    Reason.TIME_SERIES: "The series holds several volumes over time and a case needs one",
    Reason.AMBIGUOUS_SERIES: "Several series or files could be this modality: say which by overrides or names",
    Reason.UNRECOGNISED_SERIES: "No rule says which modality this is: add an override in site.toml",
    Reason.OTHER_SERIES_PREFERRED: "A better series of the same modality is taken (3-D, thinner): nothing to do",
    Reason.IGNORED_SERIES: "An override in site.toml leaves the series out: nothing to do",
    Reason.DERIVED_IMAGE: "Maps, projections and subtractions are not trained on: nothing to do",
    Reason.LOCALIZER: "Localizers are not trained on: nothing to do",
    Reason.SECONDARY_CAPTURE: "Screenshots are not trained on: nothing to do",
    Reason.BURNED_IN_ANNOTATION: "Text may be burned into the pixels: such images are never used",
    Reason.UNSUPPORTED_IMAGE: "Not a greyscale image of a kind and size that can be trained on",
    Reason.UNDECODABLE_PIXELS: "The pixels cannot be decoded: damaged, or compressed in a way that is not supported",
    Reason.OTHER_FRAME_OF_REFERENCE: "The series has another frame of reference, and Konsil does not register images",
    Reason.LABEL_REFERENCES_OTHERS: "The label refers to images that are not there: send those, or their own label",
    Reason.UNMATCHED_LABEL: "No segment or structure is a concept that site.toml names: add its code there",
    Reason.OVERLAPPING_LABELS: "Two concepts claim one voxel and site.toml does not say which wins (labels.order)",
    Reason.SEVERAL_LABELS: "Several labels fit one study and nothing says which counts",
    Reason.MIXED_PATIENTS: "One study names several patients: have the archive checked",
    Reason.UNKNOWN_DATASET: "Describe the data set under [datasets.NAME] in site.toml",
    Reason.MISSING_CONCEPT: "The site's labels do not name every concept that the experiment's task needs",
    Reason.TOO_FEW_CASES: "The site has fewer usable cases than the experiment or its own policy asks for",
    Reason.TOO_MANY_LEFT_OUT: "Run `konsil site datasets` at the site to see why cases were left out",
    Reason.NOT_ALLOWED: "The site's policy does not allow this experiment",
    Reason.RESEARCHER_NOT_ALLOWED: "Ask the site to name the researcher under [[policy.allow]]",
    Reason.NET_NOT_ALLOWED: "Ask the site to name the net under [[policy.allow]]",
    Reason.CODEC_NOT_ALLOWED: "Ask the site to name the codec under [[policy.allow]], or use one that it allows",
    Reason.TASK_NOT_ALLOWED: "Ask the site to name the task under [[policy.allow]]",
    Reason.PLAN_NOT_ALLOWED: "Ask the site to name the plan (plan.kind) under [[policy.allow]]",
    Reason.PURPOSE_NOT_ALLOWED: "The site allows its data for other purposes: agree with it on the words of `purpose`",
    Reason.APPROVAL_MISSING: "The site takes part only under an approval: write its number as `approval` in the file",
    Reason.STATISTICS_NOT_ALLOWED: "The site tells no statistics of its data: ask it to set policy.statistics, or name"
    " the net and its settings in the file",
    Reason.NO_CONFIGURATION: "The sites told too little, or images or memory are too small: name a net in the file",
    Reason.NET_NOT_PRIVATE: "Batch normalisation mixes patients, and its statistics travel without noise: choose"
    ' norm = "instance" or "group", or another net',
    Reason.DATASET_NOT_ALLOWED: "Ask the site to name the data set under [[policy.allow]]",
    Reason.TOO_MANY_ROUNDS: "Ask for fewer rounds, or the site to raise rounds_max",
    Reason.AWAITS_APPROVAL: "The site's operator approves by hand: `konsil site resume --approve ID`",
    Reason.POLICY_EXPIRED: "The site's permission has run out: the operator renews `until`",
    Reason.EXPERIMENT_EXPIRED: "The experiment's `expires` lies in the past",
    Reason.PRIVACY_BELOW_FLOOR: "The site's privacy floors are stricter than the experiment's settings",
    Reason.PRIVACY_BUDGET_SPENT: "Its rounds would pass the experiment's epsilon_max, or what the site still allows"
    " for its patients: ask for fewer rounds or more noise",
    Reason.SITE_PAUSED: "The operator paused the site: `konsil site resume`",
    Reason.SITE_DRAINING: "The site finishes what it has and takes no new work",
    Reason.OUTSIDE_HOURS: "The site works in its allowed hours only",
    Reason.DATASET_GONE: "The data set's folder cannot be read any more: check path and mount",
    Reason.DATASET_CHANGED: "The data set changed between rounds: start a new experiment, or restore it",
    Reason.UNSUPPORTED: "Update the site agent: it does not know what the experiment asks for. Of training.trainer: the"
    " site has no such trainer, or its `konsil site preflight` says why it cannot be run",
    Reason.CUDA_OOM: "Use a smaller patch or batch, or a GPU with more memory",
    Reason.OUT_OF_MEMORY: "Use a smaller patch or batch, or raise the site's memory limit",
    Reason.NAN_LOSS: "Training is to blame, every image was finite: lower the learning rate, or set training.clip_norm",
    Reason.GPU_ERROR: "Check the GPU with nvidia-smi; the site's log holds the driver's words",
    Reason.DISK_FULL: "Free disk space where it is short (site or coordinator)",
    Reason.TRAINER_DIED: "The training process ended unexpectedly; the site's log says how",
    Reason.TRAINER_STUCK: "The training process made no progress and was ended; the site's log says where",
    Reason.TRAINING_ERROR: "The site's log holds the error's own words",
    Reason.UNKNOWN_SITE: "The operator admits sites: `sites` in coordinator.toml, and `konsil broker definitions`",
    Reason.NOT_INVITED: "Name the site under `sites` in the experiment file",
    Reason.NOT_JOINED: "The site has not joined this experiment",
    Reason.UNKNOWN_EXPERIMENT: "No experiment of this id runs here",
    Reason.UNKNOWN_KIND: "Update this party: it does not know the event's kind",
    Reason.WRONG_ROUND: "The event speaks of a round that is not running",
    Reason.WRONG_STATE: "The experiment is in no state for that: `konsil experiment list` shows where it is",
    Reason.LATE: "The round closed before the update came: it is recorded and not used",
    Reason.TOO_STALE: "The update began more than plan.max_staleness models ago: the site begins anew with the newest",
    Reason.DUPLICATE: "The same event came before: nothing to do",
    Reason.OLDER_ATTEMPT: "A newer attempt of the same update is known",
    Reason.WRONG_SHAPE: "Tensors of an update or of the initial model differ from the net's in name, shape or type",
    Reason.WRONG_DIGEST: "The update's bytes do not match its digest: the site sends it again",
    Reason.WRONG_CODEC: "The update is not encoded as the experiment says",
    Reason.NOT_FINITE_UPDATE: "The update holds NaN or infinity: lower the learning rate",
    Reason.NO_CASES: "The update says that it was trained on no case",
    Reason.ID_TAKEN: "Choose another id: this one belongs to an experiment with other content",
    Reason.INVALID_EXPERIMENT: "Run `konsil experiment check FILE`",
    Reason.UNKNOWN_NET: "Run `konsil experiment check FILE`: it lists the nets",
    Reason.NOT_THE_OWNER: "Only the researcher who started an experiment may do that",
    Reason.OLD_TERM: "A coordinator of an earlier term is still speaking: end it",
    Reason.BAD_SIGNATURE: "Somebody else wrote it, or it was changed on its way: ask the sender",
    Reason.SIGNATURE_MISSING: "The sender has to sign: give it its key in [trust], or update it",
    Reason.NO_GOOD_KEY: "The operator's register has no good key of the sender: renew it with `konsil provision`",
    Reason.EQUIVOCATION: "One sender said two things under one id: both are kept; ask the sender",
    Reason.FORKED_LOG: "The coordinator showed two histories: `konsil site heads` has both as proof; tell the operator",
    Reason.WRONG_ADDRESSEE: "A copy of an event that was signed for another party or queue: ask the broker's operator",
    Reason.OUT_OF_TIME: "Older than its experiment, or copied long after it was written: set the sender's clock",
    Reason.UNPROVEN_LOG: "The site waits for a head of the log that is proven to follow, or that more sites have seen",
    Reason.SENDER_MISMATCH: "The broker's user, the routing key and the event name different senders",
    Reason.MALFORMED: "The sender's software is broken or not Konsil",
    Reason.TOO_LARGE: "The sender's software is broken or not Konsil",
    Reason.TOO_DEEP: "The sender's software is broken or not Konsil",
    Reason.UNKNOWN_FIELD: "Sender and receiver run different versions: update the older one",
    Reason.WRONG_TYPE: "The sender's software is broken or not Konsil",
    Reason.UNKNOWN_SCHEMA: "Sender and receiver run different versions: update the older one",
    Reason.ABSENT: "The site did not report in this round",
    Reason.STRAGGLER: "The site's update came after its round had closed",
    Reason.ENROLMENT_FAILED: "Too few sites joined; each that declined said why",
    Reason.QUORUM_NOT_MET: "Too few updates came before the round's last deadline",
    Reason.NO_ROUND_CLOSED: "No round came to its end",
    Reason.ABORTED: "The researcher ended the experiment",
    Reason.INITIALISATION_FAILED: "The coordinator could not build the net: its log says why",
    Reason.AGGREGATION_FAILED: "The coordinator could not aggregate, or handle what came: its log says why",
    Reason.OTHER: "A newer version gave a reason that this one does not know: update this one, or read the other's log",
    Reason.TOO_MANY_CASES: "The site claims more cases than it joined with, or than the operator's limits.cases_max",
    Reason.IMPLAUSIBLE_SCORES: "No cases that the site joined with can have these scores: look at its software",
    Reason.OUTLYING_UPDATE: "The update moves the model beyond limits.norm_factor times the round's median: look at it",
    Reason.WRONG_LABELS: "The site's labels mean something else: compare `konsil site datasets`, and `site preview`",
    Reason.EXCLUDED: "The researcher excluded the site from the rest of the experiment",
    Reason.PATCH_TOO_LARGE: "training.patch is larger than the site's images, which are padded with zeros: shrink it",
    Reason.AMP_WITHOUT_GPU: 'The site lends no GPU: precision = "amp" trains in float32 there, without a gain',
    Reason.TOO_MANY_EXPERIMENTS: "So many of the researcher's experiments are open at the site: abort one, or ask"
    " the site to raise policy.open_per_researcher",
    Reason.NET_NOT_MASKABLE: "The net keeps numbers that are no float32, as batch normalisation does: choose another"
    " norm or net",
    Reason.ROUND_VOID: "Secure rounds ended without a sum, three in a row: the log says of each what it lacked",
    Reason.SECRETS_LOST: "The site's secrets of this round are gone, or its state folder came out of a backup: it takes"
    " part again from the next round",
    Reason.BAD_ROSTER: "A secure round's roster has a key or site twice, or a changed key: ask the operator",
    Reason.TOO_FEW_PEERS: "Too few sites that count would hide the update: more must take part, or the site names more"
    " of them under policy.floors.peers",
    Reason.ASKED_TWICE: "The coordinator asked for a second, different step of a secure round: ask its operator",
    Reason.OTHER_CONTEXT: "The coordinator told the site another model, roster or weight than it saw: ask its operator",
    Reason.CONSENT_MISSING: "Too few sites consented to the same sum: nothing is revealed for it",
    Reason.BAD_SHARE: "A revealed share does not fit: its holder or its dealer is broken; the log holds both messages",
    Reason.SHARE_UNREADABLE: "A share that a peer sealed does not open: the round goes on without it",
    Reason.UPDATE_OUT_OF_RANGE: "The update moves more than one weight in 10,000 out of range: lower the learning rate",
    Reason.SUM_OUT_OF_RANGE: "No honest updates have this sum: a site sent another than it should; the model stays",
    Reason.LEAVING: "The site agent was stopped; it takes part again when it is started",
}

OF_COORDINATOR: dict[Reason, str] = {
    Reason.RESEARCHER_NOT_ALLOWED: "The coordinator's operator names researchers: `researchers` in coordinator.toml",
    Reason.TOO_LARGE: "The model is larger than the coordinator takes: choose a smaller net, or have its operator raise"
    " limits.model_bytes_max",
    Reason.TOO_MANY_EXPERIMENTS: "So many of your experiments are open: abort one, or ask the coordinator's operator"
    " to raise limits.open_per_researcher",
}
"""What differs where not a site but the coordinator gave the reason."""


def advise_on(reason: Reason, *, by_coordinator: bool = False, waits: bool = False) -> str:
    """What a reader can do about a reason.

    Args:
        by_coordinator: the coordinator gave it, by its own rules.
        waits: what gave it only waits, and goes on by itself once the reason is gone.
    """
    advice = OF_COORDINATOR.get(reason, ADVICE[reason]) if by_coordinator else ADVICE[reason]
    return f"{advice}. It goes on by itself then" if waits and reason in PASSING else advice
