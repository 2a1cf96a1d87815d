"""A round that was cut off goes on from its checkpoint to the same bits; a damaged or foreign one is not used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from round_rig import STEPS, UNET, Site, cut_off, experiment, make_cases

from messages.experiment import Experiment
from messages.tensors.layout import manifest_of
from nets.build import build_net
from nets.weights import arrays_of, manifest
from site_agent.training.cases.cache import CachedCase
from site_agent.training.engine import NotANumber
from site_agent.training.protocol import CaseRow, Prepared, RegionRow, SplitRows, Train
from site_agent.training.resuming.checkpoint import Checkpoints, Header, Unreadable
from site_agent.training.resuming.interrupt import Interrupted
from site_agent.training.resuming.resume import key_of

NETS: dict[str, dict[str, Any]] = {
    "batch norm and dropout": UNET,
    "group norm and dropout": {"name": "SegResNet", "blocks_down": [1, 1], "blocks_up": [1], "dropout": 0.2},
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "Adam": {"name": "Adam"},
    "AdamW, kept": {"name": "AdamW", "reset": False},
    "SGD, kept": {"name": "SGD", "momentum": 0.9, "reset": False},
    "plain SGD": {"name": "SGD", "momentum": 0.0},
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[CachedCase]:
    return make_cases(tmp_path_factory.mktemp("cases"))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("net", NETS)
def test_a_round_cut_off_after_every_step_ends_with_the_bits_of_a_calm_one(
    tmp_path: Path, cases: list[CachedCase], net: str, optimizer: str
) -> None:
    chosen = experiment(NETS[net], OPTIMIZERS[optimizer])
    calm, cut = Site(tmp_path / "calm", cases, chosen), Site(tmp_path / "cut", cases, chosen)
    for number in (1, 2):  # what is kept of the first decides the second
        expected = calm.start(number, every=None)
        found = cut_off(cut, number, list(range(1, STEPS + 1)))
        assert cut.weights() == calm.weights()
        assert found == expected
    assert cut.said("resumed") == 2 * list(range(1, STEPS + 1))


@pytest.mark.parametrize("strategy", ["SCAFFOLD", "MOON", "Ditto"])
def test_what_a_strategy_asks_of_training_resumes_to_the_same_bits(
    tmp_path: Path, cases: list[CachedCase], strategy: str
) -> None:
    chosen = experiment(NETS["batch norm and dropout"], OPTIMIZERS["Adam"], strategy)
    calm, cut = Site(tmp_path / "calm", cases, chosen), Site(tmp_path / "cut", cases, chosen)
    for number in (1, 2):
        expected = calm.start(number, every=None)
        assert cut_off(cut, number, [1, 3, STEPS]) == expected
        assert cut.weights() == calm.weights()
    assert calm.leaves.kept
    plain = Site(tmp_path / "plain", cases, experiment(NETS["batch norm and dropout"], OPTIMIZERS["Adam"]))
    plain.start(1)
    plain.start(2)
    assert plain.weights() != calm.weights()


@settings(max_examples=8, deadline=None)
@given(steps=st.lists(st.integers(1, STEPS), min_size=1, max_size=3, unique=True))
def test_wherever_it_is_cut_off_the_bits_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, cases: list[CachedCase], steps: list[int]
) -> None:
    chosen = experiment(NETS["batch norm and dropout"], OPTIMIZERS["Adam"])
    folder = tmp_path_factory.mktemp("sites")
    calm, cut = Site(folder / "calm", cases, chosen), Site(folder / "cut", cases, chosen)
    assert cut_off(cut, 1, sorted(steps)) == calm.start(1, every=None)
    assert cut.weights() == calm.weights()


def test_progress_goes_on_where_the_checkpoint_was(tmp_path: Path, cases: list[CachedCase]) -> None:
    site = Site(tmp_path, cases, experiment(NETS["batch norm and dropout"], {}))
    with pytest.raises(Interrupted):
        site.start(1, stop_at=3)
    site.reports.clear()  # a slow machine's first process may have reported too
    site.start(1)
    assert site.reports[0] == (3, STEPS, None)  # at once, and without a guess of what is left


def test_an_asked_for_end_is_saved_first_though_no_checkpoint_was_due(
    tmp_path: Path, cases: list[CachedCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, cases, experiment(NETS["batch norm and dropout"], {}))
    monkeypatch.setattr("site_agent.training.resuming.interrupt.Interrupt.asked", True, raising=False)
    monkeypatch.setattr("site_agent.training.resuming.interrupt.Interrupt.__init__", lambda self: None)
    with pytest.raises(Interrupted):
        site.start(1, every=3600.0)
    assert site.said("written") == [1]
    with pytest.raises(Interrupted):
        site.start(1, every=None)
    assert site.said("written") == [1]  # none may be written: it just ends


def test_a_spoilt_round_leaves_no_checkpoint_of_it(tmp_path: Path, cases: list[CachedCase]) -> None:
    site = Site(tmp_path, cases, experiment(NETS["batch norm and dropout"], {}))
    site.spoilt = True
    with pytest.raises(NotANumber):
        site.start(1)
    assert Checkpoints(tmp_path).read_checkpoint(1) is None


def test_a_checkpoint_under_another_key_or_of_another_round_is_removed_and_not_used(
    tmp_path: Path, cases: list[CachedCase]
) -> None:
    chosen = experiment(NETS["batch norm and dropout"], {})
    calm, site = Site(tmp_path / "calm", cases, chosen), Site(tmp_path / "site", cases, chosen)
    with pytest.raises(Interrupted):
        site.start(1, stop_at=2)
    site.key = "another"
    calm.start(1, every=None)
    site.start(1, every=None)
    assert (site.said("unused"), site.said("resumed")) == ([2], [])
    assert site.weights() == calm.weights()
    with pytest.raises(Interrupted):
        site.start(1, stop_at=2)
    site.start(2, every=None)
    assert site.said("resumed") == []
    assert [*(tmp_path / "site" / "checkpoint").iterdir()] == []


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "one bit altered": lambda path: path.write_bytes(flipped(path.read_bytes(), 5000)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_told_and_the_round_trained_from_its_beginning(
    tmp_path: Path, cases: list[CachedCase], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = experiment(NETS["batch norm and dropout"], {})
    calm, site = Site(tmp_path / "calm", cases, chosen), Site(tmp_path / "site", cases, chosen)
    with pytest.raises(Interrupted):
        site.start(1, stop_at=2)
    (path,) = (tmp_path / "site" / "checkpoint").iterdir()
    DAMAGE[damage](path)
    calm.start(1, every=None)
    site.start(1, every=None)
    assert (len(site.said("unreadable")), site.said("resumed")) == (1, [])
    assert site.weights() == calm.weights()
    assert "checkpoint: it is set aside" in capsys.readouterr().err
    assert not path.is_file()


def test_where_no_checkpoint_can_be_written_training_goes_on(tmp_path: Path, cases: list[CachedCase]) -> None:
    chosen = experiment(NETS["batch norm and dropout"], {})
    calm, site = Site(tmp_path / "calm", cases, chosen), Site(tmp_path / "site", cases, chosen)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "checkpoint").write_text("in the way")
    calm.start(1, every=None)
    site.start(1)
    assert site.said("unwritten") == list(range(1, STEPS + 1))
    assert site.weights() == calm.weights()


def header(**changes: Any) -> tuple[Header, dict[str, np.ndarray]]:
    held = {"net.w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7, dtype=np.int64)}
    row = RegionRow(dice=0.25, reference_empty=False, prediction_empty=False)
    scores = SplitRows(split="validation", cases=[CaseRow(case="a", regions={"WT": row})])
    plain = {"key": "k", "round": 3, "step": 2, "steps": 9, "loss_sum": 1.5, "seconds": 2.0, "scores": scores}
    return Header(manifest=manifest_of(held), **(plain | changes)), held


@settings(max_examples=50, deadline=None)
@given(
    round_number=st.integers(1, 10**6),
    step=st.integers(0, 10**9),
    loss=st.floats(allow_nan=False, allow_infinity=False),
    scaler=st.dictionaries(st.sampled_from(["scale", "growth_factor"]), st.floats(0, 1e9)),
    shape=st.lists(st.integers(0, 4), max_size=3),
)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory,
    round_number: int,
    step: int,
    loss: float,
    scaler: dict[str, float],
    shape: list[int],
) -> None:
    folder = Checkpoints(tmp_path_factory.mktemp("cache"))
    held = {"a": np.random.default_rng(step).random(shape), "b": np.arange(3, dtype=np.uint8)}
    said, _ = header(round=round_number, step=step, loss_sum=loss, scaler=scaler)
    said = said.model_copy(update={"manifest": manifest_of(held)})
    folder.write_checkpoint(said, held)
    found = folder.read_checkpoint(round_number)
    assert found is not None
    assert found.header == said
    assert {name: one.read_all().tobytes() for name, one in found.tensors.items()} == {
        name: one.tobytes() for name, one in held.items()
    }


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_byte_can_be_altered_or_be_lacking_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    cache_folder = tmp_path_factory.mktemp("cache")
    folder = Checkpoints(cache_folder)
    folder.write_checkpoint(*header())
    path = cache_folder / "checkpoint" / "round-000003.checkpoint"
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(data.draw(st.sampled_from([whole[:at], flipped(whole, at), whole + b"x"])))
    with pytest.raises(Unreadable):
        folder.read_checkpoint(3)


def test_there_is_one_checkpoint_and_a_half_written_one_goes_with_the_next_round(tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path)
    folder.write_checkpoint(*header(round=1))
    folder.write_checkpoint(*header(round=2))
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["round-000002.checkpoint"]
    (tmp_path / "checkpoint" / "round-000002.part").write_bytes(b"a kill in mid-write")
    folder.keep_only(2)
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["round-000002.checkpoint"]
    folder.clear_rounds(1)
    assert folder.read_checkpoint(2) is not None
    folder.clear_rounds(2)
    assert folder.read_checkpoint(2) is None


KEYS: dict[str, Callable[[Train, Experiment, Prepared], tuple[Train, Experiment, Prepared]]] = {
    "round": lambda train, e, p: (train.model_copy(update={"round": 2}), e, p),
    "evaluation": lambda train, e, p: (train.model_copy(update={"evaluate": True}), e, p),
    "codec": lambda train, e, p: (train.model_copy(update={"update": train.update | {"codec": "bfloat16"}}), e, p),
    "model": lambda train, e, p: (train.model_copy(update={"model": train.model + "-other"}), e, p),
    "experiment": lambda train, e, p: (train, e.model_copy(update={"seed": 99}), p),
    "data": lambda train, e, p: (train, e, p.model_copy(update={"fingerprint": "f2"})),
    "software": lambda train, e, p: (train, e, p.model_copy(update={"versions": {"torch": "1"}})),
    "threads": lambda train, e, p: (train, e, p.model_copy(update={"threads": 2})),
    "device": lambda train, e, p: (train, e, p.model_copy(update={"device_type": "cuda"})),
}


def test_the_key_changes_with_all_that_decides_the_bits_and_not_with_the_attempt(tmp_path: Path) -> None:
    chosen = experiment(NETS["batch norm and dropout"], {})
    (tmp_path / "model").write_bytes(b"weights")
    (tmp_path / "model-other").write_bytes(b"weight!")
    described = manifest(build_net(NETS["batch norm and dropout"], 2, 2, seed=1)).plain()
    train = Train(
        round=1, attempt=1, model=str(tmp_path / "model"), manifest=described, update=described, output="x"
    )  # fmt: skip
    prepared = Prepared(
        found=9, used=9, left_out={}, train=6, validation=1, test=2, device="x86_64", device_type="cpu", threads=1,
        versions={"torch": "2"}, deterministic=True, fingerprint="f1",
    )  # fmt: skip
    key = key_of(train, chosen, "site-a", prepared)
    later = train.model_copy(update={"attempt": 2, "output": "y", "checkpoint_seconds": 5.0})
    assert key_of(later, chosen, "site-a", prepared) == key
    others = {what: change(train, chosen, prepared) for what, change in KEYS.items()}
    keys = {what: key_of(other, e, "site-a", p) for what, (other, e, p) in others.items()}
    keys["site"] = key_of(train, chosen, "site-b", prepared)
    assert len({key, *keys.values()}) == len(keys) + 1


def test_a_checkpoint_of_another_net_changes_nothing(tmp_path: Path, cases: list[CachedCase]) -> None:
    one = Site(tmp_path, cases, experiment(NETS["batch norm and dropout"], {}))
    with pytest.raises(Interrupted):
        one.start(1, stop_at=2)
    other = Site(tmp_path, cases, experiment(NETS["group norm and dropout"], {}))
    calm = Site(tmp_path / "calm", cases, other.experiment)
    calm.start(1, every=None)
    other.start(1, every=None)  # under the same key, which the training process does not let happen
    assert len(other.said("unreadable")) == 1
    assert {name: a.tobytes() for name, a in arrays_of(other.net).items()} == {
        name: a.tobytes() for name, a in arrays_of(calm.net).items()
    }
