"""`konsil predict` as a person meets it: images of any orientation, names of any layout, and what cannot be used."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from deploy.cli.command import run_command
from deploy.predict.gathering import gather_cases, pair_channels
from messages.experiment import Experiment
from messages.ground.errors import RequestError
from nets.initial import initial_model
from nets.model_file import save_model
from site_agent.training.cases.preprocess import prepare_case
from site_agent.training.tasks import prediction

SHAPE = (20, 24, 18)
TILT = np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -3], [0, 0, 1, 9], [0, 0, 0, 1.0]])
TURNS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "RAS": ((0, 1, 2), (1, 1, 1)),
    "LPS": ((0, 1, 2), (-1, -1, 1)),
    "LAS": ((0, 1, 2), (-1, 1, 1)),
    "permuted": ((2, 0, 1), (1, 1, 1)),
    "permuted-and-mirrored": ((1, 2, 0), (1, -1, -1)),
}
"""Name → which axis of the head each axis of the file is, and whether it runs backwards (-1)."""
SEGMENTATION = {"kind": "segmentation", "channels": ["T1", "T2"], "regions": {"WT": ["ED"], "ET": ["ET"]}}
UNET = {"name": "UNet", "channels": [2, 4], "strides": [2], "num_res_units": 0}
CNN = {"name": "CNN", "channels": [4, 4]}


def turn_volume(volume: np.ndarray, name: str) -> np.ndarray:
    """The head's voxels as such a file has them."""
    order, signs = TURNS[name]
    return volume.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]


def affine_of(name: str) -> np.ndarray:
    """Of such a file: the same head at the same place."""
    order, signs = TURNS[name]
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (head, sign) in enumerate(zip(order, signs, strict=True)):
        affine[head, axis] = sign
        affine[head, 3] = 0 if sign > 0 else SHAPE[head] - 1
    return affine


def save(path: Path, task: dict[str, object], net: dict[str, object], **more: object) -> Path:
    """A small net with its first weights, as `konsil experiment model` writes it."""
    plain = {"schema": 1, "id": "predicts", "sites": ["site-a"], "task": task, "net": net, "rounds": {"count": 1}}
    experiment = Experiment.model_validate(plain | {"data": {"dataset": "d"}, "training": {"patch": [16] * 3}} | more)
    save_model(path, experiment, *initial_model(experiment), round_number=1)
    return path


def save_classifier(path: Path) -> Path:
    task: dict[str, object] = {"kind": "classification", "channels": ["US"], "classes": ["benign", "malignant"]}
    size = {"preprocessing": {"size": [16, 16]}, "training": {"patch": [16, 16]}}
    return save(path, task, CNN, **size)


def draw_picture(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_mask_lies_on_the_image_as_it_came_however_its_axes_run(tmp_path: Path) -> None:
    """One head in files of several orientations, upright and oblique: the same voxels of it are found in each."""
    draw = np.random.default_rng(1)
    heads = {channel: draw.normal(100, 10, SHAPE).astype(np.float32) for channel in ("T1", "T2")}
    folders = {}
    for name in TURNS:
        for lean, rotation in (("upright", np.eye(4)), ("oblique", TILT)):
            folder = tmp_path / "cases" / f"{name}-{lean}"
            folder.mkdir(parents=True)
            folders[folder.name] = name
            for channel, head in heads.items():
                volume = nibabel.Nifti1Image(turn_volume(head, name), rotation @ affine_of(name))
                nibabel.save(volume, folder / f"{channel}.nii.gz")
    model, out = save(tmp_path / "model.safetensors", SEGMENTATION, UNET), tmp_path / "out"
    assert run_command(["predict", str(model), str(tmp_path / "cases"), "--out", str(out), "--overlay"]) == 0
    upright = {
        region: np.asarray(nibabel.load(out / f"RAS-upright_{region}.nii.gz").dataobj) for region in ("WT", "ET")
    }
    for folder_name, name in folders.items():
        image = nibabel.load(tmp_path / "cases" / folder_name / "T1.nii.gz")
        for region, expected in upright.items():
            found = nibabel.load(out / f"{folder_name}_{region}.nii.gz")
            assert 0 < expected.sum() < expected.size
            np.testing.assert_allclose(found.affine, image.affine, atol=1e-5)
            np.testing.assert_array_equal(np.asarray(found.dataobj), turn_volume(expected, name), err_msg=folder_name)
    rows = {(row["case"], row["region"]): row for row in read_rows(out)}
    assert int(rows["RAS-upright", "WT"]["voxels"]) == upright["WT"].sum()
    assert float(rows["LPS-oblique", "ET"]["ml"]) == pytest.approx(upright["ET"].sum() / 1000)
    assert (out / "preview-001.png").exists()


def test_regions_that_exclude_each_other_come_as_one_label_map_too(tmp_path: Path) -> None:
    task = {**SEGMENTATION, "activation": "softmax"}
    model = save(tmp_path / "model.safetensors", task, UNET, training={"patch": [16] * 3, "loss": "dice+ce"})
    both = np.random.default_rng(1).normal(100, 10, (*SHAPE, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(both, np.eye(4)), tmp_path / "head.nii.gz")
    assert run_command(["predict", str(model), str(tmp_path / "head.nii.gz"), "--out", str(tmp_path / "out")]) == 0
    merged = np.asarray(nibabel.load(tmp_path / "out" / "head.nii.gz").dataobj)
    for number, region in enumerate(("WT", "ET"), start=1):
        mask = np.asarray(nibabel.load(tmp_path / "out" / f"head_{region}.nii.gz").dataobj)
        np.testing.assert_array_equal(merged == number, mask == 1)


def test_classes_come_with_their_probabilities_and_a_broken_picture_is_named_beside_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_classifier(tmp_path / "model.safetensors")
    (tmp_path / "images").mkdir()
    draw_picture(tmp_path / "images" / "b.png", 1)
    draw_picture(tmp_path / "images" / "a.jpg", 2)
    (tmp_path / "images" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    out = tmp_path / "out"
    assert run_command(["predict", str(model), str(tmp_path / "images"), "--out", str(out), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["predicted"] == 2
    assert set(told["failed"]) == {"broken"}
    rows = read_rows(out)
    assert [row["case"] for row in rows] == ["a", "b"]
    for row in rows:
        chances = {name: float(row[name]) for name in ("benign", "malignant")}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == max(chances, key=lambda name: chances[name])


def test_a_quantity_comes_in_its_unit(tmp_path: Path) -> None:
    task = {"kind": "regression", "channels": ["T1"], "quantity": "age", "unit": "years", "centre": 50, "scale": 15}
    sized = {"preprocessing": {"size": [16, 16]}, "training": {"patch": [16, 16], "loss": "mse"}}
    model = save(tmp_path / "model.safetensors", task, CNN, **sized)
    picture = draw_picture(tmp_path / "a.png")
    assert run_command(["predict", str(model), str(picture), "--out", str(tmp_path / "out")]) == 0
    (row,) = read_rows(tmp_path / "out")
    assert (row["case"], row["unit"]) == ("a", "years")
    assert 20 < float(row["age"]) < 80


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name images"),
        (("nothing.nii.gz",), "there is no such file"),
        (("notes.txt",), "is no NIfTI, PNG or JPEG file"),
        (("empty",), "there is no image in"),
        (("a.png", "--channel", "US=a.png"), "name images, or one image's channels"),
        (("--channel", "T1=a.png"), "no channel of the model"),
        (("a.png", "--device", "cuda:77"), "no such device"),
        (("a.png", "--device", "abacus"), "no such device"),
        (("a.png", "--out", "taken"), "holds predictions already"),
        (("a.png", "twin/a.png"), "two files are the image"),
    ],
)
def test_what_cannot_be_predicted_is_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_classifier(tmp_path / "model.safetensors")
    for folder in ("empty", "twin", "taken"):
        (tmp_path / folder).mkdir()
    draw_picture(tmp_path / "a.png")
    draw_picture(tmp_path / "twin" / "a.png")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "taken" / "predictions.csv").write_text("case\n")
    assert run_command(["predict", "model.safetensors", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("konsil: ")]
    assert len(lines) == 1
    assert told in lines[0]


def save_drawer(path: Path) -> Path:
    """Of masks in pictures; its regions exclude each other."""
    task = {"kind": "segmentation", "channels": ["US"], "regions": {"b": ["B"], "c": ["C"]}, "activation": "softmax"}
    sizes = {"preprocessing": {"size": [16, 16]}, "training": {"patch": [16, 16], "loss": "dice+ce"}}
    return save(path, task, UNET, **sizes)


@pytest.mark.parametrize(
    ("images", "there", "arguments", "told"),
    [
        (["in/a.png"], [], ["--out", "in"], "a.png"),  # the label map would take the image's place
        (["in/a.png"], ["out/a_c.png"], [], "a_c.png"),
        (["in/a.png"], ["out/preview-001.png"], ["--overlay"], "preview-001.png"),
        (["in/a.png", "in/a_b.png"], [], [], "a_b.png"),  # region b of a, and all regions of a_b
        (["in/preview-001.png"], [], ["--overlay"], "preview-001.png"),
    ],
)
def test_results_take_no_file_s_place_and_are_refused_before_anything_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    images: list[str],
    there: list[str],
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_drawer(tmp_path / "model.safetensors")
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    for image in (*images, *there):
        draw_picture(tmp_path / image)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    assert run_command(["predict", "model.safetensors", *images, "--out", "out", *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("konsil: ")]
    assert told in line
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before
    assert not list(tmp_path.rglob("predictions.csv"))


def test_a_person_s_own_pictures_stay_beside_the_contact_sheets(tmp_path: Path) -> None:
    save_drawer(tmp_path / "model.safetensors")
    draw_picture(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    own = draw_picture(tmp_path / "out" / "preview-mine.png")
    arguments = ["predict", str(tmp_path / "model.safetensors"), str(tmp_path / "a.png"), "--overlay"]
    assert run_command([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert own.exists()
    assert (tmp_path / "out" / "preview-001.png").exists()


def test_an_image_of_many_slices_is_nothing_that_a_net_of_one_slice_sees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training leaves such a case out for the same reason."""
    model, images = save_classifier(tmp_path / "model.safetensors"), tmp_path / "images"
    images.mkdir()
    draw_picture(images / "a.png")
    voxels = np.random.default_rng(1).normal(100, 10, SHAPE).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), images / "head.nii.gz")
    assert run_command(["predict", str(model), str(images), "--out", str(tmp_path / "out"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert "18 slices" in told["failed"]["head"]
    assert "shape-mismatch" in told["failed"]["head"]
    assert [row["case"] for row in read_rows(tmp_path / "out")] == ["a"]


@pytest.mark.parametrize("fault", [MemoryError(), RuntimeError("mat1 and mat2 shapes cannot be multiplied")])
def test_an_image_on_which_the_net_fails_is_named_and_the_others_are_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: Exception
) -> None:
    model, images, out = save_classifier(tmp_path / "model.safetensors"), tmp_path / "images", tmp_path / "out"
    images.mkdir()
    Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(images / "a-large.png")
    draw_picture(images / "small.png")

    def prepare(image: np.ndarray, *others: object) -> object:
        if image.shape[1] == 64:
            raise fault
        return prepare_case(image, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(prediction, "prepare_case", prepare)
    assert run_command(["predict", str(model), str(images), "--out", str(out), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert set(told["failed"]) == {"a-large"}
    assert [row["case"] for row in read_rows(out)] == ["small"]


def test_a_file_that_is_no_model_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = draw_picture(tmp_path / "a.png")
    assert run_command(["predict", str(picture), str(picture)]) == 2
    assert "is not a model of Konsil" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["p1_0000.nii.gz", "p1_0001.nii.gz", "p2_0000.nii.gz", "p2_0001.nii.gz"], ["p1", "p2"]),
        (["BraTS-1-t1n.nii.gz", "BraTS-1-t2w.nii.gz", "BraTS-1-seg.nii.gz"], ["BraTS-1"]),
        (["case_t1.nii.gz", "case_t2.nii.gz"], ["case"]),
        (["sub_01-t1n.nii.gz", "sub_01-t2w.nii.gz", "sub_02-t1n.nii.gz", "sub_02-t2w.nii.gz"], ["sub_01", "sub_02"]),
        (["whole.nii.gz"], ["whole"]),
        (["one/T1.nii.gz", "one/T2.nii.gz", "two/T1.nii.gz", "two/T2.nii.gz"], ["one", "two"]),
    ],
)
def test_files_that_belong_together_are_found_by_their_names(
    tmp_path: Path, files: list[str], names: list[str]
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    cases = gather_cases([tmp_path], ["T1", "T2"])
    assert [case.key for case in cases] == names
    for case in cases:
        assert len(case.images) == 2
        first, second = case.images
        assert (
            first == second if case.volumes else sorted(str(path) for path in case.images) == [*map(str, case.images)]
        )


def test_a_channel_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "p1_0000.nii.gz").touch()
    with pytest.raises(RequestError, match="no file for T2"):
        gather_cases([tmp_path], ["T1", "T2"])
    with pytest.raises(RequestError, match="no file for T2"):
        pair_channels([f"T1={tmp_path / 'p1_0000.nii.gz'}"], ["T1", "T2"])


def test_a_model_file_whose_region_would_name_another_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = {**SEGMENTATION, "channels": ["US"]}
    model = save(tmp_path / "model.safetensors", task, UNET, training={"patch": [16, 16]})
    told = prediction.load_model
    monkeypatch.setattr(
        prediction, "load_model", lambda *args: (told(*args)[0], told(*args)[1] | {"regions": {"../x": ["ED"]}})
    )
    monkeypatch.chdir(tmp_path)
    assert run_command(["predict", str(model), str(draw_picture(tmp_path / "a.png"))]) == 2
    assert "does not say how images are prepared" in capsys.readouterr().err
    assert not (tmp_path / "predictions").exists()
