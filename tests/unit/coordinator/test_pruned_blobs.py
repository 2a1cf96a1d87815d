"""Blobs that nobody needs: gone under their names at once, unlinked off the main loop, and never left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.work.blobs import Blobs

OLD, KEPT = "a" * 64, "b" * 64


def fill(folder: Path) -> tuple[Blobs, Path]:
    blobs, home = Blobs(folder), folder / "exp"
    home.mkdir()
    for name in (OLD, KEPT, "exp.1.site-a.1.part"):
        (home / name).write_bytes(name.encode())
    return blobs, home


def test_what_is_dropped_is_found_under_its_name_no_more_before_it_is_unlinked(tmp_path: Path) -> None:
    blobs, home = fill(tmp_path)
    (left,) = blobs.drop_blobs("exp", {KEPT})
    assert left.read_bytes() == OLD.encode()
    assert not blobs.has_blob("exp", OLD)
    (home / OLD).write_bytes(b"the same update again")
    left.unlink()
    assert blobs.has_blob("exp", OLD), "what came under that name since is another file"
    assert blobs.has_blob("exp", KEPT)


def test_what_a_killed_coordinator_did_not_unlink_the_next_start_removes(tmp_path: Path) -> None:
    blobs, home = fill(tmp_path)
    assert len(blobs.drop_blobs("exp", {KEPT})) == 1
    Blobs(tmp_path).remove_scratch()
    assert {one.name for one in home.iterdir()} == {KEPT, "exp.1.site-a.1.part"}


def test_a_blob_that_a_job_removes_meanwhile_is_gone_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, home = fill(tmp_path)
    (home / ("c" * 64)).write_bytes(b"another")
    name_scratch = blobs.scratch_file

    def remove_first(experiment: str, name: str) -> Path:
        (home / OLD).unlink(missing_ok=True)  # as a verification does that finds it broken
        return name_scratch(experiment, name)

    monkeypatch.setattr(blobs, "scratch_file", remove_first)
    left = blobs.drop_blobs("exp", {KEPT})
    assert [one.name for one in left if "a" * 64 not in one.name] == [f"gone-{'c' * 64}.part"]
    assert {one.name for one in home.iterdir() if len(one.name) == 64} == {KEPT}


def test_an_experiment_without_a_folder_has_nothing_to_drop(tmp_path: Path) -> None:
    assert Blobs(tmp_path).drop_blobs("unknown", ()) == []
