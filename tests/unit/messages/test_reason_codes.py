"""Reason codes are never renamed or reused: journals and streams hold them."""

from __future__ import annotations

import re

from places import ROOT

from messages.reasons import ADVICE, RETIRED, Reason

OF_THE_FIRST_RELEASE = [
    "no-label",
    "no-image",
    "unreadable",
    "shape-mismatch",
    "affine-mismatch",
    "unknown-label-value",
    "missing-channel",
    "withdrawn",
    "not-finite",
    "empty-image",
    "retrieve-failed",
    "incomplete-series",
    "missing-slices",
    "duplicate-slices",
    "irregular-spacing",
    "tilted",
    "mixed-geometry",
    "missing-geometry",
    "too-few-slices",
    "time-series",
    "ambiguous-series",
    "unrecognised-series",
    "other-series-preferred",
    "ignored-series",
    "derived-image",
    "localizer",
    "secondary-capture",
    "burned-in-annotation",
    "unsupported-image",
    "undecodable-pixels",
    "other-frame-of-reference",
    "label-references-others",
    "unmatched-label",
    "overlapping-labels",
    "several-labels",
    "mixed-patients",
    "unknown-dataset",
    "missing-concept",
    "too-few-cases",
    "too-many-left-out",
    "not-allowed",
    "researcher-not-allowed",
    "net-not-allowed",
    "codec-not-allowed",
    "task-not-allowed",
    "dataset-not-allowed",
    "too-many-rounds",
    "awaits-approval",
    "policy-expired",
    "experiment-expired",
    "privacy-below-floor",
    "site-paused",
    "site-draining",
    "outside-hours",
    "dataset-gone",
    "dataset-changed",
    "unsupported",
    "cuda-oom",
    "out-of-memory",
    "nan-loss",
    "gpu-error",
    "disk-full",
    "trainer-died",
    "trainer-stuck",
    "training-error",
    "unknown-site",
    "not-invited",
    "not-joined",
    "unknown-experiment",
    "unknown-kind",
    "wrong-round",
    "wrong-state",
    "late",
    "duplicate",
    "older-attempt",
    "wrong-shape",
    "wrong-digest",
    "wrong-codec",
    "not-finite-update",
    "no-cases",
    "id-taken",
    "invalid-experiment",
    "unknown-net",
    "not-the-owner",
    "old-term",
    "sender-mismatch",
    "malformed",
    "too-large",
    "too-deep",
    "unknown-field",
    "wrong-type",
    "unknown-schema",
    "absent",
    "straggler",
    "enrolment-failed",
    "quorum-not-met",
    "no-round-closed",
    "aborted",
    "initialisation-failed",
    "aggregation-failed",
    "leaving",
]


def test_every_code_of_the_first_release_is_still_read_and_has_its_advice() -> None:
    assert [code for code in OF_THE_FIRST_RELEASE if Reason(code) not in ADVICE] == []


def test_a_retired_code_is_given_nowhere() -> None:
    names = "|".join(one.name for one in RETIRED)
    sources = [
        file
        for top in ("messages", "nets", "coordinator", "site_agent", "deploy")
        for file in (ROOT / top).rglob("*.py")
        if file.name != "reasons.py"
    ]
    assert len(sources) > 100
    assert [file for file in sources if re.search(rf"\b({names})\b", file.read_text(encoding="utf-8"))] == []
