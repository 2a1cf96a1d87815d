"""A coordinator's state is copied while it runs; restored, it goes on to the same bits, and sites are not stuck."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from coordinator_kit import SITES, plain
from coordinator_rig import Consortium, body_of, calm_digest

from coordinator.record import archive, salvage
from coordinator.record.journal import Journal, open_readonly
from coordinator.record.recovery import recover_states
from coordinator.record.replay import replay
from coordinator.work.blobs import Blobs
from messages import kinds
from messages.ground.errors import NameTaken, RequestError, WorkFailed

ROUNDS = 5

PLAN = plain(
    quorum={"least_sites": "all"},
    rounds={"count": ROUNDS, "enrol_within": 100.0, "train_within": 1000.0, "grace": 50.0},
)


@pytest.fixture
def calm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a run to which nothing happens."""
    return calm_digest(tmp_path_factory.mktemp("calm"), kinds.ExperimentStart(experiment=PLAN))


def hold(consortium: Consortium, number: int) -> None:
    """Two chunks of site-c's update of round `number` are lost on their way, so that the round stays open."""
    site = consortium.sites[2]

    def spoil(at: int, buffer: bytearray) -> bytearray:
        if at == number:
            site.lost_chunks = {1, 2}
        return buffer

    site.spoil = spoil


def run_until_held(consortium: Consortium, number: int) -> None:
    held = consortium.sites[2]
    held.news.until(lambda: number in held.updates, f"round {number} of site-c")


def begin(consortium: Consortium) -> None:
    consortium.start()
    consortium.join()
    hold(consortium, 2)
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=PLAN))
    run_until_held(consortium, 2)


def go_on(consortium: Consortium, up_to: int) -> None:
    """Let round 2 end, and hold a later one."""
    hold(consortium, up_to)
    consortium.sites[2].find_chunks("exp-1", 2)
    run_until_held(consortium, up_to)


def test_a_restored_coordinator_hears_again_what_came_after_the_backup_and_ends_with_the_same_bits(
    consortium: Consortium, tmp_path: Path, calm: str
) -> None:
    begin(consortium)
    summary = archive.backup(consortium.folder, tmp_path / "saved")
    assert summary.missing == ()
    assert recover_states(open_readonly(tmp_path / "saved"))["exp-1"].completed == 1
    go_on(consortium, 4)
    consortium.stop()
    assert recover_states(open_readonly(consortium.folder))["exp-1"].completed == 3
    shutil.rmtree(consortium.folder)

    archive.restore(tmp_path / "saved", consortium.folder)
    consortium.sites[2].lost_chunks = set()
    second = consortium.start()
    assert second.journal.term > 1_000_000, "sites would refuse a term that they have heard before"
    complete = body_of(consortium.until("experiment-complete"))
    assert complete.rounds == ROUNDS
    assert complete.final_digest == calm
    consortium.stop()
    ended = recover_states(open_readonly(consortium.folder))["exp-1"]
    assert ended.completed == ROUNDS
    steps = list(replay(open_readonly(consortium.folder), Blobs(consortium.folder / "blobs")))
    assert [step.problem for step in steps if not step.agrees] == []
    closed = [step.what for step in steps if "closes with" in step.what]
    assert len(closed) == ROUNDS
    assert all(all(site in told for site in SITES) and "left out" not in told for told in closed)


def test_a_journal_cut_at_its_last_good_entry_goes_on_to_the_same_bits(
    consortium: Consortium, tmp_path: Path, calm: str
) -> None:
    begin(consortium)
    go_on(consortium, 3)
    consortium.stop()
    with pytest.raises(RequestError, match="has no entry 9999"):
        salvage.cut_after(consortium.folder, 9999)
    with pytest.raises(RequestError, match=r"entries 9 to .* hold, too"):
        salvage.cut_after(consortium.folder, 8)
    kept = salvage.cut_after(consortium.folder, 8, even_good=True)
    assert (kept / "journal.sqlite").is_file()
    assert [entry.number for entry in open_readonly(consortium.folder)] == list(range(1, 9))
    consortium.sites[2].lost_chunks = set()
    consortium.start()
    assert body_of(consortium.until("experiment-complete")).final_digest == calm


def test_a_backup_goes_on_where_it_was_interrupted_and_is_refused_twice(consortium: Consortium, tmp_path: Path) -> None:
    begin(consortium)
    shown: list[str] = []

    def interrupted(what: str, done: int, of: int) -> None:
        shown.append(what)
        if what == "blobs" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archive.backup(consortium.folder, tmp_path / "saved", interrupted)
    assert not (tmp_path / "saved").exists()
    with pytest.raises(RequestError, match="no finished backup"):
        archive.restore(tmp_path / "saved.part", tmp_path / "other")
    before = {path: path.stat().st_ino for path in (tmp_path / "saved.part" / "blobs").glob("*/*")}
    assert len(before) == 2
    archive.backup(consortium.folder, tmp_path / "saved")
    assert all((tmp_path / "saved" / path.relative_to(tmp_path / "saved.part")).stat().st_ino == node
               for path, node in before.items())  # fmt: skip
    with pytest.raises(RequestError, match="is there already"):
        archive.backup(consortium.folder, tmp_path / "saved")
    with pytest.raises(RequestError, match="a journal is there already"):
        archive.restore(tmp_path / "saved", consortium.folder)
    with pytest.raises(NameTaken):
        salvage.cut_after(consortium.folder, 3)


def test_a_backup_that_was_damaged_is_not_restored(consortium: Consortium, tmp_path: Path) -> None:
    begin(consortium)
    archive.backup(consortium.folder, tmp_path / "saved")
    blob = next((tmp_path / "saved" / "blobs").glob("*/*"))
    content = bytearray(blob.read_bytes())
    content[7] ^= 1
    blob.write_bytes(content)
    with pytest.raises(WorkFailed, match="not what its name says"):
        archive.restore(tmp_path / "saved", tmp_path / "other")
    assert not (tmp_path / "other" / "journal.sqlite").exists()


def test_the_ids_that_a_cut_keeps_are_those_that_the_coordinator_kept(consortium: Consortium) -> None:
    begin(consortium)
    consortium.stop()
    journal = Journal(consortium.folder)
    told = salvage.handled_events(journal.entries())
    assert len(told) > len(SITES)
    assert {name: journal.seen_settled(name) for name in told} == told
    journal.close()
