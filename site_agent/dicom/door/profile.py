"""De-identification of one object: what `profile_table` names is written anew, and nothing else passes.

PS3.15, annex E, Basic Application Level Confidentiality Profile, with the options of `profile_table.METHODS`. Nothing
is copied as bytes: numbers are read and checked, words looked up, UIDs replaced, code meanings and all that is
required written from our own lists; so nothing can ride along in a value, in file meta information or in the preamble.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from messages.reasons import Reason
from site_agent.dicom.base import Object, ObjectRefused
from site_agent.dicom.door import pixel_bytes
from site_agent.dicom.door import profile_table as table
from site_agent.dicom.door.codes import Codes
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.extent import is_cut_off, is_torn
from site_agent.dicom.volumes import mosaic

_DECIMAL = re.compile(r"[+-]?(\d{1,16}(\.\d{0,24})?|\.\d{1,24})([eE][+-]?\d{1,3})?")
"""A decimal string (PS3.5, 6.2, VR DS), some digits longer than its 16 characters: real files have such."""
_LARGEST = 10**7
"""Numbers in text (VR DS and IS) are millimetres, milliseconds, counts; none passes that is as long as a hospital's."""
_RANGES = {"US": (0, 2**16), "SS": (-(2**15), 2**15), "UL": (0, 2**32), "SL": (-(2**31), 2**31), "AT": (0, 2**32)}
_DEPTH = 12
"""Sequences within sequences that are followed; enhanced objects and RT structure sets have four."""
_LONGEST = 65534
"""Bytes of a DS in explicit VR, whose length has two bytes (PS3.5, 7.1.2)."""
_DELIMITERS = 0xFFFE
"""Group of the tags that part items (PS3.5, 7.5): none is an element of one."""
_SHORT = 512
"""Bytes of an element of which is remembered what was made of it."""
REMEMBERED = 16384
"""Elements of which that is remembered: some series, a few of whose elements differ from slice to slice."""
_ASCII_VRS = frozenset({"CS", "DS", "IS", "UI", "US", "SS", "UL", "SL", "FL", "FD", "AT"})
"""VRs that are read alike in every object; all have a length of two bytes (PS3.5, 7.1.2)."""
_UNKNOWN = object()
_ElementKey = tuple[int, str | None, bytes | str, bool, bool]
_CHARACTERS = "ISO_IR 192"
_METHOD = "PS3.15 annex E: attributes by allow-list"


class Profile:
    """Cleans objects.

    Args:
        names: names of segments and structures that may stay.
        codes: which coded concepts may stay.
    """

    def __init__(self, pseudonyms: Pseudonyms, names: Iterable[str], codes: Codes) -> None:
        self._pseudonyms = pseudonyms
        self._names = frozenset(names)
        self._codes = codes
        self._known: dict[_ElementKey, Any] = {}
        """What was made of an element's bytes: of what decides it nothing else differs between objects."""

    def clean_object(self, obj: Object, items: Mapping[Any, Any]) -> Object:
        """A new object with what may stay of this one, which is not changed.

        Args:
            items: its elements, as they were before anybody read their values.

        Raises:
            Refused: its pixels cannot be decoded, or a mosaic does not say how it is laid out.
        """
        from pydicom.charset import convert_encodings
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, ExplicitVRLittleEndian

        layout = mosaic.read_layout(obj)
        clean = self._clean_item(obj, items, 0)
        if layout is not None:
            mosaic.keep_layout(clean, layout)
        private = self._keep_private(obj, clean) or layout is not None
        clean.SpecificCharacterSet = _CHARACTERS
        for element in _constant_elements(private):
            clean.add(element)
        # All VRs are settled: pydicom need not look for ambiguous ones when it writes, nor read `_constant_elements`
        # again.
        clean.set_original_encoding(False, True, list(convert_encodings(_CHARACTERS)))
        clean.PatientID = self._pseudonyms.patient_of(obj)
        maker = str(_read_value(obj, _tag_of("Manufacturer")) or "").upper()
        clean.Manufacturer = next((short for long, short in table.MAKERS.items() if maker.startswith(long)), "")
        if clean.SOPClassUID == table.LABEL_MAP:
            clean.PhotometricInterpretation = "MONOCHROME2"  # numbers of segments, whatever colours a palette gave them
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = clean.SOPClassUID
        meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
        clean.file_meta = meta
        if "PixelData" in obj:
            pixel_bytes.put_pixels(obj, clean)
        elif _has_long_values(clean):
            _make_implicit(clean)
        return clean

    def _clean_item(self, obj: Object, items: Mapping[Any, Any], depth: int) -> Object:
        """What may stay of an object or of a sequence's item."""
        from pydicom.charset import default_encoding
        from pydicom.dataset import Dataset

        passed: dict[Any, Any] = {}
        actions = _actions_by_tag()
        for tag, lying in items.items():  # iterating the object would read every value of it
            action = actions.get(tag)
            if tag >> 16 == _DELIMITERS:
                raise ObjectRefused(Reason.UNREADABLE, "a sequence whose items run into each other")
            if action is None:
                continue
            if is_cut_off(lying):
                raise ObjectRefused(Reason.UNREADABLE, "an element that is shorter than it says")
            keyword, kind, vr = action
            if kind == "codes":
                passed[tag] = _make_element(tag, "SQ", self._pass_codes(_read_items(obj, tag), depth))
            elif kind == "sequence":
                deeper = _read_items(obj, tag) if depth < _DEPTH else ()
                passed[tag] = _make_element(
                    tag, "SQ", [self._clean_item(item, dict(item.items()), depth + 1) for item in deeper]
                )
            else:
                element = self._pass_element(obj, tag, lying, kind, vr)
                if element is not None:
                    passed[tag] = element
                elif keyword in table.ESSENTIAL and lying.value not in (None, "", b""):
                    raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "a scale or number of frames that cannot be read")
        clean = Dataset(passed)
        clean.set_original_encoding(False, True, default_encoding)  # see `clean_object`
        return clean

    def _pass_element(self, obj: Object, tag: Any, lying: Any, kind: str, vr: str) -> Any:
        """What is written for an element; None where nothing is.

        The slices of a series have most elements alike: what was made of the same bytes is taken again.
        """
        key = _key_of(lying, kind, vr)
        known = _UNKNOWN if key is None else self._known.get(key, _UNKNOWN)
        if known is not _UNKNOWN:
            return known
        value = self._pass_value(kind, vr, _read_value(obj, tag, vr))
        element = None if value is None else _make_element(tag, _unsigned_or_not(vr, value), value)
        if key is not None:
            element = None if element is None else _encode_element(element)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = element
        return element

    def _pass_value(self, kind: str, vr: str, value: Any) -> Any:
        """What is written for a value; None where nothing is."""
        if value is None:
            return None
        several = _as_list(value)
        if kind == "numbers":
            numbers = [_fit_number(one, vr) for one in several]
            return None if None in numbers or not numbers else numbers
        if kind == "words":
            return [self._pass_word(word, word in table.VOCABULARY) for word in _as_texts(several)]
        if kind == "tokens":
            return [self._pass_word(word, re.fullmatch(r"\d{1,3}", word) is not None) for word in _as_texts(several)]
        if kind == "uids":
            return [self._pseudonyms.pseudonym_of_uid(word) for word in _as_texts(several)]
        text = str(value).strip()
        return text if text in self._names else ""

    def _pass_word(self, word: str, known: bool) -> str:
        return word if known or not word else self._pseudonyms.pseudonym_of_word(word)

    def _pass_codes(self, items: Iterable[Object], depth: int) -> list[Object]:
        """Items of a code sequence, with the code sequences inside them (modifiers)."""
        coded = []
        for item in items:
            value = next((v for k in ("CodeValue", "LongCodeValue") if (v := _read_value(item, _tag_of(k)))), "")
            scheme = _read_value(item, _tag_of("CodingSchemeDesignator")) or ""
            clean = _make_code(*self._codes.pass_code(str(scheme), str(value)))
            for tag in item.keys():  # noqa: SIM118 - as in `_clean_item`
                _, kind, _ = _actions_by_tag().get(int(tag), ("", "", ""))
                if kind == "codes" and depth < _DEPTH:
                    clean.add(_make_element(tag, "SQ", self._pass_codes(_read_items(item, tag), depth + 1)))
            coded.append(clean)
        return coded

    @staticmethod
    def _keep_private(obj: Object, clean: Object) -> bool:
        """Keep the private numbers that volumes need; whether there are any."""
        kept = False
        for (group, creator), elements in table.PRIVATE.items():
            if not any(tag >> 16 == group for tag in obj.keys()):  # noqa: SIM118 - as in `_clean_item`
                continue
            for element, vr in elements.items():
                numbers = [_fit_number(one, vr) for one in _as_list(_private_value(obj, group, creator, element))]
                if None not in numbers:
                    block = clean.private_block(group, creator, create=True)
                    block.add_new(element, vr, numbers if len(numbers) > 1 else numbers[0])
                    kept = True
        return kept


def _has_long_values(clean: Object) -> bool:
    """Whether a contour's points are longer than explicit VR can say of a DS."""
    return any(
        sum(len(str(point)) + 1 for point in contour.get("ContourData") or ()) > _LONGEST
        for roi in clean.get("ROIContourSequence") or ()
        for contour in roi.get("ContourSequence") or ()
    )


def _make_implicit(clean: Object) -> None:
    """Have an object written in implicit VR, where no value is too long."""
    from pydicom.charset import convert_encodings
    from pydicom.uid import ImplicitVRLittleEndian

    for _ in clean:  # reads `_constant_elements`, whose bytes are explicit VR's
        pass
    clean.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    clean.set_original_encoding(True, True, list(convert_encodings(_CHARACTERS)))


@cache
def _actions_by_tag() -> Mapping[int, tuple[str, str, str]]:
    """Tag → keyword, what is done with it, VR (PS3.6)."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    groups = {
        "numbers": table.NUMBERS,
        "words": table.WORDS,
        "tokens": table.TOKENS,
        "uids": table.UIDS,
        "sequence": table.SEQUENCES,
        "codes": table.CODES,
        "labels": table.LABELS,
    }
    actions = {}
    for kind, keywords in groups.items():
        for keyword in keywords:
            tag = tag_for_keyword(keyword)
            if tag is None:
                raise LookupError(f"profile_table: {keyword} is no keyword of PS3.6")
            actions[tag] = (keyword, kind, dictionary_VR(tag))
    return actions


@cache
def _constant_elements(private: bool) -> tuple[Any, ...]:
    """Elements that each clean object has alike, as they are written: bytes, which none of them can change.

    Args:
        private: whether private elements were kept.
    """
    from pydicom.dataset import Dataset

    same = Dataset()
    for keyword in table.EMPTY:
        setattr(same, keyword, "")
    same.PatientIdentityRemoved = "YES"
    same.DeidentificationMethod = _METHOD
    same.LongitudinalTemporalInformationModified = "REMOVED"
    methods = table.METHODS + (table.SAFE_PRIVATE,) * private
    same.DeidentificationMethodCodeSequence = [_make_code("DCM", value, text) for value, text in methods]
    return tuple(_encode_element(element) for element in same)


@cache
def _tag_of(keyword: str) -> int:
    from pydicom.datadict import tag_for_keyword

    return int(tag_for_keyword(keyword))


def _read_value(obj: Object, tag: Any, vr: str = "") -> Any:
    """An element's value; None where there is none, or it cannot be read.

    Args:
        vr: by which an element of unknown VR (UN) is read. Values too long for their own VR's length are written so
            (CP-1066; PS3.5, 6.2.2), and pydicom leaves those as they are.
    """
    try:
        element = obj.get(tag)
        if element is not None and element.VR == "UN" and vr and not element.is_empty:
            element = _read_unknown(element, vr)
    except Exception:  # noqa: BLE001 - pydicom raises anything for a malformed value, and quotes it
        return None
    return None if element is None or element.is_empty else element.value


def _read_unknown(element: Any, vr: str) -> Any:
    """An element of unknown VR by its tag's own: little endian, and items with implicit VR (PS3.5, 6.2.2)."""
    from pydicom.dataelem import RawDataElement, convert_raw_data_element

    content = bytes(element.value)
    raw = RawDataElement(element.tag, vr, len(content), content, 0, vr == "SQ", True)
    return convert_raw_data_element(raw)


def _read_items(obj: Object, tag: Any) -> Iterator[Object]:
    from pydicom.sequence import Sequence

    if is_torn(obj.get_item(tag)):
        raise ObjectRefused(Reason.UNREADABLE, "a sequence that holds more or less than its items")
    value = _read_value(obj, tag, "SQ")
    yield from value if isinstance(value, Sequence) else ()


def _as_list(value: Any) -> list[Any]:
    from pydicom.multival import MultiValue

    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]


def _as_texts(values: list[Any]) -> list[str]:
    return [str(value).strip(" \0") if not isinstance(value, bytes) else "" for value in values]


def _fit_number(value: Any, vr: str) -> Any:
    """A number fit for a VR; None for anything else."""
    if isinstance(value, bytes | bool) or value is None:
        return None
    text = str(getattr(value, "original_string", value)).strip(" \0")
    if vr == "DS":
        return text if _DECIMAL.fullmatch(text) and abs(float(text)) < _LARGEST else None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if vr in ("FD", "FL"):
        return number if math.isfinite(number) else None
    if not number.is_integer():
        return None
    if vr == "IS":
        return int(number) if abs(number) < _LARGEST else None
    low, high = _RANGES.get(vr, (-(2**15), 2**16))  # "US or SS": either
    return int(number) if low <= number < high else None


def _unsigned_or_not(vr: str, value: Any) -> str:
    """The VR to write: "US or SS" depends on the value (PS3.5, A.2)."""
    if vr != "US or SS":
        return vr
    return "SS" if min(value) < 0 else "US"


def _make_element(tag: Any, vr: str, value: Any) -> Any:
    from pydicom import config
    from pydicom.dataelem import DataElement

    if vr != "SQ" and isinstance(value, list) and len(value) == 1:
        value = value[0]
    return DataElement(tag, vr, value, validation_mode=config.IGNORE)


def _key_of(lying: Any, kind: str, vr: str) -> _ElementKey | None:
    """What decides what is written for an element; None where more than its own bytes may."""
    if kind == "labels" or len(vr) > 2 or not _ASCII_VRS.issuperset((vr, lying.VR or vr)):
        return None  # an object's character set may, or the sign of its pixels
    value = lying.value
    if not lying.is_raw:
        # Read already. Numbers that are equal may be written otherwise: words alone.
        return (lying.tag, lying.VR, str(value), False, True) if isinstance(value, str) and kind == "uids" else None
    if not isinstance(value, bytes) or len(value) > _SHORT:
        return None
    return lying.tag, lying.VR, value, lying.is_implicit_VR, lying.is_little_endian


def _encode_element(element: Any) -> Any:
    """An element as it is written in explicit VR: bytes, which nothing that is done to one object can change."""
    from pydicom.dataelem import RawDataElement
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_data_element

    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_data_element(buffer, element, _CHARACTERS)
    long = element.VR == "SQ"  # of those that come here, the one whose length has four bytes, after two reserved ones
    content = buffer.getvalue()[12 if long else 8 :]
    return RawDataElement(element.tag, element.VR, len(content), content, 0, False, True)


def _make_code(scheme: str, value: str, meaning: str) -> Object:
    """An item of a code sequence (PS3.3, 8.8)."""
    from pydicom.dataset import Dataset

    item = Dataset()
    setattr(item, "CodeValue" if len(value) <= 16 else "LongCodeValue", value)
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def _private_value(obj: Object, group: int, creator: str, element: int) -> Any:
    try:
        return obj.get_private_item(group, element, creator).value
    except Exception:  # noqa: BLE001 - missing (KeyError), or malformed in any way; its words may quote the value
        return None
