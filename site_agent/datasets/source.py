"""From a folder to cases: which there are, which are usable, which are left out and why; and one case's voxels.

A survey opens every file, one case at a time: a hospital's folder holds truncated copies, images without labels
and labels with unknown integers, and each must be counted under its reason instead of ending a training run.
Details (names, paths) are for the operator at the site; only the counts may leave it.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog

from messages.ground.errors import DataError
from messages.reasons import Reason
from messages.sections import Preprocessing
from site_agent.datasets import layouts, look
from site_agent.datasets.barrier import CaseError, hold_faults
from site_agent.datasets.cache import VerdictCache
from site_agent.datasets.cases import Case, LoadedCase, assemble_case, read_case
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.consent import COPY, Consent, WithdrawnList, compare_list
from site_agent.datasets.filenames import LABEL, is_picture
from site_agent.datasets.nifti import read_nifti
from site_agent.datasets.remarks import (
    remark_on_alike,
    remark_on_content,
    remark_on_files,
    remark_on_names,
    remark_on_parts,
)
from site_agent.datasets.tables.pictures import read_picture
from site_agent.datasets.tables.rows import EncodeValue
from site_agent.datasets.twins import Content, digest_content, digest_image, find_everybodys, find_kin, find_other_names
from site_agent.datasets.vault import Vault

log = structlog.get_logger()

Visit = Callable[[Case, LoadedCase], None]


class MissingConcept(DataError):
    """The data set does not say what the task asks for; `messages.reasons.Reason.MISSING_CONCEPT`."""

    reason = Reason.MISSING_CONCEPT


@dataclass(frozen=True)
class LeftOut:
    """One case that is not used: for the operator's eyes, not for an event."""

    key: str
    reason: Reason
    text: str


@dataclass(frozen=True)
class Survey:
    """What a folder holds. `found` = len(cases) + sum of left_out.

    Attributes:
        consent: what became of the list of the withdrawn; None where there is none.
        remarks: what else the operator should read; names cases, as `details` does.
    """

    found: int
    cases: tuple[Case, ...]
    left_out: dict[Reason, int]
    details: tuple[LeftOut, ...]
    consent: Consent | None = None
    remarks: tuple[str, ...] = ()


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
    encode: EncodeValue | None = None,
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
        encode: makes a case's truth of what a table says of it; None: a label map says what it is.

    Raises:
        DataError: the folder, the table or dataset.json cannot be read, holds no case, or its labels do not name each
            of `concepts`; the list of the withdrawn cannot be read or is in doubt (`consent.ListUnclear`).
        MissingConcept: the labels do not name each of `concepts`, or no table says what the cases are.
    """
    layout = layouts.find_cases(config)
    if encode is not None and (layout.table is None or layout.table.label is None):
        raise MissingConcept(
            "nothing says what each case is",
            where=str(config.path),
            advice='Describe the table beside the images: source = "table" and table.label in site.toml',
        )
    missing = sorted(set(concepts) - set(layout.labels.values()))
    if missing:
        raise MissingConcept(
            f"the data set's labels do not name {', '.join(missing)}",
            where=str(config.path),
            advice=f"Map integers to these concepts under labels in site.toml (now: {_show_labels(layout.labels)})",
        )
    listed = WithdrawnList.read_list(config.withdrawn)
    names = {candidate.key: layout.patient_of(candidate, config) for candidate in layout.candidates}
    aliases = {candidate.key: layout.names_of(candidate, config) for candidate in layout.candidates}
    told = compare_list(listed, aliases.values())
    cases: list[Case] = []
    details: list[LeftOut] = []
    contents: dict[str, Content] = {}
    lost: set[str] = set()
    uncompared = 0
    with VerdictCache(cache, _rules_of_verdict(layout, channels, preprocessing)) as verdicts:
        for done, candidate in enumerate(layout.candidates, start=1):
            patient = names[candidate.key]
            try:
                if listed.covers(*aliases[candidate.key]):
                    images, whole = _digest_withdrawn(candidate, vault)
                    lost |= images
                    uncompared += not whole
                    raise CaseError(Reason.WITHDRAWN, "consent was withdrawn", where=candidate.key)
                case = assemble_case(candidate, patient, channels, layout, encode)
                contents[case.key] = _judge_case(case, layout, verdicts, vault, preprocessing, visit)
                cases.append(case)
            except CaseError as error:
                details.append(LeftOut(candidate.key, error.reason, str(error)))
            if progress is not None:
                progress(done, len(layout.candidates))
    withdrawn = [detail.key for detail in details if detail.reason is Reason.WITHDRAWN]
    held: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        held[case.patient].update(contents[case.key].images)
    others = find_other_names(lost, held)
    copies = [case for case in cases if case.patient in others]
    for case in copies:
        cases.remove(case)
        del contents[case.key]
        details.append(LeftOut(case.key, Reason.WITHDRAWN, COPY))
    everybodys = find_everybodys(lost, held)
    consent = (
        None
        if told is None
        else replace(
            told,
            copies=len(copies),
            uncompared=uncompared,
            used_copies=sum(case.patient in everybodys for case in cases),
        )
    )
    if consent is not None and (uncompared or everybodys):
        log.warning(consent.say_counts(), folder=str(config.path))
    kin = find_kin(contents, names.__getitem__)
    counts = Counter(detail.reason for detail in details)
    return Survey(
        found=len(layout.candidates),
        cases=tuple(replace(case, kin=kin.get(case.patient, ())) for case in sorted(cases, key=lambda case: case.key)),
        left_out={reason: counts[reason] for reason in sorted(counts)},
        details=tuple(details),
        consent=consent,
        remarks=(
            *(remark_on_names(config, list(names)) if layout.table is None or layout.table.patient is None else ()),
            *remark_on_alike(names.values()),
            *layout.remarks,
            *remark_on_files(layout),
            *remark_on_parts(withdrawn, contents, names.__getitem__),
            *remark_on_content(contents, names.__getitem__, layout.labels if encode is None else {}),
        ),
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
    return f"4|{sorted(layout.labels.items())}|{list(channels)}|{layout.channels}|{layout.four_dimensional}|{made}"


def _digest_case(loaded: LoadedCase, vault: Vault | None) -> Content:
    return digest_content(loaded.image, loaded.label, loaded.affine, _key_of_digests(vault))


def _key_of_digests(vault: Vault | None) -> bytes:
    return b"" if vault is None else vault.make_key("twins")


def _digest_withdrawn(candidate: layouts.Candidate, vault: Vault | None) -> tuple[set[str], bool]:
    """Digests of all images of somebody who has withdrawn, to leave out copies under other names, and whether every
    image could be read; kept nowhere.

    Each file by itself: a copy may have what makes a case of it, though this one lacks it.
    """
    paths = [*candidate.images.values(), *(path for role, path in candidate.rivals if role != LABEL)]
    key, found, whole = _key_of_digests(vault), set(), not candidate.unreadable
    for path in dict.fromkeys(paths):
        read = False
        with contextlib.suppress(CaseError), hold_faults(candidate.key):
            file = read_picture(path, None) if is_picture(path.name) else read_nifti(path, vault)
            voxels = file.read_voxels()
            for image in np.moveaxis(voxels, 3, 0) if voxels.ndim == 4 else (voxels,):
                if image.size and image.min() < image.max():  # an empty one is like everybody's
                    found.add(digest_image(image, file.affine, key))
            read = True
        whole = whole and read  # of a file that is damaged here a copy may be whole
    return found, whole


def _judge_case(
    case: Case,
    layout: layouts.Layout,
    verdicts: VerdictCache,
    vault: Vault | None,
    preprocessing: Preprocessing | None,
    visit: Visit | None,
) -> Content:
    """What a case holds; raise what is wrong with it. From the cache where its files did not change, else read once."""
    if not case.images:
        return Content()
    known = verdicts.get_verdict(case.key, case.files)
    if known is not None:
        if known.reason is not None:
            raise CaseError(known.reason, known.text, where=case.key)
        return known.content or Content()
    try:
        loaded = read_case(case, layout.labels, vault, layout.ignored)
        with hold_faults(case.key):
            if preprocessing is not None:
                look.judge_preprocessing(loaded.image, loaded.affine, preprocessing, whole=bool(case.truth))
            content = _digest_case(loaded, vault)
    except CaseError as error:
        verdicts.put_verdict(case.key, case.files, error.reason, error.what)
        raise
    verdicts.put_verdict(case.key, case.files, None, "", content)
    if visit is not None:
        visit(case, loaded)
    return content


__all__ = ["Case", "CaseError", "LeftOut", "LoadedCase", "MissingConcept", "Survey", "load_case", "survey_cases"]
