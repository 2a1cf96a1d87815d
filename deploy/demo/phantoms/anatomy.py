"""Where each tissue is: a soft map of a skull-stripped brain with a glioma, from random numbers.

Everything is computed in millimetres on the voxel grid, x to the right, y to the front, z up (RAS), origin in
the middle of the volume. Tissues are *soft memberships* (0..1, summing to 1), so that a voxel at a border holds
a share of both: that is partial volume without supersampling. The brain is skull-stripped, as BraTS is: it keeps
dura, sinuses and vessels, which enhance in T1c, so that brightness alone does not find a tumour, and it lets the
crop be smaller than a head with scalp would.

The plan of the brain follows a textbook's proportions (MNI-like, in mm): a flattened super-ellipsoid for the
cerebrum, temporal lobes, cerebellum and brain stem; sulci are the zero sheets of a band-limited random field,
which makes a folded cortical ribbon of even thickness; ventricles and vessels are tubes around polylines.
Left and right mirror each other apart from a smooth random deformation and a share of unmirrored folding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Field = npt.NDArray[np.float32]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
Point = tuple[float, float, float]

TISSUES = ("CSF", "GM", "DGM", "WM", "WMH", "VESSEL", "DURA", "CHOROID", "ED", "ET", "NCR", "NET")
"""Healthy tissues first (DGM: deep grey; WMH: white-matter hyperintensity of age), then the tumour's. NET, tumour
that does not enhance, carries the label NCR (BraTS 1: necrotic and non-enhancing core)."""

_VENTRICLE: tuple[tuple[Point, Point, float, float], ...] = (  # from, to, radius at each end; |x| mirrored
    ((7.0, 36.0, 4.0), (9.0, 14.0, 14.0), 3.5, 6.0),
    ((9.0, 14.0, 14.0), (14.0, -22.0, 18.0), 6.0, 5.5),
    ((14.0, -22.0, 18.0), (25.0, -40.0, 6.0), 5.5, 7.5),
    ((25.0, -40.0, 6.0), (23.0, -62.0, 2.0), 7.0, 2.5),
    ((25.0, -40.0, 6.0), (32.0, -8.0, -20.0), 5.0, 2.0),
)
_VESSELS: tuple[tuple[Point, Point, float], ...] = (  # carotid, middle, anterior cerebral arteries; |x| mirrored
    ((12.0, 4.0, -34.0), (12.0, 6.0, -20.0), 3.0),
    ((12.0, 6.0, -20.0), (38.0, 6.0, -14.0), 2.2),
    ((38.0, 6.0, -14.0), (48.0, -8.0, 2.0), 2.0),
    ((48.0, -8.0, 2.0), (52.0, -34.0, 14.0), 1.8),
    ((2.0, 8.0, -18.0), (2.0, 44.0, 2.0), 2.0),
    ((2.0, 44.0, 2.0), (2.0, 26.0, 34.0), 1.8),
)


@dataclass(frozen=True)
class Tumour:
    """One patient's tumour at one time point. Lengths in mm; without `centre` `grow_tumour` chooses it."""

    core_mm: float
    rim_mm: float
    oedema_mm: float
    enhancing: bool
    satellite: bool
    irregularity: float


@dataclass(frozen=True)
class Brain:
    """Soft tissue maps.

    Attributes:
        tissues: float32 (len(TISSUES), X, Y, Z), sums to 1 inside the mask.
        mask: bool (X, Y, Z), the brain after skull stripping.
        label: uint8 (X, Y, Z), 0 background, 1 NCR, 2 ED, 3 ET.
    """

    tissues: Field
    mask: npt.NDArray[np.bool_]
    label: npt.NDArray[np.uint8]


def smooth_noise(rng: np.random.Generator, shape: Shape, spacing: Spacing, scale_mm: float) -> Field:
    """Gaussian random field of mean 0 and deviation 1, float32 `shape`, correlated over about `scale_mm`.

    Drawn on a coarse grid of half that length and zoomed up with cubic splines: the cost is the zoom's.
    """
    step = scale_mm / 2
    coarse = tuple(max(4, int(np.ceil(n * s / step)) + 3) for n, s in zip(shape, spacing, strict=True))
    field = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), 0.8, mode="reflect")
    for axis, (n, s) in enumerate(zip(shape, spacing, strict=True)):
        matrix = _cubic_matrix(coarse[axis], n, s / step)
        field = np.moveaxis(np.tensordot(matrix, field, axes=(1, axis)), 0, axis)
    field -= field.mean()
    return np.ascontiguousarray(field / max(float(field.std()), 1e-6), dtype=np.float32)


def _cubic_matrix(coarse: int, fine: int, step: float) -> Field:
    """Cubic B-spline weights (fine, coarse): row i samples the coarse grid at 1 + i * step."""
    position = 1 + np.arange(fine) * step
    distance = np.abs(position[:, None] - np.arange(coarse)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance) ** 3 / 6
    return np.where(distance < 1, near, np.where(distance < 2, far, 0)).astype(np.float32)


def _soften_border(distance: npt.NDArray[np.floating], width: float) -> Field:
    """Share of a voxel inside a surface at signed `distance` (positive inside) for a border `width` in mm."""
    return np.asarray(np.clip(0.5 + distance / width, 0, 1), dtype=np.float32)


def _distance_to_ellipsoid(p: tuple[Field, Field, Field], centre: Point, axes: Point, power: float = 2.0) -> Field:
    """Approximate signed distance to an ellipsoid's surface in mm, positive inside."""
    r = sum(np.abs((c - o) / a) ** power for c, o, a in zip(p, centre, axes, strict=True)) ** (1 / power)
    return np.asarray((1 - r) * min(axes), dtype=np.float32)


def _distance_to_tube(p: tuple[Field, Field, Field], a: Point, b: Point, ra: float, rb: float) -> Field:
    """Signed distance to a tapering tube from `a` (radius `ra`) to `b` (radius `rb`), positive inside."""
    ab = np.subtract(b, a)
    t = sum((c - o) * d for c, o, d in zip(p, a, ab, strict=True)) / float(ab @ ab)
    t = np.clip(t, 0, 1)
    square = sum((c - o - t * d) ** 2 for c, o, d in zip(p, a, ab, strict=True))
    return np.asarray(ra + t * (rb - ra) - np.sqrt(square), dtype=np.float32)


@dataclass(frozen=True)
class Individual:
    """What makes one patient's brain: fields on the voxel grid, drawn once and shared by the time points."""

    coordinates: tuple[Field, Field, Field]
    voxel_mm: float
    folds: Field
    branches: Field
    texture: Field
    veins: float
    ventricle_mm: float
    hyperintensity: float
    atrophy_mm: float


def draw_individual(rng: np.random.Generator, shape: Shape, spacing: Spacing) -> Individual:
    """Draw one patient: size, smooth deformation (about 3 mm), folding, ventricle size, ageing."""
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * np.float32(s) for n, s in zip(shape, spacing, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    size = rng.uniform(0.94, 1.04) * rng.uniform(0.97, 1.03, 3)
    x, y, z = (
        (c / np.float32(f) + np.float32(2.6) * smooth_noise(rng, shape, spacing, 55.0)).astype(np.float32)
        for c, f in zip(grid, size, strict=True)
    )
    mirrored = smooth_noise(rng, shape, spacing, 11.0)
    mirrored = (mirrored + mirrored[::-1]) / np.float32(np.sqrt(2))
    folds = np.float32(0.85) * mirrored + np.float32(0.5) * smooth_noise(rng, shape, spacing, 11.0)
    return Individual(
        coordinates=(x, y, z),
        voxel_mm=float(np.mean(spacing)),
        folds=folds,
        branches=smooth_noise(rng, shape, spacing, 22.0),
        texture=smooth_noise(rng, shape, spacing, 16.0),
        veins=float(rng.uniform(0.8, 1.6)),
        ventricle_mm=float(rng.uniform(-1.2, 2.8)),
        hyperintensity=float(rng.choice([0.0, rng.uniform(0.3, 1.0)], p=[0.3, 0.7])),
        atrophy_mm=float(rng.uniform(0.6, 1.5)),
    )


def _healthy_tissues(
    person: Individual, p: tuple[Field, Field, Field], step: int = 1
) -> tuple[dict[str, Field], Field]:
    """Soft healthy tissues at template coordinates `p` (fields taken every `step` voxels) and the depth in mm."""
    cut = (slice(None, None, step),) * 3
    folds, branches, texture = person.folds[cut], person.branches[cut], person.texture[cut]
    x, y, z = p
    ax = np.abs(x)
    m = (ax, y, z)
    width = max(2.0, person.voxel_mm)
    half_height = np.where(z > 0, np.float32(56), np.float32(36))
    r = ((ax / 66) ** 2.5 + (np.abs(y + 2) / 83) ** 2.5 + (np.abs(z) / half_height) ** 2.5) ** (1 / 2.5)
    cerebrum = np.asarray((1 - r) * 50, dtype=np.float32)
    cerebrum = np.maximum(cerebrum, _distance_to_ellipsoid(m, (42, 4, -26), (23, 46, 22)))
    cerebellum = _distance_to_ellipsoid(m, (18, -52, -38), (38, 32, 24))
    stem = _distance_to_tube(p, (0, -22, -8), (0, -32, -90), 14, 10)
    hind = np.maximum(cerebellum, stem)
    depth = np.maximum(cerebrum, hind)

    # Distance to the pia: from outside, from a sulcus (a zero sheet of the folding field), from the clefts.
    slope = np.sqrt(sum(np.gradient(folds, person.voxel_mm * step, axis=i) ** 2 for i in range(3))) + 0.03
    reach = np.clip((20 - cerebrum) / 8, 0, 1)  # sulci end about 16 mm below the surface
    sulcus = np.abs(folds) / slope + (1 - reach) * 12
    callosum = 22 - np.abs(y + 4) * 0.12 - (np.abs(y + 4) / 40) ** 4 * 12
    midline = np.where(z > callosum, ax, np.hypot(ax, callosum - z)) - 0.3
    sylvian = np.hypot(z + 2 - 0.55 * (4 - y), np.maximum(30 - ax, 0) + np.maximum(np.abs(y - 2) - 30, 0))
    tentorium = np.where((cerebrum > 0) & (hind > 0), np.abs(cerebrum - cerebellum) / 2, 20)
    in_hind = hind > cerebrum
    pia = np.minimum(cerebrum, np.minimum(np.minimum(sulcus, midline), np.minimum(sylvian - 0.8, tentorium)))
    folia = cerebellum - 3 + 3.0 * np.clip(texture + np.sin(cerebellum * 1.1), -1, 1)
    pia = np.where(in_hind, np.maximum(np.minimum(folia, tentorium), np.where(stem > 0, 6, -9)), pia)
    pia = np.where(in_hind, np.minimum(pia + 2, depth), pia).astype(np.float32)

    inner = _soften_border(pia - 3.4 - person.atrophy_mm, width)
    outer = _soften_border(pia - person.atrophy_mm, width)
    deep = np.maximum(
        _distance_to_ellipsoid(m, (14, 14, 12), (4.5, 15, 8)), _distance_to_ellipsoid(m, (26, 3, 1), (6, 16, 10))
    )
    deep = _soften_border(np.maximum(deep, _distance_to_ellipsoid(m, (10.5, -17, 4), (8.5, 13, 9))), width) * ~in_hind
    ventricle = _distance_to_tube(m, *_VENTRICLE[0])
    for a, b, ra, rb in _VENTRICLE[1:]:
        ventricle = np.maximum(ventricle, _distance_to_tube(m, a, b, ra, rb))
    ventricle = ventricle + np.float32(person.ventricle_mm)
    third = _distance_to_ellipsoid(m, (0, -12, -4), (2.5 + max(0.0, person.ventricle_mm / 2), 14, 9))
    cavity = np.maximum(np.maximum(ventricle, third), _distance_to_ellipsoid(m, (0, -40, -34), (6, 5, 7)))
    fluid = _soften_border(cavity, width)
    caps = _soften_border(ventricle + 2.5 + 3.5 * texture + 4 * (person.hyperintensity - 0.6), 3.0)
    spots = _soften_border(6 * (texture - 1.9 + 0.5 * person.hyperintensity), 3.0) * (pia > 5)
    aged = np.maximum(caps, spots) * (0.0 if person.hyperintensity == 0 else 1.0) * ~in_hind

    vessel = _distance_to_tube(m, *_VESSELS[0], _VESSELS[0][2])
    for start, end, radius in _VESSELS[1:]:
        vessel = np.maximum(vessel, _distance_to_tube(m, start, end, radius, radius))
    cortical = person.veins * 1.6 - np.hypot(np.maximum(sulcus, 0), np.abs(branches) * 9)  # curves in the sulci
    cortical = np.where(cerebrum < 22, cortical, -9)
    sinus = 3.6 - np.hypot(x, np.minimum(cerebrum, 6) - 0.5)
    sinus = np.where((z > -10) & (cerebrum < 8), sinus, -9)
    sinus = np.maximum(sinus, 3.2 - np.hypot(z + 22, np.minimum(depth, 8) - 1) - 9 * (y > -45))
    blood = _soften_border(np.maximum(np.maximum(vessel, cortical), sinus), width)
    dura = _soften_border(1.2 - np.abs(depth + 0.2) + 0.7 * branches, width) * np.float32(0.8)
    choroid = fluid * _soften_border(ventricle - 4.5 + 2 * folds, width) * ((y < -18) & (y > -48))

    left = np.ones_like(x)
    shares: dict[str, Field] = {}
    for name, share in (
        ("VESSEL", blood),
        ("DURA", dura),
        ("CHOROID", choroid),
        ("CSF", np.maximum(fluid, 1 - outer)),
        ("DGM", deep),
        ("GM", 1 - inner),
        ("WMH", aged),
    ):
        shares[name] = (left * share).astype(np.float32)
        left = left - shares[name]
    shares["WM"] = left.astype(np.float32)
    return shares, depth


def grow_tumour(rng: np.random.Generator, person: Individual, tumour: Tumour, spacing: Spacing) -> Brain:
    """Put `tumour` into `person`'s white matter and map the tissues.

    The mass pushes healthy tissue aside (up to a third of the core's radius, falling off with distance); oedema
    follows white matter and spares cortex, as vasogenic oedema does. `rng` decides place and shape: the same
    stream for two time points of a patient puts the tumour at the same place.
    """
    shape: Shape = person.folds.shape
    p = person.coordinates
    coarse = (p[0][::2, ::2, ::2], p[1][::2, ::2, ::2], p[2][::2, ::2, ::2])
    shares, depth = _healthy_tissues(person, coarse, step=2)
    cx, cy, cz = coarse
    site = ndimage.gaussian_filter(shares["WM"] + shares["WMH"], 1.5) * (depth > 12) * (cz > -12) * (np.abs(cx) > 16)
    site = site * (cz < 36) * (np.abs(cy) < 58)
    weight = (site.ravel() ** 4).astype(np.float64)
    chosen = rng.choice(weight.size, size=2, replace=False, p=weight / weight.sum())
    centres = [tuple(float(c.ravel()[i]) for c in coarse) for i in chosen]

    bumps = smooth_noise(rng, shape, spacing, 24.0) + 0.5 * smooth_noise(rng, shape, spacing, 11.0)
    inner_bumps = smooth_noise(rng, shape, spacing, 14.0)
    spread = smooth_noise(rng, shape, spacing, 30.0)
    lengths = rng.uniform(0.8, 1.25, 3)
    distance = np.sqrt(sum(((c - o) / f) ** 2 for c, o, f in zip(p, centres[0], lengths, strict=True)))
    push = tumour.core_mm / 3 * np.exp(-((distance / (2.2 * tumour.core_mm)) ** 2)) / np.maximum(distance, 3)
    moved = tuple((c - (c - o) * push).astype(np.float32) for c, o in zip(p, centres[0], strict=True))
    shares, depth = _healthy_tissues(person, moved)

    reach = distance
    if tumour.satellite:  # a second focus: nearer the first than chance would put it, about half its size
        other = tuple(o + (s - o) * 0.6 for o, s in zip(*centres, strict=True))
        second = np.sqrt(sum((c - o) ** 2 for c, o in zip(p, other, strict=True))) + tumour.core_mm * 0.45
        reach = np.minimum(reach, second)
    mask = depth > -1.6
    inside = _soften_border(depth - 2.5, 3.0) * (1 - np.minimum(1, shares["CSF"] * (reach > tumour.core_mm * 1.2)))
    width = max(2.0, person.voxel_mm)
    edge = tumour.core_mm - reach + tumour.irregularity * tumour.core_mm * bumps * 0.5
    rim = tumour.rim_mm * (1 + 0.25 * inner_bumps)
    matter = ndimage.gaussian_filter(shares["WM"] + shares["WMH"] + 0.3 * shares["DGM"], 1.0)
    outward = tumour.oedema_mm * (0.15 + 1.0 * matter + 0.35 * spread)
    core = _soften_border(edge, width) * inside
    swollen = _soften_border(edge + np.maximum(outward, 0), width) * inside
    hollow = _soften_border(edge - rim, width) * inside
    fluid = np.minimum(1, shares["CSF"] + shares["CHOROID"] + shares["VESSEL"])
    oedema = np.maximum(swollen * (1 - fluid) * np.minimum(1, 0.25 + 1.5 * matter) - core, 0)
    oedema = np.where(oedema > 0.35, np.maximum(oedema, 0.85 * (1 - core)), oedema * 0.5)

    tissues = np.zeros((len(TISSUES), *shape), dtype=np.float32)
    rest = np.clip(1 - core - oedema, 0, 1)
    for name, share in shares.items():
        tissues[TISSUES.index(name)] = share * rest
    tissues[TISSUES.index("ED")] = oedema
    label = np.where(oedema > 0.5, 2, 0).astype(np.uint8)
    if tumour.enhancing:
        tissues[TISSUES.index("NCR")] = hollow
        tissues[TISSUES.index("ET")] = core - hollow
        label[core > 0.5] = 3
        label[hollow > 0.5] = 1
    else:
        tissues[TISSUES.index("NET")] = core
        label[core > 0.5] = 1
    label[~mask] = 0
    return Brain(tissues, mask, label)
