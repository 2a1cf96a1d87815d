"""One object that cannot be read, among whole ones: it is left out and named, and costs no other patient anything."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dicom_rig import quiet

from messages.reasons import Reason
from site_agent.dicom import reading
from site_agent.dicom.config import FolderSource
from site_agent.dicom.door.door import Door
from site_agent.dicom.prepared import accounts
from site_agent.dicom.preparing import build
from site_agent.disk.secret import secret_of
from tests.fuzz import dicom_damage, dicom_studies

EXPLICIT, DEFLATED, JPEG_LS = 0, 2, 6
"""Of `dicom_studies.ENCODINGS`."""
ROWS = b"\x28\x00\x10\x00US\x02\x00"
LABEL = "3.dcm"
"""The file of a study's label, behind those of its slices."""


def export(folder: Path, damage: Callable[[bytes], bytes], name: str, *, encoding: int = EXPLICIT) -> FolderSource:
    """Two whole studies, and one of which a file is damaged."""
    for number, kind in ((1, EXPLICIT), (2, encoding), (3, EXPLICIT)):
        for place, content in enumerate(dicom_studies.study_files(f"2.25.4711.{number}", kind, "seg")):
            path = folder / f"P{number}" / f"{place}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(damage(content) if (number, path.name) == (2, name) else content)
    labels = {"concepts": {"tumour": {"codes": [":".join(dicom_studies.CODE)]}}}
    return FolderSource.model_validate({"source": "dicom", "path": str(folder), "channels": ["T1"], "labels": labels})


def prepared(tmp_path: Path, config: FolderSource) -> tuple[int, dict[Reason, int], list[tuple[str, Reason]]]:
    """Cases, studies left out by reason, objects left out by name."""
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    told: list[Any] = []
    build.prepare_dataset("g", config, state, secret_of(state), quiet, processes=1, done=told.append)
    left_out = [(one.name, one.reason) for one in accounts.read_left_out(state, "g")]
    return told[0].used, dict(told[0].left_out), left_out


def put_syntax(content: bytes, syntax: bytes) -> bytes:
    layout = dicom_damage.split_file(content)
    at = layout.head.index(b"\x02\x00\x10\x00UI")
    (length,) = struct.unpack("<H", layout.head[at + 6 : at + 8])
    syntax += b"\0" * (len(syntax) % 2)
    head = layout.head[: at + 6] + struct.pack("<H", len(syntax)) + syntax + layout.head[at + 8 + length :]
    return head[:140] + struct.pack("<I", len(head) - 144) + head[144:] + layout.body


def put_pixels(content: bytes, value: bytes, *, undefined: bool = False) -> bytes:
    """Another Pixel Data element at the end of a file."""
    at = content.index(b"\xe0\x7f\x10\x00")
    return content[: at + 8] + struct.pack("<I", 0xFFFFFFFF if undefined else len(value)) + value


def pixels_of(content: bytes) -> bytes:
    return content[content.index(b"\xe0\x7f\x10\x00") + 12 :]


def item(content: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def in_items(content: bytes) -> bytes:
    """Pixels in items under a native transfer syntax: an empty offset table, then all of them."""
    return put_pixels(content, item(b"") + item(pixels_of(content)) + END, undefined=True)


def nested(content: bytes) -> bytes:
    """A sequence in a sequence, a thousand deep."""
    at = content.index(b"\x20\x00\x0d\x00UI")
    start = (
        struct.pack("<HH", 0x0008, 0x1140) + b"SQ\0\0" + struct.pack("<IHHI", 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    )
    return content[:at] + start * 1000 + content[at:]


def bomb(content: bytes) -> bytes:
    """What inflates to a gigabyte."""
    layout = dicom_damage.split_file(content)
    empty = b"\x28\x00\x00\x30OW\0\0" + struct.pack("<I", 2**30)
    return layout.head + dicom_damage.deflate(layout.body[:-156] + empty + b"\0" * 2**30)


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new, 1)

    return change


UNREADABLE: list[tuple[str, Callable[[bytes], bytes], int]] = [
    ("the VR of Rows is none", replaced(ROWS, b"\x28\x00\x10\x00U[\x02\x00"), EXPLICIT),
    ("Rows is longer than the file", replaced(ROWS, b"\x28\x00\x10\x00US\xfe\xff"), EXPLICIT),
    ("two Rows", replaced(ROWS + b"\x08\x00", b"\x28\x00\x10\x00US\x04\x00\x08\x00\x08\x00"), EXPLICIT),
    ("cut off, deflated", lambda content: content[:-60], DEFLATED),
    ("cut off", lambda content: content[:-60], EXPLICIT),
    ("cut off in its header", lambda content: content[:300], EXPLICIT),
    ("the meta group is of no length", lambda content: content[:140] + b"\xff" * 4 + content[144:], DEFLATED),
    ("sequences a thousand deep", nested, EXPLICIT),
]
UNDECODABLE: list[tuple[str, Callable[[bytes], bytes], int]] = [
    ("a transfer syntax that nobody knows", lambda content: put_syntax(content, b"1.2.3.4"), EXPLICIT),
    ("each frame deflated", lambda content: put_syntax(content, b"1.2.840.10008.1.2.8.1"), EXPLICIT),
    ("no transfer syntax's UID", lambda content: put_syntax(content, b"1.2.840.10008.1.1"), EXPLICIT),
    ("items under a native syntax", in_items, EXPLICIT),
    ("native pixels under a compressed syntax", lambda c: put_syntax(c, b"1.2.840.10008.1.2.4.90"), EXPLICIT),
    ("items of a defined length", lambda c: put_pixels(c, item(b"") + item(pixels_of(c)) + END), JPEG_LS),
    ("empty items", lambda c: put_pixels(c, item(b"") * 4 + END, undefined=True), JPEG_LS),
    ("two bytes more", lambda c: put_pixels(c, pixels_of(c) + b"\0\0"), EXPLICIT),
]


@pytest.mark.parametrize(("damage", "encoding"), [row[1:] for row in UNREADABLE], ids=[row[0] for row in UNREADABLE])
@pytest.mark.parametrize("name", ["1.dcm", LABEL])
def test_an_object_that_cannot_be_read_is_named_and_the_other_patients_are_prepared(
    tmp_path: Path, damage: Callable[[bytes], bytes], encoding: int, name: str
) -> None:
    used, left_out, named = prepared(tmp_path, export(tmp_path / "in", damage, name, encoding=encoding))
    assert used == 2
    assert sum(left_out.values()) == 1
    assert named == [(f"P2/{name}", Reason.UNREADABLE)]


@pytest.mark.parametrize(("damage", "encoding"), [row[1:] for row in UNDECODABLE], ids=[row[0] for row in UNDECODABLE])
def test_pixels_that_are_not_what_the_header_says_leave_an_image_out(
    tmp_path: Path, damage: Callable[[bytes], bytes], encoding: int
) -> None:
    used, left_out, named = prepared(tmp_path, export(tmp_path / "in", damage, "1.dcm", encoding=encoding))
    assert (used, left_out) == (2, {Reason.UNDECODABLE_PIXELS: 1})
    assert named == [("P2/1.dcm", Reason.UNDECODABLE_PIXELS)]


@pytest.mark.parametrize("damage", [in_items, lambda content: put_pixels(content, pixels_of(content) + b"\0\0")])
def test_pixels_that_are_not_what_the_header_says_leave_a_label_out(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    used, left_out, named = prepared(tmp_path, export(tmp_path / "in", damage, LABEL))
    assert (used, left_out) == (2, {Reason.UNDECODABLE_PIXELS: 1})
    assert named == [(f"P2/{LABEL}", Reason.UNDECODABLE_PIXELS)]


def test_what_inflates_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_INFLATED", 2**20)
    used, left_out, named = prepared(tmp_path, export(tmp_path / "in", bomb, "1.dcm", encoding=DEFLATED))
    assert (used, left_out) == (2, {Reason.UNREADABLE: 1})
    assert named == [("P2/1.dcm", Reason.UNREADABLE)]


@pytest.mark.parametrize("error", [RuntimeError("a name"), MemoryError(), RecursionError(), AssertionError("a name")])
def test_whatever_the_door_meets_in_an_object_costs_that_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    config = export(tmp_path / "in", lambda content: content, "1.dcm")
    real = Door.admit_object

    def admit(self: Door, obj: Any) -> Any:
        if str(obj.SOPInstanceUID) == "2.25.4711.2.1.2":
            raise error
        return real(self, obj)

    monkeypatch.setattr(Door, "admit_object", admit)
    used, left_out, named = prepared(tmp_path, config)
    assert used == 2
    assert sum(left_out.values()) == 1
    assert [name for name, _ in named] == ["P2/1.dcm"]


def test_a_file_that_was_mended_is_used_the_next_time(tmp_path: Path) -> None:
    config = export(tmp_path / "in", replaced(ROWS, b"\x28\x00\x10\x00U[\x02\x00"), "1.dcm")
    assert prepared(tmp_path, config)[0] == 2
    export(tmp_path / "in", lambda content: content, "1.dcm")
    assert prepared(tmp_path, config) == (3, {}, [])


def test_the_names_of_what_is_left_out_lie_sealed(tmp_path: Path) -> None:
    prepared(tmp_path, export(tmp_path / "in", lambda content: content[:300], "1.dcm"))
    index = tmp_path / "state" / "datasets" / "g" / "index.sqlite"
    assert b"P2/1.dcm" not in b"".join(path.read_bytes() for path in index.parent.glob("index.sqlite*"))
