"""What one object says of its series, taken down before the door cleans it: numbers and closed vocabularies only."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from messages.ground.errors import DataError
from site_agent.dicom.base import Object
from site_agent.dicom.config import Override, Role
from site_agent.dicom.roles import table
from site_agent.dicom.roles.table import Word

Kind = Literal["mr", "enhanced-mr", "secondary-capture", "label", "other"]
_KINDS: dict[str, Kind] = {
    "1.2.840.10008.5.1.4.1.1.4": "mr",
    "1.2.840.10008.5.1.4.1.1.4.1": "enhanced-mr",
    "1.2.840.10008.5.1.4.1.1.4.4": "enhanced-mr",  # Legacy Converted Enhanced MR
    "1.2.840.10008.5.1.4.1.1.7": "secondary-capture",
    "1.2.840.10008.5.1.4.1.1.7.1": "secondary-capture",
    "1.2.840.10008.5.1.4.1.1.7.2": "secondary-capture",
    "1.2.840.10008.5.1.4.1.1.7.3": "secondary-capture",
    "1.2.840.10008.5.1.4.1.1.7.4": "secondary-capture",
    "1.2.840.10008.5.1.4.1.1.66.4": "label",
    "1.2.840.10008.5.1.4.1.1.66.7": "label",
    "1.2.840.10008.5.1.4.1.1.481.3": "label",
}
_LABELS = {"SEG", "RTSTRUCT"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What tells a series from others. No text of the object is in it.

    Attributes:
        kind: by SOP class. mr: whether Modality is MR.
        image_type: values of Image Type that `roles_table.KNOWN_TYPES` lists.
        echoes: "spin", "gradient", both or none; planar: echo planar. inversion: None where nothing says so.
        balanced: steady state without spoiling.
        plane: the patient's plane that the slices are nearest to, "" where they do not say how they lie.
        tr, te, ti: ms. flip: degrees. field: tesla. thickness: mm. b: s/mm².
        contrast: Acquisition Contrast of enhanced MR, "" elsewhere.
        agent: whether a contrast agent was given; None where nothing says so.
        angio: Angio Flag. burned_in: Burned In Annotation. times: temporal positions.
        words: what the descriptions say, out of a closed list.
        override: what the site's own table says of it, "" where no line fits.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    kind: Kind = "other"
    mr: bool = False
    image_type: tuple[str, ...] = ()
    echoes: tuple[Literal["spin", "gradient"], ...] = ()
    planar: bool = False
    inversion: bool | None = None
    balanced: bool = False
    three_dimensional: bool | None = None
    plane: Literal["axial", "sagittal", "coronal", ""] = ""
    tr: float | None = None
    te: float | None = None
    ti: float | None = None
    flip: float | None = None
    field: float | None = None
    thickness: float | None = None
    b: float | None = None
    contrast: str = ""
    agent: bool | None = None
    angio: bool = False
    burned_in: bool | None = None
    times: int = 1
    words: tuple[Word, ...] = ()
    override: Role | Literal["ignore", ""] = ""

    def as_plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        content: dict[str, Any] = _FACTS.dump_python(self, mode="json")
        return content

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Facts:
        """What `plain` wrote.

        Raises:
            DataError: it is not what `plain` writes, such as after an update of the software.
        """
        try:
            found = _FACTS.validate_python(dict(plain))
        except ValidationError as error:
            raise DataError(
                f"the facts of a series are not readable ({error.error_count()} mistakes)",
                advice="Prepare the data set anew: the study is fetched again",
            ) from None
        if not set(found.image_type) <= table.KNOWN_TYPES or found.contrast not in _CONTRASTS:
            raise DataError(
                "the facts of a series hold words that are not on the list",
                advice="Prepare the data set anew: the study is fetched again",
            )
        return found


_CONTRASTS = {"", *table.CONTRASTS, *table.OTHER_CONTRASTS}
_FACTS = TypeAdapter(Facts)


def take_facts(obj: Object, overrides: Sequence[Override] = ()) -> Facts:
    """Take down what an object says of its series, before anything is removed from it.

    Values that are damaged or missing are None: the rules then leave the series out, never the object.
    """
    kind = _KINDS.get(_read_text(obj, "SOPClassUID"), "other")
    if _read_text(obj, "Modality").upper() in _LABELS:
        kind = "label"
    sources = _list_sources(obj)
    scanning, variant = set(_read_values(obj, "ScanningSequence")), set(_read_values(obj, "SequenceVariant"))
    return Facts(
        kind=kind,
        mr=_read_text(obj, "Modality").upper() == "MR",
        image_type=_image_type(sources),
        echoes=_echo_kinds(scanning, sources),
        planar="EP" in scanning or _first_value(sources, "EchoPlanarPulseSequence") == "YES",
        inversion=_has_inversion(scanning, sources),
        balanced=bool(variant & {"SS", "TRSS"} and "SP" not in variant)
        or _first_value(sources, "SteadyStatePulseSequence") == "FREE_PRECESSION",
        three_dimensional=_read_yes_no(_first_value(sources, "MRAcquisitionType"), {"3D"}, {"2D"}),
        plane=_tell_plane(sources),
        tr=_first_positive(sources, "RepetitionTime"),
        te=_first_positive(sources, "EchoTime", "EffectiveEchoTime"),
        ti=_first_positive(sources, "InversionTime", "InversionTimes"),
        flip=_first_positive(sources, "FlipAngle"),
        field=_first_positive(sources, "MagneticFieldStrength"),
        thickness=_first_positive(sources, "SliceThickness"),
        b=_first_positive(sources, "DiffusionBValue"),
        contrast=_tell_contrast(sources),
        agent=_has_agent(obj, sources),
        angio=_first_value(sources, "AngioFlag") == "Y",
        burned_in=_read_yes_no(_read_text(obj, "BurnedInAnnotation").upper(), {"YES"}, {"NO"}),
        times=int(_first_positive(sources, "NumberOfTemporalPositions") or 1),
        # GE's Protocol Name is the examination's, the same for all its series: it speaks only where nothing else does.
        words=listed_words(_read_text(obj, "SeriesDescription") or _read_text(obj, "ProtocolName")),
        override=_find_override(obj, overrides),
    )


_SEQUENCE_NAMES = ("SequenceName", "PulseSequenceName")


def listed_words(text: str) -> tuple[Word, ...]:
    """The listed words that a description holds, in the list's order; what else it says is not kept."""
    plain = " ".join(re.sub(r"[^a-z0-9+*]+", " ", text.lower()).split())
    found: set[Word] = set()
    for word, pattern in table.WORDS:
        if pattern.search(plain):
            found.add(word)
        if word == "before":  # "without contrast" must not count as "contrast" too
            plain = pattern.sub(" ", plain)
    return tuple(word for word in get_args(Word) if word in found)


def _find_override(obj: Object, overrides: Sequence[Override]) -> Role | Literal["ignore", ""]:
    place = find_override(obj, overrides)
    return "" if place is None else overrides[place].role


def find_override(obj: Object, overrides: Sequence[Override]) -> int | None:
    """Which of the site's own rules an object's series falls under, the first that fits; None where none does."""
    texts = {
        "description": (_read_text(obj, "SeriesDescription"),),
        "protocol": (_read_text(obj, "ProtocolName"),),
        "sequence": tuple(_read_text(obj, key) for key in _SEQUENCE_NAMES),
    }
    for place, override in enumerate(overrides):
        asked = {key: expression for key in texts if (expression := getattr(override, key)) is not None}
        if all(
            any(re.search(expression, text, re.IGNORECASE) for text in texts[key]) for key, expression in asked.items()
        ):
            return place
    return None


def _list_sources(obj: Object) -> tuple[Object, ...]:
    """The object itself, then the items of its functional groups: shared, and those of the first frame (C.7.6.16)."""
    found = [obj]
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        groups = obj.get(name)
        # Private ones are not read: they may be malformed, and nothing is taken from them.
        macros = [groups[0][tag] for tag in groups[0].keys() if not tag.is_private] if groups else []  # noqa: SIM118
        found.extend(macro.value[0] for macro in macros if macro.VR == "SQ" and macro.value)
    return tuple(found)


def _read_values(obj: Object, keyword: str) -> tuple[str, ...]:
    try:
        value = obj.get(keyword)
    except (ValueError, TypeError, OverflowError):  # a damaged value says nothing
        return ()
    if value is None:
        return ()
    many = value if not isinstance(value, str) and hasattr(value, "__iter__") else (value,)
    return tuple(text for one in many if (text := str(one).strip().upper()))


def _read_text(obj: Object, keyword: str) -> str:
    value = obj.get(keyword)
    return "" if value is None else str(value).strip()


def _first_value(sources: Sequence[Object], keyword: str) -> str:
    """The first value that any source gives, in capitals."""
    for source in sources:
        if values := _read_values(source, keyword):
            return values[0]
    return ""


def _first_positive(sources: Sequence[Object], *keywords: str) -> float | None:
    for keyword in keywords:
        text = _first_value(sources, keyword)
        try:
            value = float(text) if text else 0.0
        except ValueError:
            continue
        # No time, angle or count of a series is as long as a patient's number, which a field may hold by mistake.
        if math.isfinite(value) and 0 < value < 1e6:
            return value
    return None


def _image_type(sources: Sequence[Object]) -> tuple[str, ...]:
    """Image Type of the object and Frame Type of its frames, as far as listed, in their order."""
    found = [value for source in sources for key in ("ImageType", "FrameType") for value in _read_values(source, key)]
    component = _first_value(sources, "ComplexImageComponent")
    return tuple(dict.fromkeys(value for value in (*found, component) if value in table.KNOWN_TYPES))


def _echo_kinds(scanning: set[str], sources: Sequence[Object]) -> tuple[Literal["spin", "gradient"], ...]:
    pulse = _first_value(sources, "EchoPulseSequence")
    spin = "SE" in scanning or pulse in {"SPIN", "BOTH"}
    gradient = "GR" in scanning or pulse in {"GRADIENT", "BOTH"}
    if not (spin or gradient) and scanning & {"IR", "RM"} and (_first_positive(sources, "EchoTrainLength") or 0) > 1:
        spin = True  # Philips names turbo inversion recovery "IR" alone, GE research modes "RM"
    found: list[Literal["spin", "gradient"]] = []
    if spin:
        found.append("spin")
    if gradient:
        found.append("gradient")
    return tuple(found)


def _has_inversion(scanning: set[str], sources: Sequence[Object]) -> bool | None:
    said = _read_yes_no(_first_value(sources, "InversionRecovery"), {"YES"}, {"NO"})
    if "IR" in scanning or said or _first_positive(sources, "InversionTime", "InversionTimes"):
        return True
    return False if scanning else said


def _read_yes_no(value: str, yes: set[str], no: set[str]) -> bool | None:
    return True if value in yes else False if value in no else None


def _tell_plane(sources: Sequence[Object]) -> Literal["axial", "sagittal", "coronal", ""]:
    """By the largest part of the normal, row × column (0020,0037)."""
    for source in sources:
        values = _read_values(source, "ImageOrientationPatient")
        try:
            a, b, c, d, e, f = (float(value) for value in values)
        except ValueError:
            continue
        normal = {"sagittal": abs(b * f - c * e), "coronal": abs(c * d - a * f), "axial": abs(a * e - b * d)}
        largest = max(normal.values())
        if largest == normal["axial"]:
            return "axial"
        return "sagittal" if largest == normal["sagittal"] else "coronal"
    return ""


def _tell_contrast(sources: Sequence[Object]) -> str:
    value = _first_value(sources, "AcquisitionContrast")
    return value if value in _CONTRASTS else ""


def _has_agent(obj: Object, sources: Sequence[Object]) -> bool | None:
    """Whether a contrast agent was given (PS3.3, C.7.6.4): the frames first, then the coded agent, then the text."""
    administered = _read_yes_no(_first_value(sources, "ContrastBolusAgentAdministered"), {"YES"}, {"NO"})
    if administered is not None:
        return administered
    for usage in (item for source in sources for item in source.get("ContrastBolusUsageSequence") or ()):
        said = _read_yes_no(_read_text(usage, "ContrastBolusAgentAdministered").upper(), {"YES"}, {"NO"})
        if said is not None:
            return said
    agents = [_read_text(item, "CodeMeaning") for item in obj.get("ContrastBolusAgentSequence") or ()]
    for text in (*agents, _read_text(obj, "ContrastBolusAgent")):
        plain = " ".join(text.lower().split())
        if table.NO_AGENT.match(plain):
            return False
        if not table.UNKNOWN_AGENT.match(plain):
            return True
    return None
