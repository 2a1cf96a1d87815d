"""The door: what an object says of its series is taken down, then it is cleaned; what may name a patient in its pixels,
and what is neither an image of a volume nor a label, is refused.

Behind it nobody sees an identifier. Nothing of a refused object is kept but the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from messages.reasons import Reason
from site_agent.dicom.base import Object, ObjectRefused
from site_agent.dicom.config import Labels, Override
from site_agent.dicom.door import profile_table as table
from site_agent.dicom.door.codes import Codes
from site_agent.dicom.door.profile import Profile
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.roles.assignment import Facts, take_facts

PICTURES = frozenset({"SCREEN SAVE", "SCREENSHOT", "SCREEN", "REPORT", "CSA REPORT", "DOSE_INFO", "ANNOTATED"})
"""Words of Image Type for pictures of a screen, which show names, under whatever SOP class they go."""
CONVERTED = ("WSD", "DI", "SYN")
"""Conversion Types (0008,0064) of digital images: by a workstation, over an interface, synthetic."""
Classify = Callable[[Object, Sequence[Override]], Facts]


@dataclass(frozen=True, slots=True)
class Admitted:
    """An object that passed.

    Attributes:
        object: the clean object; its UIDs and Patient ID are pseudonyms.
        facts: what it said of its series.
        study: `Pseudonyms.pseudonym_of_case` of its study, which names the study everywhere behind the door.
        series, sop: its pseudonymous UIDs.
    """

    object: Object
    facts: Facts
    study: str
    series: str
    sop: str


class Door:
    """Admits objects. May be used by several threads.

    Args:
        pseudonyms: the site's.
        rules: what the operator says of labels: their names and codes may stay.
        overrides: the operator's table for series.
        classify: takes down an object's facts; `roles.facts`.
    """

    def __init__(
        self, pseudonyms: Pseudonyms, rules: Labels, overrides: Sequence[Override] = (), classify: Classify = take_facts
    ) -> None:
        from site_agent.dicom.hush import silence_libraries

        silence_libraries()
        names = {name for concept, rule in rules.concepts.items() for name in (concept, *rule.names)}
        codes = {code: concept for concept, rule in rules.concepts.items() for code in rule.codes}
        self._pseudonyms = pseudonyms
        self._overrides = tuple(overrides)
        self._classify = classify
        self._profile = Profile(pseudonyms, names | set(rules.names), Codes(codes))

    def admit_object(self, obj: Object) -> Admitted:
        """Classify and clean one object, which is not changed.

        Raises:
            Refused: UNREADABLE (it does not say what it is), BURNED_IN_ANNOTATION, SECONDARY_CAPTURE,
                UNSUPPORTED_IMAGE, UNDECODABLE_PIXELS.
        """
        items = dict(obj.items())  # as they came: values that were read have no bytes any more
        _check_passable(obj)
        try:
            found = self._classify(obj, self._overrides)
            clean = self._profile.clean_object(obj, items)
        except (ObjectRefused, MemoryError):
            raise
        except Exception:  # noqa: BLE001 - pydicom raises anything for a malformed object, and quotes its values
            raise ObjectRefused(Reason.UNREADABLE, "an object that cannot be read") from None
        return Admitted(
            clean,
            found,
            self._pseudonyms.pseudonym_of_case(str(obj.StudyInstanceUID)),
            str(clean.SeriesInstanceUID),
            str(clean.SOPInstanceUID),
        )

    def name_object(self, obj: Object) -> str:
        """The file that an object came from, else its UID as its source has it; "" if that cannot be read.

        May name a patient: for the operator's eyes, and sealed where it is written.
        """
        try:
            return str(getattr(obj, "filename", None) or obj["SOPInstanceUID"].value or "")
        except Exception:  # noqa: BLE001 - missing (KeyError), or malformed in any way
            return ""


_NAMES = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def _check_passable(obj: Object) -> None:
    """Raises Refused for what must not pass, whatever could be removed from it."""
    kind = _sop_class(obj)
    if kind not in table.KINDS:
        screen = kind == table.SCREENS or kind.startswith(f"{table.SCREENS}.")
        what = "a secondary capture" if screen else "neither an image of a volume nor a label"
        raise ObjectRefused(Reason.SECONDARY_CAPTURE if screen else Reason.UNSUPPORTED_IMAGE, what)
    burned, converted = "".join(_read_words(obj, "BurnedInAnnotation")), "".join(_read_words(obj, "ConversionType"))
    if burned not in ("", "NO"):
        raise ObjectRefused(Reason.BURNED_IN_ANNOTATION, "it says that annotation is burned in")
    if PICTURES & set(_read_words(obj, "ImageType")) or converted not in ("", *CONVERTED):
        raise ObjectRefused(Reason.SECONDARY_CAPTURE, "a picture of a screen, of film or of paper")
    if converted and not burned:
        raise ObjectRefused(
            Reason.BURNED_IN_ANNOTATION, "it was converted and does not say whether annotation is burned in"
        )
    if kind == table.STRUCTURES:
        return
    shown = "".join(_read_words(obj, "PhotometricInterpretation"))
    if shown not in ("MONOCHROME1", "MONOCHROME2") and kind != table.LABEL_MAP:
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "not a greyscale image")
    if "PixelData" not in obj:
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "an image without pixels, or with floating point ones")
    if "ModalityLUTSequence" in obj:
        # A table of any bytes, which no MR image has: it does not pass, and without it the values mean something else.
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "values that mean something by a table only")


def _sop_class(obj: Object) -> str:
    """SOP Class UID.

    Raises:
        Refused: UNREADABLE: not an object of a series.
    """
    try:
        named = [str(obj[keyword].value or "").strip(" \0") for keyword in _NAMES]
        syntax = str(obj.file_meta.TransferSyntaxUID)
    except Exception:  # noqa: BLE001 - missing (KeyError, AttributeError), or malformed in any way
        named, syntax = [""], ""
    if not all(named) or not syntax:
        raise ObjectRefused(Reason.UNREADABLE, "an object that does not say what it is and where it belongs")
    return named[0]


def _read_words(obj: Object, keyword: str) -> list[str]:
    try:
        value = obj.get(keyword)
    except Exception:  # noqa: BLE001 - malformed in any way
        return ["?"]  # a word that no check takes for an allowed one
    several = [] if value is None else [value] if isinstance(value, str) else value
    return [str(word).strip().upper() for word in several]
