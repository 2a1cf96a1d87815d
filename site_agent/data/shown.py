"""One case as it would be trained on, for the operator's eyes: files, what was decided and why, grid, values, label.

And contact sheets of a data set of any source. Nothing of it leaves the site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from messages.ground.errors import DataError, RequestError
from messages.reasons import Reason
from site_agent.data.inventory import common_channels
from site_agent.datasets.cases import Case, LoadedCase
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.opening import show_name
from site_agent.datasets.vault import CASES, Vault
from site_agent.dicom.config import DicomDataset
from site_agent.disk.secret import secret_of

MOST_FILES = 1000
"""Files of a case that are named."""


@dataclass(frozen=True, slots=True)
class CaseShown:
    """One case.

    Attributes:
        key, patient: as the data set names them; pseudonyms where it comes from DICOM.
        decided: "used", or why it is left out. why: what led to that, a line each.
        files: what lies in it, as far as that is known.
        shape: voxels. spacing: millimetres. orientation: of the voxel axes, such as "LPS".
        intensity: channel → smallest value, median and largest one.
        label: concept → voxels. voxel_ml: millilitres of one.
        digest: SHA-256 over affine, images and label, as they are trained on.
    """

    key: str
    patient: str
    decided: str
    why: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    intensity: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    label: Mapping[str, int] = field(default_factory=dict)
    voxel_ml: float = 0.0
    digest: str = ""


def show_case(name: str, config: DatasetConfig | DicomDataset, state: Path, key: str) -> CaseShown | None:
    """The case of this key; None where the data set has none. What comes from DICOM has to be prepared.

    Args:
        key: as `konsil site datasets` says it: of DICOM the study's pseudonym, or the case's name.

    Raises:
        DataError: the folder or the list of the withdrawn cannot be read.
    """
    return _show_nifti(config, key) if isinstance(config, DatasetConfig) else _show_dicom(name, config, state, key)


def draw_any_sheets(
    name: str, config: DatasetConfig | DicomDataset, state: Path, progress: Callable[[int, int], None]
) -> list[Path]:
    """Contact sheets of a data set of any source; see `preview.draw_sheets`.

    Raises:
        DataError: it was not prepared yet, holds no case, or cannot be read.
    """
    from site_agent.datasets import layouts, source
    from site_agent.dicom.prepared import preview, store

    if not isinstance(config, DatasetConfig):
        return preview.draw_sheets(name, config, state, progress)
    layout = layouts.find_cases(config)
    channels, concepts = common_channels(layout), sorted(set(layout.labels.values()))
    survey = source.survey_cases(config, channels, set(concepts), progress, encode=layout.any_value)
    if layout.table is not None and layout.table.numbers:
        what = "is a table of numbers: there is nothing to draw"
        raise DataError(what, where=f"datasets.{name}", advice=f"Read {layout.table.file}")
    if not survey.cases:
        what = f"has no usable case out of {survey.found}"
        raise DataError(what, where=f"datasets.{name}", advice="`konsil site datasets` says why")

    def load(case: Case) -> LoadedCase:
        return source.load_case(case, config)

    folder = store.folder_of(state, name)
    preview.remove_sheets(folder)
    return preview.write_sheets(folder, survey.cases, load, channels, concepts, progress)


def _show_nifti(config: DatasetConfig, key: str) -> CaseShown | None:
    from site_agent.datasets import layouts, source
    from site_agent.datasets.barrier import CaseError
    from site_agent.datasets.cases import assemble_case
    from site_agent.datasets.consent import WithdrawnList

    layout = layouts.find_cases(config)
    candidate = next((one for one in layout.candidates if one.key == key), None)
    if candidate is None:
        return None
    patient = layout.patient_of(candidate, config)
    if WithdrawnList.read_list(config.withdrawn).covers(*layout.names_of(candidate, config)):
        return CaseShown(key, patient, f"left out: consent was withdrawn ({Reason.WITHDRAWN})")
    roles = {**candidate.images, **({} if candidate.label is None else {"label": candidate.label})}
    files = tuple(f"{role}: {show_name(str(path))}" for role, path in roles.items())
    channels = common_channels(layout)
    try:
        case = assemble_case(candidate, patient, channels, layout, layout.any_value)
        loaded = source.load_case(case, config)
    except CaseError as error:
        return CaseShown(key, patient, f"left out: {error} ({error.reason})", (), files)
    why = f"the table says: {', '.join(layout.classes_of(candidate))}"
    if layout.any_value is None:
        means = ", ".join(f"{value} = {concept}" for value, concept in sorted(layout.labels.items()))
        why = f"the label's integers: {means}"
    return _describe_case(key, patient, (show_name(why),), files, channels, loaded)


def _show_dicom(name: str, config: DicomDataset, state: Path, key: str) -> CaseShown | None:
    from site_agent.data.origins import trace_study
    from site_agent.datasets import layouts, source
    from site_agent.datasets.cases import assemble_case
    from site_agent.dicom.prepared import accounts, store

    verdicts = accounts.read_verdicts(state, name)
    study = next((one for one, verdict in verdicts.items() if key in (one, f"{verdict.patient}-{one}")), None)
    if study is None:
        return None
    verdict = verdicts[study]
    secret = secret_of(state)
    origin = trace_study(config, store.folder_of(state, name), secret, study)
    objects = tuple(
        f"object {show_name(one.name)}: left out, {one.text} ({one.reason})"
        for one in accounts.read_left_out(state, name)
        if one.study == study
    )
    why, files = (*origin.lines, *objects), tuple(show_name(one) for one in origin.files)
    prepared = store.read_manifest(state, name)
    case = f"{verdict.patient}-{study}"
    if verdict.reason is not None or prepared is None:
        reason = "not prepared yet" if verdict.reason is None else f"left out: {verdict.text} ({verdict.reason})"
        return CaseShown(case, verdict.patient, reason, why, files)
    if verdict.unverified:
        why = (*why, f"of {verdict.unverified} volumes nothing but their slices says that none is missing at the ends")
    dataset = accounts.dataset_of(name, config, state, prepared)
    layout = layouts.find_cases(dataset)
    candidate = next((one for one in layout.candidates if one.key == case), None)
    if candidate is None:
        return CaseShown(case, verdict.patient, "left out since: it is in no state of the data set", why, files)
    found = assemble_case(candidate, dataset.patient_of(case), config.channels, layout)
    loaded = source.load_case(found, dataset, Vault(secret, CASES))
    return _describe_case(case, verdict.patient, why, files, config.channels, loaded)


def _describe_case(
    key: str, patient: str, why: tuple[str, ...], files: tuple[str, ...], channels: tuple[str, ...], loaded: LoadedCase
) -> CaseShown:
    import nibabel as nib

    spacing = np.sqrt((loaded.affine[:3, :3] ** 2).sum(axis=0))
    state = sha256(np.ascontiguousarray(loaded.affine, dtype="<f8").tobytes())
    state.update(np.ascontiguousarray(loaded.image, dtype="<f4").data)
    state.update(np.ascontiguousarray(loaded.label, dtype=np.uint8).data)
    return CaseShown(
        key=key,
        patient=patient,
        decided="used",
        why=why,
        files=files,
        shape=tuple(int(edge) for edge in loaded.label.shape),
        spacing=tuple(round(float(one), 4) for one in spacing),
        orientation="".join(nib.orientations.aff2axcodes(loaded.affine)),
        intensity={
            channel: (float(volume.min()), float(np.median(volume)), float(volume.max()))
            for channel, volume in zip(channels, loaded.image, strict=True)
        },
        label={concept: int((loaded.label == n).sum()) for n, concept in enumerate(loaded.concepts, start=1)},
        voxel_ml=float(np.prod(spacing)) / 1000,
        digest=state.hexdigest(),
    )


def require_case(found: CaseShown | None, key: str) -> CaseShown:
    """The case; RequestError where no data set has it."""
    if found is None:
        raise RequestError(
            "no data set has such a case", where=key, advice="`konsil site datasets` names those that are left out"
        )
    return found
