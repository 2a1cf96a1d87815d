"""Volumes against two independent readers, series by series (`python -m tests.differential` shows them all)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import differential
from tests.differential import DATA, READERS, Row, Series


def judge(series: Series, reader: str) -> Row:
    row = differential.compare_series(series, reader)
    if row.verdict == "missing":
        pytest.skip(row.why)
    return row


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> list[Series]:
    return list(differential.make_generated(tmp_path_factory.mktemp("generated")))


@pytest.mark.parametrize("reader", READERS)
def test_generated_series_are_what_another_reader_makes_of_them(generated: list[Series], reader: str) -> None:
    rows = [judge(series, reader) for series in generated]
    assert [row for row in rows if row.verdict == "differs"] == []
    assert sum(row.verdict == "equal" for row in rows) >= len(rows) - 2


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the shared DICOM files are not here")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("reader", READERS)
def test_public_series_are_what_another_reader_makes_of_them(tmp_path: Path, reader: str) -> None:
    rows = [judge(series, reader) for series in differential.find_public(tmp_path)]
    assert [row for row in rows if row.verdict == "differs"] == []


def test_a_difference_is_found(generated: list[Series], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = generated[0]
    shifted = [(voxels, affine + 0.01) for voxels, affine in differential.read_ours(first)]
    other = [(voxels + 1, affine) for voxels, affine in differential.read_ours(first)]
    for made, words in ((shifted, "affines differ"), (other, "voxels differ"), ([], "1 volumes here, 0 there")):
        monkeypatch.setitem(READERS, "wrong", lambda _series, made=made: made)
        row = differential.compare_series(first, "wrong")
        assert row.verdict == "differs"
        assert words in row.why
