"""Which file of a case is what, by its name: BraTS' endings since 2017, those of public sets, and the operator's own.

BraTS: Baid et al. 2021, arXiv 2107.02314 (names of 2017-2021), and the challenge's data page (names since 2023; "gtv"
of its radiotherapy set, 2024). "segm" is UPENN-GBM's, "tumor_segmentation" UCSF-PDGM's (TCIA).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LABEL, IGNORE = "label", "ignore"
"""Roles beside the channels."""
_COPY = (
    r"(?: ?\(\d{1,2}\)| \((?:another |\d+\w\w )?copy\)| \([^()]*(?:conflict|konflikt|conflit|conflicto)[^()]*\)"
    r"| - (?:copy|kopie|copie|copia|kopia|kopi|kopio|cópia)(?: ?\(\d+\))?|[ _]copy(?:[ _]\d+)?|\.sync-conflict-[\w-]+)"
)
"""What browsers, file managers and syncing programs put behind the name of a second copy."""
_COPIED = re.compile(_COPY + "$", re.IGNORECASE)
_SUFFIX = re.compile(rf"\.nii(?P<mark>{_COPY}(?=\.gz))?(\.gz)?(\.enc)?$", re.IGNORECASE)
_FOREIGN = re.compile(
    r"\.(?P<kind>img|hdr|nrrd|nhdr|mha|mhd|mgz|mgh|mnc|dcm|ima|npy|npz|tiff?|zip|7z|rar|tar)(?:\.gz)?$", re.IGNORECASE
)
_ENDINGS = {
    "T1": ("t1", "t1n"),
    "T1c": ("t1ce", "t1c", "t1gd"),
    "T2": ("t2", "t2w"),
    "FLAIR": ("flair", "t2f"),
    LABEL: ("seg", "segm", "gtv", "tumor_segmentation"),
}
_CHANNEL = re.compile(r"(.+)_(\d{4})")
"""nnU-Net's raw layout: NAME_0000 is the first channel of NAME."""


def nifti_stem(name: str) -> str | None:
    """A NIfTI file's name without its ending (".enc": encrypted, `vault`); None for another file."""
    found = _SUFFIX.search(name)
    return None if found is None else name[: found.start()] + (found["mark"] or "")


def strip_copy(stem: str) -> str:
    """A name without what a second copy got behind it: "seg (1)", "seg - Copy", "seg (conflicted copy …)" → "seg"."""
    return _COPIED.sub("", stem) or stem


def foreign_stem(name: str) -> str | None:
    """The name, without ending, of an image in a format that is not read (pairs of files, NRRD, DICOM, archives …);
    None for another file."""
    found = None if _SUFFIX.search(name) else _FOREIGN.search(name)
    return None if found is None else name[: found.start()]


def is_picture(name: str) -> bool:
    """Whether a file is a picture (PNG, JPEG) by the end of its name."""
    return name.lower().endswith((".png", ".jpg", ".jpeg"))


def split_channel(stem: str) -> tuple[str, int] | None:
    """A raw file's case and number of channel; None where the name has no number."""
    found = _CHANNEL.fullmatch(stem)
    return (found[1], int(found[2])) if found else None


class FileRoles:
    """The role of a file by the end of its name; the longest ending that fits decides.

    Args:
        named: role → endings, as the operator has them. They take the place of the built-in ones of that role.
    """

    def __init__(self, named: Mapping[str, Sequence[str]]) -> None:
        known = {ending: (role, False) for role, endings in _ENDINGS.items() if role not in named for ending in endings}
        for role, endings in named.items():
            known |= {ending.lower(): (role, True) for ending in endings}
        self._known = sorted(known.items(), key=lambda one: -len(one[0]))
        self._unused = {ending for several in named.values() for ending in several}

    @property
    def unused(self) -> tuple[str, ...]:
        """The operator's endings that no file had so far."""
        return tuple(sorted(self._unused))

    def find_role(self, stem: str) -> str | None:
        """A channel, LABEL or IGNORE; None where nothing fits."""
        return self.split_role(stem)[1]

    def split_role(self, stem: str) -> tuple[str, str | None]:
        """The name without ending and separator, and the role; the whole stem and None where nothing fits."""
        name = stem.lower()
        for ending, (role, own) in self._known:
            before = name.removesuffix(ending)
            if name.endswith(ending) and (not before or before[-1] in "-_" or (own and not before[-1].isalnum())):
                self._note_used(ending, own)
                return stem[: -len(ending)][:-1], role
        return stem, None

    def strip_label(self, stem: str) -> str:
        """A label's name without the operator's ending for labels (labelsTr/NAME_seg → NAME)."""
        for ending, (role, own) in self._known:
            if own and role == LABEL and stem.lower().endswith(ending) and len(stem) > len(ending):
                self._note_used(ending, own)
                return stem[: -len(ending)].rstrip("-_. ") or stem
        return stem

    def _note_used(self, ending: str, own: bool) -> None:
        if own:
            self._unused = {one for one in self._unused if one.lower() != ending}


@dataclass
class FoundFiles:
    """Files of one case by their roles, in the order in which they are added.

    Attributes:
        chosen: role → the first file. rivals: further files of a role, which may differ from it.
        unrecognised: a NIfTI file that no ending fits. foreign: an image in a format that is not read.
    """

    chosen: dict[str, Path] = field(default_factory=dict)
    rivals: list[tuple[str, Path]] = field(default_factory=list)
    unrecognised: str = ""
    foreign: str = ""

    def add_file(self, role: str | None, path: Path) -> None:
        """Enter a NIfTI file."""
        if role is None:
            self.unrecognised = self.unrecognised or path.name
        elif role in self.chosen:
            self.rivals.append((role, path))
        elif role != IGNORE:
            self.chosen[role] = path
