"""The demo's data: seeded, BraTS-like gliomas on disk, each site with its own scanner, file names and integers.

Not medical data and not for judging a method on: it is there so that a consortium can be tried on any machine.
Anatomy comes from `deploy.demo.phantoms.anatomy`; this module gives each tissue its brightness in four contrasts,
passes it through a scanner (point spread, bias field, gain, contrast, Rician noise: Gudbjartsson and Patz 1995) and
writes NIfTI in the layouts of BraTS 2023 (`BraTS-GLI-00001-000-t1c.nii.gz`, ET = 3, several time points) or of
BraTS 2021 (`BraTS2021_00001_t1ce.nii.gz`, ET = 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from deploy.demo.phantoms.anatomy import (
    TISSUES,
    Brain,
    Field,
    Shape,
    Spacing,
    Tumour,
    draw_individual,
    grow_tumour,
    smooth_noise,
)

CONTRASTS = ("T1", "T1c", "T2", "FLAIR")
DEFAULT_SHAPE: Shape = (64, 64, 48)
DEFAULT_SPACING_MM: Spacing = (2.75, 2.75, 2.75)
PATIENT_ID = r"^BraTS(?:-GLI-|2021_)(\d{5})(?:-\d{3})?$"

# Relative brightness (white matter in T1 = 1). T1: WM > GM > CSF; T2: CSF > GM > WM; FLAIR: fluid suppressed.
_BRIGHTNESS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        #          CSF   GM    DGM   WM    WMH   VESSEL DURA CHOROID ED    ET    NCR   NET
        "T1": dict(zip(TISSUES, (0.30, 0.74, 0.84, 1.00, 0.80, 0.45, 0.70, 0.55, 0.74, 0.72, 0.46, 0.62), strict=True)),
        "T1c": dict(
            zip(TISSUES, (0.30, 0.76, 0.86, 1.00, 0.80, 1.75, 1.55, 1.50, 0.75, 1.50, 0.48, 0.64), strict=True)
        ),
        "T2": dict(zip(TISSUES, (1.45, 0.74, 0.64, 0.54, 0.86, 0.28, 0.40, 1.10, 1.00, 0.86, 1.22, 1.08), strict=True)),
        "FLAIR": dict(
            zip(TISSUES, (0.22, 0.78, 0.72, 0.60, 1.12, 0.30, 0.50, 0.60, 1.14, 0.98, 0.58, 1.02), strict=True)
        ),
    }
)
_SUFFIXES_2023 = {"T1": "-t1n", "T1c": "-t1c", "T2": "-t2w", "FLAIR": "-t2f", "label": "-seg"}
_SUFFIXES_2021 = {"T1": "_t1", "T1c": "_t1ce", "T2": "_t2", "FLAIR": "_flair", "label": "_seg"}


@dataclass(frozen=True)
class Scanner:
    """How one site's scanner differs from another's.

    Attributes:
        gain: value of white matter in T1, in stored units.
        noise: deviation of the Rician noise's Gaussian parts, as a share of white matter in T1.
        blur_mm: point spread (deviation of a Gaussian, in-plane, through-plane).
        bias: strength of the smooth multiplicative field (0.2: about ±20 %).
        contrast: exponent on the brightness, one per contrast; above 1 widens differences.
    """

    gain: float = 400.0
    noise: float = 0.05
    blur_mm: tuple[float, float] = (1.0, 1.4)
    bias: float = 0.15
    contrast: Mapping[str, float] = field(default_factory=lambda: MappingProxyType(dict.fromkeys(CONTRASTS, 1.0)))


@dataclass(frozen=True)
class TumourSizes:
    """Ranges that a site's tumours are drawn from. Lengths in mm."""

    core_mm: tuple[float, float] = (17.0, 26.0)
    rim_mm: tuple[float, float] = (7.0, 10.0)
    oedema_mm: tuple[float, float] = (8.0, 22.0)
    irregularity: tuple[float, float] = (0.15, 0.35)
    not_enhancing: float = 0.05
    """Share of tumours without enhancing core; rare among BraTS's gliomas too."""
    satellite: float = 0.15


_SCANNERS = (
    Scanner(),
    Scanner(
        gain=1100.0,
        noise=0.07,
        blur_mm=(0.8, 2.2),
        bias=0.25,
        contrast=MappingProxyType({"T1": 1.15, "T1c": 1.1, "T2": 0.9, "FLAIR": 1.1}),
    ),
    Scanner(
        gain=180.0,
        noise=0.06,
        blur_mm=(1.5, 1.5),
        bias=0.20,
        contrast=MappingProxyType({"T1": 0.85, "T1c": 0.9, "T2": 1.15, "FLAIR": 0.9}),
    ),
)


def scanner_of(site_index: int) -> Scanner:
    """The scanner of a site: three described ones, then drawn ones; the same for the same index in every run."""
    if site_index < len(_SCANNERS):
        return _SCANNERS[site_index]
    rng = np.random.default_rng([site_index, 77])
    return Scanner(
        gain=float(rng.uniform(150, 1500)),
        noise=float(rng.uniform(0.04, 0.08)),
        blur_mm=(float(rng.uniform(0.8, 1.6)), float(rng.uniform(1.0, 2.4))),
        bias=float(rng.uniform(0.1, 0.3)),
        contrast=MappingProxyType({name: float(rng.uniform(0.85, 1.15)) for name in CONTRASTS}),
    )


def is_2021_style(site_index: int) -> bool:
    """Every third site (1, 4, …) keeps its data as BraTS 2021 did: other file names, enhancing tumour = 4."""
    return site_index % 3 == 1


def site_labels(site_index: int) -> dict[int, str]:
    """What the integers of this site's label files mean: a value for `labels` in the site's configuration."""
    return {1: "NCR", 2: "ED", 4: "ET"} if is_2021_style(site_index) else {1: "NCR", 2: "ED", 3: "ET"}


def patient_id(site_index: int) -> str:
    """Regular expression with one group that finds the patient in a case's folder name."""
    del site_index  # one expression covers both layouts
    return PATIENT_ID


def scan_brain(
    rng: np.random.Generator, brain: Brain, scanner: Scanner, spacing: Spacing
) -> dict[str, npt.NDArray[np.int16]]:
    """Image `brain` in each contrast: int16 (X, Y, Z), exactly 0 outside the brain and at least 1 inside."""
    shape: Shape = brain.mask.shape
    sigma = [
        scanner.blur_mm[0] / spacing[0],
        scanner.blur_mm[0] / spacing[1],
        scanner.blur_mm[1] / spacing[2],
    ]
    texture = smooth_noise(rng, shape, spacing, 7.0)
    patchy = smooth_noise(rng, shape, spacing, 18.0)  # oedema and necrosis are never even
    lesion = sum((brain.tissues[TISSUES.index(name)] for name in ("ED", "ET", "NCR", "NET")), np.float32(0))
    images = {}
    for name in CONTRASTS:
        # each examination has its own sequence settings, contrast dose and delay
        drift = {tissue: float(rng.normal(1.0, 0.05)) for tissue in TISSUES}
        drift["ET"] = float(rng.uniform(0.82, 1.12)) if name == "T1c" else drift["ET"]
        values = np.array([_BRIGHTNESS[name][t] * drift[t] for t in TISSUES], dtype=np.float32)
        signal: Field = np.tensordot(values ** np.float32(scanner.contrast[name]), brain.tissues, axes=1)
        signal = signal * (1 + np.float32(0.03) * texture + np.float32(0.10) * patchy * lesion)
        signal = ndimage.gaussian_filter(signal * brain.mask, sigma)
        bias = np.exp(scanner.bias * 0.6 * smooth_noise(rng, shape, spacing, 130.0))
        real = signal * bias + scanner.noise * rng.standard_normal(shape, dtype=np.float32)
        imaginary = scanner.noise * rng.standard_normal(shape, dtype=np.float32)
        stored = np.rint(scanner.gain * float(rng.uniform(0.9, 1.1)) * np.hypot(real, imaginary))
        images[name] = np.where(brain.mask, np.clip(stored, 1, 32767), 0).astype(np.int16)
    return images


def make_case(
    *,
    site_index: int,
    patient: int,
    visit: int,
    seed: int,
    shape: Shape = DEFAULT_SHAPE,
    spacing_mm: Spacing = DEFAULT_SPACING_MM,
    scanner: Scanner | None = None,
    sizes: TumourSizes | None = None,
) -> tuple[dict[str, npt.NDArray[np.int16]], npt.NDArray[np.uint8]]:
    """One case in memory: contrasts (int16) and label (uint8: 1 NCR, 2 ED, 3 ET).

    A second `visit` of a patient shows the same brain with a tumour that grew or shrank, scanned anew.
    """
    sizes = sizes or TumourSizes()
    draw = np.random.default_rng([seed, site_index, patient, 1])
    change = (
        1.0 if visit == 0 else float(np.random.default_rng([seed, site_index, patient, 2, visit]).uniform(0.8, 1.2))
    )
    tumour = Tumour(
        core_mm=float(draw.uniform(*sizes.core_mm)) * change,
        rim_mm=float(draw.uniform(*sizes.rim_mm)),
        oedema_mm=float(draw.uniform(*sizes.oedema_mm)) * change,
        irregularity=float(draw.uniform(*sizes.irregularity)),
        enhancing=bool(draw.uniform() >= sizes.not_enhancing),
        satellite=bool(draw.uniform() < sizes.satellite),
    )
    person = draw_individual(np.random.default_rng([seed, site_index, patient, 3]), shape, spacing_mm)
    brain = grow_tumour(np.random.default_rng([seed, site_index, patient, 4]), person, tumour, spacing_mm)
    noise = np.random.default_rng([seed, site_index, patient, 5, visit])
    return scan_brain(noise, brain, scanner or scanner_of(site_index), spacing_mm), brain.label


def plan_cases(site_index: int, cases: int) -> list[tuple[int, int, str]]:
    """(patient, visit, folder name) of each case; in 2023-style sites every fourth patient comes twice."""
    planned: list[tuple[int, int, str]] = []
    patient = 0
    while len(planned) < cases:
        number = site_index * 1000 + patient + 1
        if is_2021_style(site_index):
            planned.append((patient, 0, f"BraTS2021_{number:05d}"))
        else:
            visits = 2 if patient % 4 == 1 else 1
            planned += [(patient, visit, f"BraTS-GLI-{number:05d}-{visit:03d}") for visit in range(visits)]
        patient += 1
    return planned[:cases]


def write_site(
    directory: Path,
    *,
    site_index: int,
    cases: int,
    seed: int,
    shape: Shape = DEFAULT_SHAPE,
    spacing_mm: Spacing = DEFAULT_SPACING_MM,
    scanner: Scanner | None = None,
    sizes: TumourSizes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write one site's data set: a folder a case under `directory`, five .nii.gz files in each.

    Args:
        directory: made if it is not there; cases that are there already are written over.
        site_index: from 0; decides scanner, file names and integers (`site_labels`).
        cases: folders to write, second time points included.
        seed: same seed and same arguments, same voxels.
        shape: voxels (X, Y, Z). The brain is about 135 × 170 × 115 mm: shape × spacing should hold that.
        spacing_mm: voxel size.
        progress: called with (cases written, cases).
    """
    suffixes = _SUFFIXES_2021 if is_2021_style(site_index) else _SUFFIXES_2023
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * s for n, s in zip(shape, spacing_mm, strict=True)]
    integers = {concept: integer for integer, concept in site_labels(site_index).items()}
    table = np.array([0, integers["NCR"], integers["ED"], integers["ET"]], dtype=np.uint8)
    for done, (patient, visit, name) in enumerate(plan_cases(site_index, cases), start=1):
        images, label = make_case(
            site_index=site_index,
            patient=patient,
            visit=visit,
            seed=seed,
            shape=shape,
            spacing_mm=spacing_mm,
            scanner=scanner,
            sizes=sizes,
        )
        folder = directory / name
        folder.mkdir(parents=True, exist_ok=True)
        for key, voxels in (*images.items(), ("label", table[label])):
            image = nib.Nifti1Image(voxels, affine)
            image.header.set_xyzt_units("mm")
            image.set_sform(affine, code=1)
            image.set_qform(affine, code=1)
            nib.save(image, folder / f"{name}{suffixes[key]}.nii.gz")
        if progress is not None:
            progress(done, cases)
