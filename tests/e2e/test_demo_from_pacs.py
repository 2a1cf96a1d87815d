"""Three hospitals train from a PACS each, over DICOMweb, C-GET and C-MOVE: to the same Dice as from NIfTI."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
from brokers import PATIENCE, eventually, need_broker
from e2e_finished import Finished, finish
from e2e_tiny_demo import CASES, SHAPE, SPACING_MM
from needs import need_orthanc

from deploy.demo.phantoms import identities, phantom
from deploy.demo.phantoms.dicom import scale_to_stored
from deploy.demo.phantoms.patients import Delivery, DeliveryPlan
from site_agent.dicom.door.pseudonyms import Pseudonyms

WITHIN = 900.0
"""Seconds: the demo takes about one minute of two idle cores."""

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.torch, pytest.mark.timeout(WITHIN + 900)]
SITES = ("site-a", "site-b", "site-c")
ENDINGS = {"T1": "t1n", "T1c": "t1c", "T2": "t2w", "FLAIR": "t2f"}
VALUES = {"ED": 1, "ET": 2, "NCR": 3}
"""In a prepared label: the concept's place among those of site.toml, sorted."""


@pytest.fixture(scope="module")
def from_pacs(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One tiny demo from DICOM, run to its end, with its folder kept."""
    need_broker()
    need_orthanc()
    return finish(tmp_path_factory.mktemp("pacs") / "out", "--from-pacs", within=WITHIN)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[ProcessPoolExecutor]:
    """Makes phantoms as the demo's writers do: with more threads OpenBLAS rounds a few of their voxels otherwise."""
    with pytest.MonkeyPatch.context() as patched, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        patched.setenv("OMP_NUM_THREADS", "1")
        pool.submit(int).result()
        yield pool


def deliveries(run: Finished) -> list[Delivery]:
    """What was put into each site's PACS, in the order of the sites."""
    plans = [
        DeliveryPlan.from_plain(json.loads(path.read_text())) for path in (run.out / "run" / "pacs").glob("data-*.json")
    ]
    return sorted((one for plan in plans for one in plan.deliveries), key=lambda one: one.site_index)


def test_every_site_trains_from_its_pacs_by_another_way(from_pacs: Finished) -> None:
    images = from_pacs.result["images"]
    assert {site: text.rpartition(" over ")[2] for site, text in images.items()} == {
        "site-a": "DICOMweb",
        "site-b": "DIMSE C-GET",
        "site-c": "DIMSE C-MOVE",
    }
    report = Path(from_pacs.result["report"]).read_text()
    assert all(f"{site}: {images[site]}" in report for site in SITES)


def test_the_dice_is_that_of_the_same_patients_from_nifti(from_pacs: Finished, finished: Finished) -> None:
    ours, theirs = (one.result["dice"]["federated"] for one in (from_pacs, finished))
    assert ours["n"] == theirs["n"] > 0
    assert abs(ours["mean"] - theirs["mean"]) <= 0.01
    assert ours["sites"].keys() == theirs["sites"].keys() == set(SITES) - {"site-a"}  # which has no test case


def test_the_pooled_baseline_reads_what_the_sites_prepared(from_pacs: Finished, finished: Finished) -> None:
    ours, theirs = (one.result["dice"]["pooled"] for one in (from_pacs, finished))
    assert ours["n"] == theirs["n"]
    assert abs(ours["mean"] - theirs["mean"]) <= 0.01


@pytest.mark.parametrize(("index", "site"), enumerate(SITES))
def test_each_prepared_voxel_is_the_phantoms_within_half_a_slope(
    from_pacs: Finished, one_thread: ProcessPoolExecutor, index: int, site: str
) -> None:
    state = from_pacs.out / "run" / site
    names = Pseudonyms((state / "secret").read_bytes())
    delivered = deliveries(from_pacs)[index]
    assert len(delivered.cases) == CASES
    for case in delivered.cases:
        who = {"site_index": index, "patient": case.patient, "visit": case.visit, "seed": 1}
        images, label = one_thread.submit(phantom.make_case, **who, shape=SHAPE, spacing_mm=SPACING_MM).result()
        name = identities.case_name(names, case.patient_id, case.study)
        for contrast, voxels in images.items():
            most = scale_to_stored(voxels)[1] / 2 + np.spacing(np.float32(voxels.max()))  # prepared voxels are float32
            assert np.abs(prepared(state, name, ENDINGS[contrast]) - voxels).max() <= most
        ours = prepared(state, name, "seg")
        for value, concept in phantom.site_labels(0).items():
            assert np.array_equal(ours == VALUES[concept], label == value)


def prepared(state: Path, case: str, ending: str) -> np.ndarray:
    """A prepared file's voxels in RAS."""
    path = next((state / "datasets" / "glioma").rglob(f"{case}-{ending}.nii.gz"))
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj, dtype=np.float32)


def test_nothing_that_names_a_patient_is_in_what_the_run_left_outside_the_pacs(from_pacs: Finished) -> None:
    planted = {b"Hausarzt", b"Radiologe", b"Demo hospital"}
    for delivery in deliveries(from_pacs):
        planted |= {text.encode() for case in delivery.cases for text in (case.patient_id, case.study)}
    assert len(planted) > 3 + 3 * CASES
    for path in from_pacs.out.rglob("*"):
        if path.is_file() and (from_pacs.out / "run" / "pacs") not in path.parents:
            content = path.read_bytes()
            assert not [one for one in planted if one in content], path.name


def test_no_process_outlives_the_demo(from_pacs: Finished) -> None:
    mine = str(from_pacs.out)

    def left() -> list[psutil.Process]:
        return [one for one in psutil.process_iter(["cmdline"]) if mine in " ".join(one.info["cmdline"] or ())]

    eventually(lambda: not left(), what="the end of all that the demo started")


def test_phantoms_from_a_pacs_and_a_real_set_exclude_each_other(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "deploy.cli",
        "demo",
        "--from-pacs",
        "--data",
        "/nowhere",
        "--out",
        tmp_path / "o",
    ]
    told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert told.returncode == 2
    assert "--from-pacs" in told.stderr
    assert not (tmp_path / "o").exists()
