"""Content that lies in a data set twice: the same images under two patients, which no split may part. Pure.

A study stored under two Patient IDs, a file under two names, a copy for a second project: the same voxels would be
trained on and tested on, and the score would lie. Digests are over the voxels as they lie in space (nearest to RAS), so
that neither the order of the axes nor the file's type or compression hides a copy.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b, sha256
from typing import Any

import numpy as np
import numpy.typing as npt

_SIZE = 16
"""Bytes of a digest: 128 bits."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a case holds, as digests (hex).

    Attributes:
        images: one a channel. label: of the label map; "" where nothing is labelled. values: labels that occur, as
            positions in the data set's concepts plus one.
    """

    images: tuple[str, ...] = ()
    label: str = ""
    values: tuple[int, ...] = ()

    def to_text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Content:
        """What `to_text` wrote."""
        plain = json.loads(text)
        return cls(tuple(plain["images"]), plain["label"], tuple(plain["values"]))


def digest_content(
    image: npt.NDArray[np.float32], label: npt.NDArray[np.uint8], affine: npt.NDArray[np.float64], key: bytes = b""
) -> Content:
    """Digests of one case.

    Args:
        image: (C, X, Y, Z). label: (X, Y, Z). affine: voxel indices → mm in RAS.
        key: keyed with it where digests lie beside encrypted images: nobody may test who is in the set.
    """
    order = _find_order(affine)
    values = np.unique(label)
    return Content(
        tuple(_digest_voxels(channel, order, key) for channel in image),
        _digest_voxels(label, order, key) if values.any() else "",
        tuple(int(value) for value in values if value),
    )


def digest_image(voxels: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], key: bytes) -> str:
    """The digest of one image (X, Y, Z) as `digest_content` has it."""
    return _digest_voxels(voxels, _find_order(affine), key)


def _find_order(affine: npt.NDArray[np.float64]) -> tuple[tuple[int, bool], ...]:
    """For each axis of space, R, A, S: the voxel axis that is nearest to it, and whether it runs backwards."""
    import nibabel as nib

    found = nib.orientations.io_orientation(affine)
    if np.isnan(found).any():
        return ((0, False), (1, False), (2, False))
    axes = {int(to): (axis, bool(step < 0)) for axis, (to, step) in enumerate(found)}
    return (axes[0], axes[1], axes[2])


def _digest_voxels(voxels: npt.NDArray[Any], order: tuple[tuple[int, bool], ...], key: bytes) -> str:
    turned = voxels.transpose([axis for axis, _ in order])
    turned = turned[tuple(slice(None, None, -1 if backwards else None) for _, backwards in order)]
    state = blake2b(repr((turned.shape, turned.dtype.str)).encode(), digest_size=_SIZE, key=sha256(key).digest())
    state.update(np.ascontiguousarray(turned).data)
    return state.hexdigest()


def find_kin(contents: Mapping[str, Content], patient_of: Callable[[str], str]) -> dict[str, tuple[str, ...]]:
    """Patients that share content, directly or through others: patient → all of them, sorted. Others are not in it.

    Args:
        contents: by case. patient_of: a case's patient.
    """
    leader: dict[str, str] = {}

    def lead(patient: str) -> str:
        while (above := leader.setdefault(patient, patient)) != patient:
            patient = above
        return patient

    for group in share_images(contents, patient_of):
        first, *rest = (lead(patient) for patient in sorted({patient_of(case) for case in group}))
        for other in rest:
            leader[lead(other)] = lead(first)
    kin = defaultdict(list)
    for patient in sorted(leader):
        kin[lead(patient)].append(patient)
    return {patient: tuple(group) for group in kin.values() if len(group) > 1 for patient in group}


def find_other_names(lost: Collection[str], held: Mapping[str, Collection[str]]) -> set[str]:
    """Patients who hold one of the lost images, and those who share an image with them: names of one person.

    An image that everybody holds (an atlas, a phantom, a test's) tells nobody apart, and is not asked.

    Args:
        held: patient → digests of all images.
    """
    common = _find_common(held)
    found: set[str] = set()
    gone = set(lost) - common
    while more := {one for one, images in held.items() if one not in found and not gone.isdisjoint(images)}:
        found |= more
        gone.update(*(set(held[one]) - common for one in more))
    return found


def find_everybodys(lost: Collection[str], held: Mapping[str, Collection[str]]) -> set[str]:
    """Patients who hold one of the lost images, and are told apart by none: everybody holds it."""
    if _find_common(held).isdisjoint(lost):
        return set()
    return {one for one, images in held.items() if images} - find_other_names(lost, held)


def _find_common(held: Mapping[str, Collection[str]]) -> set[str]:
    holders = [set(images) for images in held.values() if images]
    return set.intersection(*holders) if holders else set()


def share_images(contents: Mapping[str, Content], patient_of: Callable[[str], str]) -> list[tuple[str, ...]]:
    """Groups of cases of several patients that have an image in common, each sorted."""
    return _share(((case, content.images) for case, content in contents.items()), patient_of)


def share_labels(contents: Mapping[str, Content], patient_of: Callable[[str], str]) -> list[tuple[str, ...]]:
    """Groups of cases of several patients that have the same label map, and no image in common."""
    found = _share(((case, [content.label] if content.label else []) for case, content in contents.items()), patient_of)
    return [group for group in found if not _all_share_an_image([contents[case] for case in group])]


def _all_share_an_image(contents: Sequence[Content]) -> bool:
    return bool(set.intersection(*(set(content.images) for content in contents)))


def _share(digests: Iterable[tuple[str, Iterable[str]]], patient_of: Callable[[str], str]) -> list[tuple[str, ...]]:
    holders: dict[str, set[str]] = defaultdict(set)
    for case, ones in digests:
        for digest in ones:
            holders[digest].add(case)
    groups = {tuple(sorted(cases)) for cases in holders.values() if len({patient_of(case) for case in cases}) > 1}
    return sorted(groups)
