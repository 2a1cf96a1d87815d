"""From a folder to cases: which there are, which are usable, which are left out and why; and one case's voxels.

A survey opens every file, one case at a time: a hospital's folder holds truncated copies, images without labels
and labels with unknown integers, and each must be counted under its reason instead of ending a training run.
Details (names, paths) are for the operator at the site; only the counts may leave it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from messages.experiment import Preprocessing
from messages.ground.errors import DataError
from messages.ground.written.identifiers import normalise_identifier
from messages.reasons import Reason
from site_agent.datasets import layouts, look
from site_agent.datasets.barrier import CaseError, hold_faults
from site_agent.datasets.cache import VerdictCache
from site_agent.datasets.cases import Case, LoadedCase, read_case
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.filenames import LABEL
from site_agent.datasets.opening import show_name
from site_agent.datasets.vault import Vault

Visit = Callable[[Case, LoadedCase], None]


@dataclass(frozen=True)
class LeftOut:
    """One case that is not used: for the operator's eyes, not for an event."""

    key: str
    reason: Reason
    text: str


@dataclass(frozen=True)
class Survey:
    """What a folder holds. `found` = len(cases) + sum of left_out."""

    found: int
    cases: tuple[Case, ...]
    left_out: dict[Reason, int]
    details: tuple[LeftOut, ...]


def survey_cases(
    config: DatasetConfig,
    channels: Sequence[str],
    concepts: Collection[str],
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
    vault: Vault | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    visit: Visit | None = None,
) -> Survey:
    """Find and check every case of a data set, holding one case's voxels at a time.

    Args:
        config: the operator's description.
        channels: the experiment's channels, in its order.
        concepts: every concept that the experiment's task names.
        progress: called with (cases looked at, cases found).
        cache: file (SQLite) of earlier verdicts by path, size and time of change, for a fast second survey.
        vault: opens files that are encrypted (".nii.gz.enc").
        preprocessing: what is asked of the images next; what it would make nothing of is left out, too.
        visit: shown each case that was read and found usable, so that nobody reads it again. Those that `cache` knows
            are not read. It may raise CaseError.

    Raises:
        DataError: the folder or what steers it (dataset.json, the list of the withdrawn) cannot be read, holds
            no case, or its labels do not name each of `concepts`.
    """
    layout = layouts.find_cases(config)
    missing = sorted(set(concepts) - set(layout.labels.values()))
    if missing:
        raise DataError(
            f"the data set's labels do not name {', '.join(missing)}",
            where=str(config.path),
            advice=f"Map integers to these concepts under labels in site.toml (now: {_show_labels(layout.labels)})",
        )
    withdrawn = layouts.read_withdrawn(config.withdrawn)
    cases: list[Case] = []
    details: list[LeftOut] = []
    with VerdictCache(cache, _rules_of_verdict(layout, channels, preprocessing)) as verdicts:
        for done, candidate in enumerate(layout.candidates, start=1):
            patient = config.patient_of(candidate.key)
            try:
                if {normalise_identifier(candidate.key), normalise_identifier(patient)} & withdrawn:
                    raise CaseError(Reason.WITHDRAWN, "consent was withdrawn", where=candidate.key)
                case = _assemble_case(candidate, patient, channels, layout)
                _judge_case(case, layout, verdicts, vault, preprocessing, visit)
                cases.append(case)
            except CaseError as error:
                details.append(LeftOut(candidate.key, error.reason, str(error)))
            if progress is not None:
                progress(done, len(layout.candidates))
    counts = Counter(detail.reason for detail in details)
    return Survey(
        found=len(layout.candidates),
        cases=tuple(sorted(cases, key=lambda case: case.key)),
        left_out={reason: counts[reason] for reason in sorted(counts)},
        details=tuple(details),
    )


def load_case(case: Case, config: DatasetConfig, vault: Vault | None = None) -> LoadedCase:
    """Read one case's voxels and check them; `vault` opens files that are encrypted.

    Raises:
        CaseError: a DataError whose `reason` says under which code to count the case.
    """
    described = layouts.describe_labels(config)
    return read_case(case, described.concepts, vault, described.ignored)


def _show_labels(labels: dict[int, str]) -> str:
    return ", ".join(f"{value} = {concept}" for value, concept in sorted(labels.items())) or "none"


def _rules_of_verdict(layout: layouts.Layout, channels: Sequence[str], preprocessing: Preprocessing | None) -> str:
    """What a verdict depends on beside the files: another mapping or other channels, another verdict."""
    made = "" if preprocessing is None else preprocessing.model_dump_json()
    return f"2|{sorted(layout.labels.items())}|{list(channels)}|{layout.channels}|{layout.four_dimensional}|{made}"


def _assemble_case(candidate: layouts.Candidate, patient: str, channels: Sequence[str], layout: layouts.Layout) -> Case:
    """Pick the files of the channels that the experiment wants."""
    where = candidate.key
    if candidate.unreadable:
        raise CaseError(Reason.UNREADABLE, candidate.unreadable, where=where)
    if not candidate.images:
        raise _lacking(Reason.NO_IMAGE, "there is no image", candidate, layout)
    if candidate.label is None:
        raise _lacking(Reason.NO_LABEL, "there is an image and no label", candidate, layout)
    absent = [
        name for name in channels if name not in (layout.channels if layout.four_dimensional else candidate.images)
    ]
    if absent and layout.four_dimensional:
        raise CaseError(Reason.MISSING_CHANNEL, f"no modality {', '.join(absent)}", where=where)
    if absent:
        raise _lacking(Reason.MISSING_CHANNEL, f"no file for {', '.join(absent)}", candidate, layout)
    roles = ("",) * len(channels) if layout.four_dimensional else tuple(channels)
    chosen = {role: candidate.images[role] for role in roles} | {LABEL: candidate.label}
    return Case(
        key=candidate.key,
        patient=patient,
        images=tuple(candidate.images[role] for role in roles),
        label=candidate.label,
        volumes=tuple(layout.channels.index(name) for name in channels) if layout.four_dimensional else (),
        rivals=tuple((chosen[role], other) for role, other in candidate.rivals if role in chosen),
    )


def _lacking(reason: Reason, what: str, candidate: layouts.Candidate, layout: layouts.Layout) -> CaseError:
    """Why a file is missing: perhaps it is there, and nothing says what it is."""
    if not candidate.unrecognised:
        return CaseError(reason, what, where=candidate.key)
    what += f", and nothing says what {show_name(candidate.unrecognised)} is"
    advice = 'Say in site.toml how files are named: names = { label = ["ENDING"], T1 = ["ENDING"] }'
    if layout.channels:
        advice = (
            f"Files are NAME_0000 to NAME_{len(layout.channels) - 1:04}: name each modality under channels in site.toml"
        )
    return CaseError(reason, what, where=candidate.key, advice=advice)


def _judge_case(
    case: Case,
    layout: layouts.Layout,
    verdicts: VerdictCache,
    vault: Vault | None,
    preprocessing: Preprocessing | None,
    visit: Visit | None,
) -> None:
    """Raise what is wrong with a case, from the cache where its files did not change; show one that is read."""
    known = verdicts.get_verdict(case.key, case.files)
    if known is not None:
        if known.reason is not None:
            raise CaseError(known.reason, known.text, where=case.key)
        return
    try:
        loaded = read_case(case, layout.labels, vault, layout.ignored)
        if preprocessing is not None:
            with hold_faults(case.key):
                look.judge_preprocessing(loaded.image, loaded.affine, preprocessing)
    except CaseError as error:
        verdicts.put_verdict(case.key, case.files, error.reason, error.what)
        raise
    verdicts.put_verdict(case.key, case.files, None, "")
    if visit is not None:
        visit(case, loaded)


__all__ = ["Case", "CaseError", "LeftOut", "LoadedCase", "Survey", "load_case", "survey_cases"]
