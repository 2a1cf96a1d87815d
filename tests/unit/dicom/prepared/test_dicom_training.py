"""A training process on a data set from DICOM: prepared where it trains, told as counts, kept for the experiment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_rig import SECRET, settings, write
from dicom_training_rig import request
from trainer_rig import Trainer

from messages.reasons import Reason
from messages.sections import Preprocessing
from site_agent.data.guard import judge_data, look_at_prepared
from site_agent.datasets.vault import ARRAYS, Vault
from site_agent.training.cases import cache
from site_agent.training.cases.preprocess import prepare_case
from site_agent.training.protocol import Failed, Prepared, Stop


@pytest.mark.torch
def test_a_trainer_prepares_from_dicom_and_says_what_was_left_out_on_the_way(tmp_path: Path) -> None:
    write(tmp_path / "export", range(4))
    write(tmp_path / "export", [4], keep=lambda obj: obj.Modality != "SEG")
    trainer = Trainer()
    try:
        asked = request(tmp_path, encrypt=True)
        said = trainer.ask(asked)
        assert isinstance(said, Prepared), said
        assert (said.found, said.used, said.left_out) == (5, 4, {"no-label": 1})
        assert said.train + said.validation + said.test == 4
        cached = tmp_path / "state" / "cache" / "e-1"
        seen = look_at_prepared(settings(tmp_path / "export"), "glioma", tmp_path / "state", cached)
        assert judge_data(said.data, seen) is None
        arrays = list(cached.rglob("*.npy*"))
        assert {path.suffix for path in arrays} == {".enc"}
        write(tmp_path / "export", [5])
        assert trainer.ask(asked) == said  # the experiment keeps its data
        trainer.process.send_request(Stop())
    finally:
        trainer.process.kill()


@pytest.mark.torch
def test_a_pacs_that_is_not_there_has_its_own_code_and_what_keeps_every_study_out_is_told(tmp_path: Path) -> None:
    write(tmp_path / "export", range(2), keep=lambda obj: obj.Modality != "SEG")
    trainer = Trainer()
    try:
        plain = {**request(tmp_path).dataset, "source": "dicomweb", "url": "http://127.0.0.1:9/dicom-web"}
        del plain["path"]
        said = trainer.ask(request(tmp_path).model_copy(update={"dataset": plain}))
        assert isinstance(said, Failed)
        assert (said.code, said.fatal) == (Reason.RETRIEVE_FAILED, False)
        said = trainer.ask(request(tmp_path))
        assert isinstance(said, Prepared), said
        assert (said.found, said.used, said.left_out) == (2, 0, {"no-label": 2})
    finally:
        trainer.process.kill()


def test_a_sealed_case_reads_as_the_same_arrays_and_only_with_the_sites_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    image = rng.uniform(1, 2, (2, 9, 8, 7)).astype(np.float32)
    label = rng.integers(0, 3, (9, 8, 7)).astype(np.uint8)
    made = prepare_case(image, label, np.eye(4), Preprocessing())
    vault = Vault(SECRET, ARRAYS)
    cache.store_case(tmp_path, "key", made)
    assert not cache.holds_case(tmp_path, "key", vault)
    cache.store_case(tmp_path, "key", made, vault)
    mapped, sealed = cache.fetch_case(tmp_path, "key", "case"), cache.fetch_case(tmp_path, "key", "case", vault)
    monkeypatch.setattr(cache, "OPENED_BYTES", 1)  # each array is read anew
    for what in ("image", "label", "reference", "foreground"):
        assert np.array_equal(getattr(sealed, what), getattr(mapped, what))
        assert getattr(sealed, what).dtype == getattr(mapped, what).dtype
    assert sealed.geometry == mapped.geometry
    other = cache.fetch_case(tmp_path, "key", "case", Vault(SECRET[::-1], ARRAYS))
    cache._OPENED.__init__()  # type: ignore[misc]  # forget what this process has opened
    with pytest.raises(ValueError, match="another secret"):
        _ = other.image


def test_what_is_opened_of_a_sealed_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = Vault(SECRET, ARRAYS)
    image = np.ones((1, 16, 16, 16), dtype=np.float32)
    image[0, 0, 0, 0] = 2
    settings = Preprocessing(normalise="none")
    for number in range(6):
        made = prepare_case(image * (number + 1), np.zeros((16, 16, 16), dtype=np.uint8), np.eye(4), settings)
        cache.store_case(tmp_path, str(number), made, vault)
    opened = cache._Opened()
    monkeypatch.setattr(cache, "_OPENED", opened)
    monkeypatch.setattr(cache, "OPENED_BYTES", 3 * 16**3 * 2)
    for number in (0, 1, 2, 3, 4, 5, 0):
        case = cache.fetch_case(tmp_path, str(number), "case", vault)
        assert float(case.image[0, 1, 1, 1]) == number + 1
    assert sum(array.nbytes for array in opened._arrays.values()) <= 3 * 16**3 * 2
