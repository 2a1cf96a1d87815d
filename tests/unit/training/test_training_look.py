"""What a net is trained on is what preprocessing makes; a case that is nothing costs no other, and blame is told."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from trainer_rig import experiment, preparation, write_data

from messages.experiment import Experiment
from messages.reasons import Reason
from messages.sections import Preprocessing
from site_agent.datasets import cases
from site_agent.datasets.barrier import CaseError
from site_agent.datasets.look import judge_preprocessing
from site_agent.datasets.vault import ARRAYS, Vault
from site_agent.training.cases import cache
from site_agent.training.cases.precision import choose_format
from site_agent.training.cases.preprocess import prepare_case
from site_agent.training.engine import NotANumber, NotFiniteCase, blame_nan_loss
from site_agent.training.failures import code_of
from site_agent.training.protocol import Evaluated, encode_frame
from site_agent.training.session import TrainingSession

NONE = Preprocessing(normalise="none", crop="none")
SHAPE = (12, 10, 8)
LABEL = (np.indices(SHAPE).sum(axis=0) > 18).astype(np.uint8)
RNG = np.random.default_rng(4)


@pytest.fixture(autouse=True)
def _same_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def kept(folder: Path, image: np.ndarray, settings: Preprocessing, vault: Vault | None = None) -> np.ndarray:
    """An image as training finds it in the cache."""
    prepared = prepare_case(image, LABEL, np.eye(4), settings)
    cache.store_case(folder, "key", prepared, vault)
    return np.asarray(cache.fetch_case(folder, "key", "case", vault).image)


@pytest.mark.parametrize(
    "values",
    [
        RNG.integers(0, 200_000, (1, *SHAPE)).astype(np.float32),  # beyond 65,504
        RNG.integers(0, 4096, (1, *SHAPE)).astype(np.float32),  # integers that float16 rounds
        RNG.integers(-1024, 3072, (2, *SHAPE)).astype(np.float32),  # Hounsfield units
        RNG.uniform(0, 1, (1, *SHAPE)).astype(np.float32),
        RNG.uniform(0, 1, (1, *SHAPE)).astype(np.float32) * 1e-6,  # what float16 has few numbers for
        RNG.integers(0, 255, (1, *SHAPE)).astype(np.float32) * 1e9,
    ],
)
@pytest.mark.parametrize("sealed", [False, True])
def test_values_that_are_not_normalised_are_trained_on_as_they_are(
    tmp_path: Path, values: np.ndarray, sealed: bool
) -> None:
    vault = Vault(b"secret", ARRAYS) if sealed else None
    assert choose_format(values, NONE) == "float32"
    np.testing.assert_array_equal(kept(tmp_path, values, NONE, vault), values)


def test_values_that_float16_holds_take_half_of_the_disk(tmp_path: Path) -> None:
    values = RNG.integers(-500, 2049, (1, *SHAPE)).astype(np.float32)
    found = kept(tmp_path, values, NONE)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, values)
    prepared = prepare_case(values, LABEL, np.eye(4), NONE)
    wide = prepare_case(values * 3, LABEL, np.eye(4), NONE)
    assert cache.size_of(wide) - cache.size_of(prepared) == 2 * values.size


def test_what_is_resampled_and_not_normalised_keeps_its_fractions(tmp_path: Path) -> None:
    values = RNG.integers(0, 2000, (1, *SHAPE)).astype(np.float32)
    settings = Preprocessing(normalise="none", crop="none", spacing_mm=(0.7, 0.7, 0.7))
    expected = prepare_case(values, LABEL, np.eye(4), settings).image
    np.testing.assert_array_equal(kept(tmp_path, values, settings), expected)


@pytest.mark.parametrize("normalise", ["zscore", "zscore-nonzero"])
def test_a_voxel_of_metal_does_not_flatten_what_is_trained_on(tmp_path: Path, normalise: str) -> None:
    values = RNG.integers(100, 110, (1, *SHAPE)).astype(np.float32)
    values[0, 0, 0, 0] = 1e8
    settings = Preprocessing.model_validate({"normalise": normalise})
    expected = prepare_case(values, LABEL, np.eye(4), settings).image
    assert choose_format(values, settings) == "float32"
    found = kept(tmp_path, values, settings)
    assert len(np.unique(found)) == len(np.unique(expected)) > len(np.unique(expected.astype(np.float16)))


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        ({"low": 0, "high": 4000, "mean": 0, "deviation": 0.01}, "float32"),  # beyond 65,504
        ({"low": 0, "high": 4000, "mean": 1e6, "deviation": 1}, "float32"),  # steps of float16 are wide there
        ({"low": 0, "high": 4000, "mean": 2000, "deviation": 500}, "float16"),
    ],
)
def test_a_channel_that_is_normalised_by_numbers_of_its_own_is_kept_without_infinity(
    numbers: dict[str, float], kind: str
) -> None:
    values = np.random.default_rng(1).integers(0, 4000, (1, 12, 12, 12)).astype(np.float32)
    assert choose_format(values, Preprocessing.model_validate({"intensities": [{"channel": 1, **numbers}]})) == kind


@pytest.mark.parametrize("big", [1e10, 1e15, 1e27])
def test_values_so_large_that_all_tissue_becomes_one_leave_out_the_case(big: float) -> None:
    values = np.random.default_rng(1).integers(1, 4000, (1, 12, 12, 12)).astype(np.float32)
    values[0, 6:] = big
    for normalise in ("zscore", "zscore-nonzero"):
        settings = Preprocessing.model_validate({"normalise": normalise})
        with pytest.raises(CaseError, match="some values are so large"):
            judge_preprocessing(values, np.eye(4), settings)
        judge_preprocessing(np.where(values == big, 0, values), np.eye(4), settings)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.97])
def test_z_scores_of_usual_images_stay_float16(share: float) -> None:
    values = RNG.normal(300, 80, (2, 40, 40, 40)).astype(np.float32)
    values[:, RNG.uniform(size=(40, 40, 40)) < share] = 0
    for normalise in ("zscore", "zscore-nonzero"):
        assert choose_format(values, Preprocessing.model_validate({"normalise": normalise})) == "float16"


def test_the_key_of_a_case_that_0_1_kept_is_the_same() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 900, (2, 4, 5, 6)).astype(np.float32)
    label = (image[0] > 500).astype(np.uint8)
    keys = {
        Preprocessing(): "5b73dbfffd85599621c684a0a30ba898ab5ebc54542182bb6b0d482c589358a3",
        NONE: "76f238a84f5333d670356a498a62bdf7cd5fc77b8aad296a2ff187ebe05cb4b7",
        Preprocessing(normalise="zscore", spacing_mm=(1, 1, 1)): (
            "45fc86434d355867862afeb62da329780a0064cd80559f09e6650b113b0a7bc0"
        ),
    }
    for settings, expected in keys.items():
        numbers = choose_format(image, settings)
        affine = np.diag([1.0, 2.0, 3.0, 1.0])
        assert cache.content_key(image, label, affine, settings, ("ED", "ET"), numbers) == expected
        assert cache.content_key(image, label, affine, settings, ("ED", "ET"), "float32") != expected


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.where(LABEL, 3e38, 1).astype(np.float32)[None], Reason.NOT_FINITE),
        (5 * LABEL.astype(np.float32)[None], Reason.EMPTY_IMAGE),
    ],
)
def test_what_preprocessing_makes_nothing_of_is_no_case(values: np.ndarray, reason: Reason) -> None:
    with np.errstate(all="ignore"), pytest.raises(CaseError) as caught:
        prepare_case(values, LABEL, np.eye(4), Preprocessing())
    assert caught.value.reason is reason


def prepare(folder: Path, chosen: Experiment | None = None) -> TrainingSession:
    return TrainingSession(preparation(folder, chosen or experiment()), lambda reply: None)


def spoil(folder: Path, number: int, value: float) -> Path:
    """Set one voxel of a case's T1."""
    file = sorted((folder / "data").glob("*/*t1n*"))[number]
    image = nib.load(file)
    voxels = np.asarray(image.dataobj).astype(np.float64)
    voxels[0, 0, 0] = value
    nib.save(nib.Nifti1Image(voxels, image.affine), file)
    return file


def test_a_case_that_would_be_no_number_is_left_out_and_named_when_cases_are_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path)
    file = spoil(tmp_path, 2, 3.4e38)
    session = prepare(tmp_path)
    assert (session.prepared.found, session.prepared.used) == (8, 7)
    assert session.prepared.left_out == {"not-finite": 1}
    named = session.prepared.cases
    assert Counter(one.split for one in named) == {name: len(cases) for name, cases in session.splits.items() if cases}
    assert file.parent.name not in {one.case for one in named}
    assert f"left out: {file.parent.name} (not-finite)" in capsys.readouterr().err
    again = prepare(tmp_path)  # out of the cache
    assert again.prepared.cases == named
    assert (again.prepared.left_out, again.prepared.fingerprint) == ({"not-finite": 1}, session.prepared.fingerprint)


def test_one_header_that_wants_terabytes_leaves_out_its_case(tmp_path: Path) -> None:
    write_data(tmp_path)
    for file in sorted((tmp_path / "data").glob("*"))[0].glob("*"):
        image = nib.load(file)
        made = nib.Nifti1Image(np.asarray(image.dataobj), np.diag([90.0, 90.0, 90.0, 1.0]) @ image.affine / 7)
        nib.save(made, file)
    plain = experiment().as_plain()
    plain["preprocessing"]["spacing_mm"] = [0.9, 0.9, 0.9]
    prepared = prepare(tmp_path, Experiment.model_validate(plain)).prepared
    assert (prepared.used, prepared.left_out) == (7, {"unsupported-image": 1})


def test_each_file_is_read_once_when_cases_are_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path)
    read: Counter[Path] = Counter()
    there = cases.read_nifti

    def count(path: Path, vault: Vault | None = None, grid: tuple[int, ...] | None = None) -> object:
        read[path] += 1
        return there(path, vault, grid)

    monkeypatch.setattr(cases, "read_nifti", count)
    prepare(tmp_path)
    assert len(read) == 8 * 5
    assert set(read.values()) == {1}


@pytest.mark.parametrize("file", ["image.npy", "label.npy", "geometry.json", "foreground.npy"])
def test_a_prepared_case_that_is_damaged_is_made_again(tmp_path: Path, file: str) -> None:
    write_data(tmp_path)
    first = prepare(tmp_path).prepared
    spoilt = sorted((tmp_path / "cache").glob(f"*/{file}"))[0]
    whole = spoilt.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\0" * len(whole)):
        spoilt.write_bytes(content)
        assert prepare(tmp_path).prepared == first
        assert spoilt.read_bytes() == whole


def test_a_case_that_vanishes_after_it_was_found_costs_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path)
    prepare(tmp_path)
    file = sorted((tmp_path / "data").glob("*/*t1n*"))[3]
    status = file.stat()
    file.write_bytes(bytes(status.st_size))  # as the survey's cache saw it, by size and time
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    prepared = prepare(tmp_path).prepared
    assert (prepared.found, prepared.used, prepared.left_out) == (8, 7, {"unreadable": 1})
    assert f"left out: {file.parent.name} (unreadable)" in capsys.readouterr().err


def test_names_that_are_no_utf8_go_all_the_way_to_the_scores(tmp_path: Path) -> None:
    write_data(tmp_path)
    for folder in sorted((tmp_path / "data").iterdir()):
        folder.rename(os.fsdecode(os.fsencode(folder) + b"-M\xfcller\n"))
    session = prepare(tmp_path)
    assert session.prepared.used == 8
    rows = session.score_split("train", 1, "training")
    assert encode_frame(Evaluated(round=1, label="model", scores=[rows]))


def test_a_loss_that_is_no_number_is_blamed_on_data_or_training(tmp_path: Path) -> None:
    good = prepare_case(RNG.normal(size=(1, *SHAPE)).astype(np.float32), LABEL, np.eye(4), Preprocessing())
    cache.store_case(tmp_path, "good", good)
    cache.store_case(tmp_path, "bad", good)
    image = np.load(tmp_path / "bad" / "image.npy")
    image[0, 1, 1, 1] = np.nan
    np.save(tmp_path / "bad" / "image.npy", image)
    both = [cache.fetch_case(tmp_path, key, key) for key in ("good", "bad")]
    with pytest.raises(NotFiniteCase, match=r"^bad: holds NaN") as data, blame_nan_loss(both):
        raise NotANumber("no number")
    with pytest.raises(NotANumber, match="the training is to blame") as training, blame_nan_loss(both[:1]):
        raise NotANumber("no number", advice="Lower the learning rate")
    assert (code_of(data.value), code_of(training.value)) == (Reason.NOT_FINITE, Reason.NAN_LOSS)


def test_a_learning_rate_that_is_too_high_is_the_trainings_fault(tmp_path: Path) -> None:
    write_data(tmp_path)
    session = prepare(tmp_path, experiment(lr=1.0, name="SGD"))
    with torch.no_grad():
        for parameter in session._net.parameters():
            parameter.fill_(float("nan"))
    from site_agent.training.engine import train_round

    cases_of = session.splits["train"]
    with pytest.raises(NotANumber, match="every image is finite"), blame_nan_loss(cases_of):
        train_round(
            session._net, cases_of, session.experiment, session.learner,
            round_number=1, site="site-a", device=session.device,
        )  # fmt: skip
