"""What is worth a line to the operator though nothing is wrong: what was configured and had no effect, what lies twice.

Pure. The lines name cases and are for the operator's eyes; none leaves the site.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from messages.ground.written.likeness import liken_identifier
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.layouts import Layout
from site_agent.datasets.twins import Content, share_images, share_labels

SHOWN = 5
_TIME_POINT = re.compile(
    r"(.+?)[-_ .](?:pre|post|before|after|early|late)(?:[-_ .]?op)?[-_ .]?\d*"
    r"|(.+?)[-_ .]?(?:ses(?:sion)?|time(?:point)?|tp|visit|scan|day|week|month|baseline|followup|fu|t|v)[-_ .]?\d*"
    r"|(.+?)[-_ .]?(?:19|20)\d\d[-_.]?(?:0\d|1[0-2])[-_.]?(?:[0-2]\d|3[01])"
    r"|(.*\d)[-_ .]?[a-d]",
    re.IGNORECASE,
)
"""A name that ends like one of several examinations of a patient."""


def remark_on_names(config: DatasetConfig, names: Sequence[str]) -> Iterator[str]:
    """What `patient_id` finds in the cases' names, where that is not what it is for."""
    patients = Counter(config.patient_of(name) for name in names)
    if config.patient_id is not None:
        unmatched = [name for name in names if not re.search(config.patient_id, name)]
        if len(unmatched) == len(names):
            yield (
                f"patient_id matches none of {_count(names, 'name')} (such as {names[0]}): each case counts as a"
                " patient of its own, and time points of one patient may land in training and test"
            )
        elif unmatched:
            yield (
                f"patient_id does not match {len(unmatched)} of {_count(names, 'name')} ({_list_some(unmatched)}):"
                " each of these cases counts as a patient of its own"
            )
        if len(patients) == 1 < len(names):
            yield f"all {len(names)} cases are one patient's by their names, and land in one split"
        if unmatched or any(config.patient_of(name) != name for name in names):
            return  # else it finds the whole of each name, as if there were none
    stems: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if patients[config.patient_of(name)] == 1 and (found := _TIME_POINT.fullmatch(name)):
            stems[next(stem for stem in found.groups() if stem is not None)].append(name)
    parted = [group for group in stems.values() if len(group) > 1]
    if parted:
        yield (
            f"{_list_some(parted[0])} look like time points of one patient, and count as patients of their own: say"
            " with patient_id which part of a name is the patient"
        )


def remark_on_alike(patients: Iterable[str]) -> Iterator[str]:
    """Patients whose names differ in what people do not mean to change: perhaps one person, in training and in test."""
    groups: dict[str, set[str]] = defaultdict(set)
    for patient in patients:
        groups[liken_identifier(re.sub(r"(?<=\d)[.,]0+$", "", patient))].add(patient)
    alike = sorted(sorted(group) for group in groups.values() if len(group) > 1)
    if alike:
        shown = "; ".join(_list_some(group) for group in alike[:SHOWN]) + (" …" if len(alike) > SHOWN else "")
        yield f"names of patients that may be one person's, and count as several: {shown}. Write each in one way"


def remark_on_files(layout: Layout) -> Iterator[str]:
    """NIfTI files of which nothing says what they are, where the cases that they lie beside are used without them."""
    names = [*layout.stray, *(one.unrecognised for one in layout.candidates if one.unrecognised)]
    if names:
        yield (
            f"nothing says what {_list_some(names)} {'is' if len(names) == 1 else 'are'}: files are known by the end of"
            " their names (names in site.toml), in a folder a case"
        )
    if layout.unused:
        yield f"no file's name ends with {_list_some(layout.unused)} (names in site.toml)"


def remark_on_parts(withdrawn: Iterable[str], used: Iterable[str], patient_of: Callable[[str], str]) -> Iterator[str]:
    """Patients of whom the list names one case while others are used."""
    kept = {patient_of(case) for case in used}
    parts = sorted(case for case in withdrawn if patient_of(case) in kept)
    if parts:
        yield (
            f"the list of the withdrawn names {_list_some(parts)}, and other cases of the same"
            f" {'patient are' if len(parts) == 1 else 'patients are'} used: name the patient to leave all of them out"
        )


def remark_on_content(
    contents: Mapping[str, Content], patient_of: Callable[[str], str], labels: Mapping[int, str]
) -> Iterator[str]:
    """Images and labels that lie under several patients, and configured labels that no case has."""
    for what, groups, more in (
        ("images", share_images(contents, patient_of), "; these patients stay in one split"),
        ("label map", share_labels(contents, patient_of), ", though their images differ"),
    ):
        if groups:
            cases = len({case for group in groups for case in group})
            shown = "; ".join(_list_some(group) for group in groups[:SHOWN])
            yield f"{cases} cases of several patients have the same {what} ({shown}){more}"
    if twice := sorted(case for case, content in contents.items() if len(set(content.images)) < len(content.images)):
        yield f"{_count(twice, 'case')} with one image under several channels: {_list_some(twice)}"
    if contents:
        concepts = sorted(set(labels.values()))
        there = {concepts[value - 1] for content in contents.values() for value in content.values}
        for concept in sorted(set(concepts) - there):
            yield f"no case's label map has {concept}"


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _list_some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")
