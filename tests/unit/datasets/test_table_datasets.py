"""A table beside images: its lines are cases, its words are mapped, and what cannot be used is counted by reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from class_task import EDGE, class_experiment, table_source, write_pictures
from nifti_files import save_image
from PIL import Image

from messages.ground.errors import ConfigError, DataError
from messages.ground.settings import parse_settings
from messages.reasons import Reason
from messages.sections import Preprocessing
from site_agent.data import guard
from site_agent.data.inventory import take_stock
from site_agent.data.shown import show_case
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.source import MissingConcept, load_case, survey_cases
from site_agent.datasets.splits import split_cases
from site_agent.datasets.tables.pictures import read_picture, read_picture_grid

WORDS = ["benign", "malignant", "benign", "malignant", "normal", ""]
TASK = class_experiment().task


def config(folder: Path, **changes: Any) -> DatasetConfig:
    table = changes.pop("table", {})
    return parse_settings({**table_source(folder, **table), **changes}, DatasetConfig, "site.toml")


def survey(chosen: DatasetConfig, **more: Any) -> Any:
    return survey_cases(chosen, ["US"], [], encode=TASK.encode_value, **more)


def test_each_line_is_a_case_with_its_patient_and_its_class(tmp_path: Path) -> None:
    found = survey(config(write_pictures(tmp_path / "set", WORDS)))
    assert [(case.key, case.patient, case.truth) for case in found.cases] == [
        (f"images/us-{n:02d}", f"p{n // 2}", (1.0, 0.0) if n % 2 == 0 else (0.0, 1.0)) for n in range(4)
    ]
    assert found.left_out == {Reason.NO_LABEL: 1, Reason.UNKNOWN_LABEL_VALUE: 1}
    assert "'normal' is none of benign, malignant" in str([one.text for one in found.details])


def test_a_sites_own_words_are_mapped_and_one_that_is_not_is_refused(tmp_path: Path) -> None:
    words = {"classes": {"0": "benign", "1": "malignant", "2": "malignant"}}
    found = survey(config(write_pictures(tmp_path / "set", ["0", "1", "2", "3"]), table=words))
    assert [case.truth for case in found.cases] == [(1.0, 0.0), (0.0, 1.0), (0.0, 1.0)]
    assert found.left_out == {Reason.UNKNOWN_LABEL_VALUE: 1}
    assert "says '3', which site.toml does not map" in found.details[0].text


def test_pictures_are_read_from_left_to_right_and_from_top_to_bottom(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", ["benign"])
    drawn = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(drawn).save(folder / "images" / "us-00.png")
    chosen = config(folder)
    loaded = load_case(survey(chosen).cases[0], chosen)
    assert loaded.image.shape == (1, 4, 3, 1)
    assert np.array_equal(loaded.image[0, :, :, 0].T, drawn)
    assert not loaded.label.any()


@pytest.mark.parametrize(
    ("mode", "ending"), [("RGB", "png"), ("L", "jpg"), ("I;16", "png"), ("1", "png"), ("P", "png")]
)
def test_pictures_of_each_usual_kind_are_read(mode: str, ending: str, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", ["benign"], ending=ending)
    drawn = Image.fromarray((np.arange(256).reshape(16, 16)).astype(np.uint8))
    made = (
        Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 200)
        if mode == "I;16"
        else drawn.convert(mode)
    )
    made.save(folder / "images" / f"us-00.{ending}")
    chosen = config(folder)
    loaded = load_case(survey(chosen).cases[0], chosen)
    assert loaded.image.max() == (51000 if mode == "I;16" else 1 if mode == "1" else pytest.approx(255, abs=3))


def test_what_is_no_picture_is_counted_and_so_is_a_file_that_is_not_there(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", ["benign"] * 5)
    (folder / "images" / "us-00.png").write_bytes(b"\x89PNG no")
    (folder / "images" / "us-01.png").unlink()
    whole = (folder / "images" / "us-02.png").read_bytes()
    (folder / "images" / "us-02.png").write_bytes(whole[: len(whole) // 2])
    Image.new("L", (8, 8), 7).save(folder / "images" / "us-03.png")
    found = survey(config(folder))
    assert [case.key for case in found.cases] == ["images/us-04"]
    assert found.left_out == {Reason.EMPTY_IMAGE: 1, Reason.NO_IMAGE: 1, Reason.UNREADABLE: 2}


def test_a_cell_that_leads_out_of_the_folder_is_no_image(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", ["benign"] * 2)
    Image.fromarray(np.eye(EDGE, dtype=np.uint8)).save(tmp_path / "other.png")
    (folder / "labels.csv").write_text(
        "image,patient,label\n../other.png,p,benign\n/etc/passwd,q,benign\nimages/us-00.png,r,benign\n"
    )
    found = survey(config(folder))
    assert found.left_out == {Reason.NO_IMAGE: 2}
    assert len(found.cases) == 1


def test_volumes_have_a_file_for_each_channel(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    lines = ["t1;t2;sex"]
    for number in range(4):
        for name in ("t1", "t2"):
            voxels = np.random.default_rng(number).integers(0, 9, (5, 6, 7 + (number == 3 and name == "t2")))
            save_image(folder / name / f"case-{number}.nii.gz", voxels.astype(np.int16))
        lines.append(f"t1/case-{number}.nii.gz;t2/case-{number}.nii.gz;{'FM'[number % 2]}")
    (folder / "labels.csv").write_text("\n".join(lines))
    chosen = parse_settings(
        {
            "source": "table",
            "path": str(folder),
            "channels": ["T1", "T2"],
            "table": {"images": ["t1", "t2"], "label": "sex", "classes": {"F": "benign", "M": "malignant"}},
        },
        DatasetConfig,
        "site.toml",
    )
    found = survey_cases(chosen, ["T2", "T1"], [], encode=TASK.encode_value)
    assert [case.key for case in found.cases] == ["t1/case-0", "t1/case-1", "t1/case-2"]
    assert found.cases[0].images == (folder / "t2" / "case-0.nii.gz", folder / "t1" / "case-0.nii.gz")
    assert found.left_out == {Reason.SHAPE_MISMATCH: 1}
    assert load_case(found.cases[0], chosen).image.shape == (2, 5, 6, 7)


def test_only_lines_that_the_operator_asks_for_count(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", ["benign", "malignant", "benign"])
    found = survey(config(folder, table={"only": {"patient": ["p0"]}}))
    assert found.found == 2
    with pytest.raises(DataError, match="no line that counts"):
        survey(config(folder, table={"only": {"patient": ["nobody"]}}))


def test_a_patients_pictures_stay_in_one_split(tmp_path: Path) -> None:
    found = survey(config(write_pictures(tmp_path / "set", ["benign", "malignant"] * 10)))
    parts = split_cases(found.cases, b"secret", 1, {"train": 0.6, "validation": 0.2, "test": 0.2})
    where = {
        case.patient: {name for name, cases in parts.items() if case.patient in {c.patient for c in cases}}
        for case in found.cases
    }
    assert len(where) == 10
    assert all(len(splits) == 1 for splits in where.values())


def test_somebody_who_has_withdrawn_is_left_out_by_the_tables_patient(tmp_path: Path) -> None:
    (tmp_path / "withdrawn.txt").write_text("p1\n")
    found = survey(config(write_pictures(tmp_path / "set", WORDS[:4]), withdrawn=str(tmp_path / "withdrawn.txt")))
    assert found.left_out == {Reason.WITHDRAWN: 2}
    assert {case.patient for case in found.cases} == {"p0"}


def test_a_slice_fits_no_net_in_3d_and_a_volume_none_in_2d(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", ["benign"])
    solid = Preprocessing.model_validate({"size": [8, 8, 8], "crop": "none"})
    assert survey(config(folder), preprocessing=solid).left_out == {Reason.SHAPE_MISMATCH: 1}
    save_image(folder / "images" / "us-00.nii.gz", np.random.default_rng(1).integers(0, 9, (9, 9, 9)).astype(np.int16))
    (folder / "labels.csv").write_text("image,patient,label\nimages/us-00.nii.gz,p,benign\n")
    flat = Preprocessing.model_validate({"size": [8, 8], "crop": "none"})
    assert survey(config(folder), preprocessing=flat).left_out == {Reason.SHAPE_MISMATCH: 1}
    assert survey(config(folder), preprocessing=solid).left_out == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("picture,patient,label\na.png,p,benign\n", "there is no column 'image'"),
        ("image,patient,patient,label\na.png,p,q,benign\n", "there are 2 columns 'patient'"),
        ("image,patient,label,label\na.png,p,benign,malignant\n", "there are 2 columns 'label'"),
        ("", "there is no column 'image'"),
        ("image,patient,label\n", "no line that counts"),
    ],
)
def test_a_table_that_is_none_is_one_line(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=why):
        survey(config(tmp_path))


def test_a_missing_table_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.csv"):
        survey(config(tmp_path))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"table": {"label": None}}, "say which column holds the label"),
        ({"table": {"file": "../labels.csv"}}, "no name of a file"),
        ({"channels": ["US", "CT"]}, "name a modality for each"),
        ({"labels": {"1": "lesion"}}, "with table.mask they say"),
        ({"source": "decathlon"}, 'source = "table" has a section'),
    ],
)
def test_mistakes_in_site_toml_are_named(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=why):
        config(tmp_path, **changes)


def test_a_data_set_without_a_table_says_so_where_classes_are_asked_for(tmp_path: Path) -> None:
    for name in ("imagesTr", "labelsTr"):
        save_image(tmp_path / name / "a.nii.gz", np.zeros((4, 4, 4), np.int16))
    plain = {"source": "decathlon", "path": str(tmp_path), "channels": ["US"], "labels": {"1": "lesion"}}
    with pytest.raises(MissingConcept, match="nothing says what each case is"):
        survey(parse_settings(plain, DatasetConfig, "site.toml"))


def test_the_operator_sees_counts_by_class_and_which_one_no_case_has(tmp_path: Path) -> None:
    chosen = config(write_pictures(tmp_path / "set", WORDS))
    stock = take_stock(chosen, measure=True)
    assert stock.classes == {"benign": 2, "malignant": 2, "normal": 1}
    lacking = take_stock(chosen, class_experiment(task={"classes": ["benign", "cyst"]}))
    assert lacking.classes == {"benign": 2}
    assert lacking.remarks == ("no case is cyst: metrics of that class have no value here",)
    shown = show_case("breast", chosen, tmp_path / "state", "images/us-01")
    assert shown is not None
    assert (shown.patient, shown.why, shown.shape) == ("p0", ("the table says: malignant",), (EDGE, EDGE, 1))


def test_a_case_of_somebody_who_has_withdrawn_is_not_shown_as_used(tmp_path: Path) -> None:
    (tmp_path / "withdrawn.txt").write_text("p0\n")
    chosen = config(write_pictures(tmp_path / "set", WORDS), withdrawn=str(tmp_path / "withdrawn.txt"))
    shown = show_case("breast", chosen, tmp_path / "state", "images/us-01")
    assert shown is not None
    assert shown.decided == "left out: consent was withdrawn (withdrawn)"
    assert not shown.digest


def test_a_table_that_changes_is_another_data_set(tmp_path: Path) -> None:
    chosen = config(write_pictures(tmp_path / "set", WORDS))
    before = guard.look_at(chosen)
    assert before.files == len(WORDS) + 1
    table = tmp_path / "set" / "labels.csv"
    table.write_text(table.read_text().replace("malignant", "cyst"))
    assert guard.look_at(chosen).digest != before.digest


def test_masks_are_label_maps(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", ["benign"] * 2)
    for number in range(2):
        mask = np.zeros((EDGE, EDGE), np.uint8)
        mask[: 3 + number, :2] = 255
        Image.fromarray(mask).save(folder / f"mask-{number}.png")
    (folder / "labels.csv").write_text("image,mask\nimages/us-00.png,mask-0.png\nimages/us-01.png,mask-1.png\n")
    plain = {"source": "table", "path": str(folder), "channels": ["US"], "table": {"mask": "mask"}}
    chosen = parse_settings({**plain, "labels": {"255": "lesion"}}, DatasetConfig, "site.toml")
    found = survey_cases(chosen, ["US"], ["lesion"])
    assert [int(load_case(case, chosen).label.sum()) for case in found.cases] == [6, 8]


HEAD = "image,patient,label\n"
FIRST, SECOND, THIRD = (f"images/us-{n:02d}.png" for n in range(3))


def survey_lines(folder: Path, text: str, withdrawn: str = "", **more: Any) -> Any:
    write_pictures(folder, ["benign"] * 3)
    (folder / "labels.csv").write_bytes(text.encode())
    (folder.parent / "withdrawn").write_text(withdrawn)
    return survey(config(folder, withdrawn=folder.parent / "withdrawn", **more))


@pytest.mark.parametrize(
    ("line", "withdrawn"),
    [
        (f"{FIRST},38,5,P1\n", "P1\n"),
        (f"{FIRST},P1\n", "P1\n"),
        (f"{FIRST},P1,benign,benign\n", "P1\n"),
    ],
)
def test_a_line_with_more_or_fewer_cells_than_the_head_is_left_out_and_named(
    line: str, withdrawn: str, tmp_path: Path
) -> None:
    found = survey_lines(tmp_path / "set", f"{HEAD}{line}{SECOND},P2,benign\n", withdrawn)
    assert [case.patient for case in found.cases] == ["P2"]
    assert [one.key for one in found.details] == ["line 2"]
    found = survey_lines(tmp_path / "other" / "set", f"{HEAD}{line}{SECOND},P2,benign\n")
    assert "line 2 has" in found.details[0].text
    assert found.left_out == {Reason.UNREADABLE: 1}


def test_a_name_that_a_comma_cut_into_cells_is_in_doubt(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="in doubt in line 1"):
        survey_lines(tmp_path / "set", f"{HEAD}{FIRST},Doe, J,benign\n{SECOND},P2,benign\n", '"Doe, J"\n')


def test_lines_that_contradict_each_other_on_one_image_leave_out_that_image_alone(tmp_path: Path) -> None:
    text = f"{HEAD}{FIRST},P1,benign\nimages/./us-00.png,P1,malignant\n{SECOND},P2,benign\n{SECOND},P2,benign\n"
    found = survey_lines(tmp_path / "set", text)
    assert [case.key for case in found.cases] == ["images/us-01"]
    assert "lines 2, 3 name one image" in found.details[0].text
    assert [one for one in found.remarks if "1 image stands in the table more than once" in one]


def test_one_patient_has_one_name_however_each_cell_writes_it(tmp_path: Path) -> None:
    text = f"{HEAD}{FIRST},M\u00fcller,benign\n{SECOND},Mu\u0308ller,benign\n{THIRD},M\u00fcller\u00a0,benign\n"
    assert {case.patient for case in survey_lines(tmp_path / "set", text).cases} == {"M\u00fcller"}


def test_lines_without_a_patient_are_told(tmp_path: Path) -> None:
    found = survey_lines(tmp_path / "set", f"{HEAD}{FIRST},,benign\n{SECOND},P2,benign\n")
    assert [one for one in found.remarks if one.startswith("1 line names no patient")]


def test_a_value_of_only_that_no_line_has_is_told(tmp_path: Path) -> None:
    text = f"image,patient,label,view\n{FIRST},P1,benign,Front\n"
    found = survey_lines(tmp_path / "set", text, table={"only": {"view": ["Front", "Sdie"]}})
    assert "no line of the table has 'Sdie' in view (table.only)" in found.remarks


@pytest.mark.parametrize(
    "text",
    [
        f"sep=;\r\nimage;patient;label\r\n{FIRST};P1;b\u00f6se\r\n",
        f"image,patient\u00a0,label\u200b\n{FIRST},P1,bo\u0308se\n",
        f"image,patient,label,\n{FIRST},P1,b\u00f6se,\n",
    ],
)
def test_a_table_is_read_as_excel_and_keyboards_write_it(text: str, tmp_path: Path) -> None:
    found = survey_lines(tmp_path / "set", text, table={"classes": {"bo\u0308se": "malignant"}})
    assert [case.truth for case in found.cases] == [(0.0, 1.0)]


def test_a_mask_with_a_palette_of_colours_holds_the_palettes_integers(tmp_path: Path) -> None:
    drawn = np.zeros((6, 8), np.uint8)
    drawn[1:3, 2:7] = 2
    mask = Image.fromarray(drawn, mode="P")
    mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    mask.save(tmp_path / "mask.png")
    assert np.array_equal(read_picture(tmp_path / "mask.png", mask=True).read_whole()[..., 0].T, drawn)
    mask.putpalette([0, 0, 0, 128, 128, 128, 255, 255, 255])  # what everybody sees as 255 is 255
    mask.save(tmp_path / "grey.png")
    assert np.array_equal(read_picture(tmp_path / "grey.png", mask=True).read_whole()[..., 0].T, (drawn > 0) * 255)


def test_a_picture_that_a_camera_turned_has_the_grid_that_it_is_read_on(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(tmp_path / "a.jpg", exif=exif)
    assert read_picture_grid(tmp_path / "a.jpg")[0] == read_picture(tmp_path / "a.jpg").shape == (6, 8, 1)


def test_a_whole_path_into_the_folder_is_read_and_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", ["benign"] * 3)
    (folder / "labels.csv").write_text(
        f"image,patient,label\n{folder}/images/us-00.png,p,benign\nIMAGES/us-01.png,q,benign\nimages/us-02,r,benign\n"
    )
    found = survey(config(folder))
    assert [case.key for case in found.cases] == ["images/us-00"]
    assert found.left_out == {Reason.NO_IMAGE: 2}
    assert [("IMAGES/us-01.png" in one.text, "capitals count" in one.text) for one in found.details][:1] == [
        (True, True)
    ]
    assert "the table names images/us-02," in found.details[1].text


@pytest.mark.parametrize("names", [("p1", "P1"), ("0012", "12"), ("1.0", "1"), ("P 1", "P-1")])
def test_patients_whose_names_may_be_one_persons_are_told(names: tuple[str, str], tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", ["benign"] * 3)
    lines = [f"images/us-0{n}.png,{name},benign" for n, name in enumerate((*names, "other"))]
    (folder / "labels.csv").write_text("\n".join(("image,patient,label", *lines)))
    (told,) = (one for one in survey(config(folder)).remarks if "may be one person's" in one)
    assert all(name in told for name in names)
    assert "other" not in told
