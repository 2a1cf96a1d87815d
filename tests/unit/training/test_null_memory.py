"""What the null trainer remembers: enough to show a round that was lost, or trained twice over."""

from __future__ import annotations

from pathlib import Path

import pytest

from site_agent.training.null import Memory


def trained(folder: Path, rounds: list[tuple[int, bytes]]) -> list[str]:
    folder.mkdir()
    return [Memory(folder).remember_round(number, model) for number, model in rounds]


def test_a_round_that_is_trained_again_after_a_kill_is_remembered_as_if_once(tmp_path: Path) -> None:
    calm = trained(tmp_path / "calm", [(1, b"a"), (2, b"b"), (3, b"c")])
    again = trained(tmp_path / "again", [(1, b"a"), (1, b"a"), (2, b"b"), (2, b"b"), (2, b"b"), (3, b"c")])
    assert [again[0], again[2], again[5]] == calm
    assert len(set(calm)) == 3


@pytest.mark.parametrize(
    "rounds",
    [[(1, b"a"), (3, b"c")], [(2, b"b"), (3, b"c")], [(1, b"a"), (2, b"x"), (3, b"c")]],
    ids=["lost", "begun late", "from another model"],
)
def test_a_round_that_is_lost_or_begun_from_another_model_changes_what_follows(
    rounds: list[tuple[int, bytes]], tmp_path: Path
) -> None:
    calm = trained(tmp_path / "calm", [(1, b"a"), (2, b"b"), (3, b"c")])
    assert trained(tmp_path / "other", rounds)[-1] != calm[-1]


def test_a_round_before_the_last_one_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="round 2 was trained"):
        trained(tmp_path / "site", [(2, b"b"), (1, b"a")])
