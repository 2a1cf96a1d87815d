"""Canaries through the real training step: what keeps its claim passes, and each fault is found by its own check."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import membership_rig as rig
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deploy.cli.command import run_command
from deploy.demo.toml import write_toml
from deploy.privacy.cli import describe_audit
from deploy.privacy.step_audit import audit_step
from site_agent.privacy import noise
from site_agent.privacy.grid import steps_per_unit
from site_agent.training import private

CHECKS = ("noise_ok", "sensitivity_ok", "sampling_ok")


def _plain(steps: int = 5, **dp: float) -> dict[str, Any]:
    plain = rig.experiment(2, local_steps=steps).as_plain()
    plain["privacy"] = {"dp": {"noise_multiplier": 1.0, "clip_norm": 0.5, "sample_rate": 0.25, **dp}}
    return plain


def _audit(number: int = 0, steps: int = 5, **dp: float) -> dict[str, Any]:
    request = {"experiment": _plain(steps, **dp), "canaries": 100, "rounds": 2, "delta": 1e-5, "threads": 1}
    return audit_step(request, lambda _text: None, bytes([number] * 32))


def test_the_bound_stays_below_the_claim_in_20_of_20_runs() -> None:
    runs = [_audit(number, steps=2, noise_multiplier=0.5) for number in range(20)]
    assert [one["epsilon_lower"] <= one["epsilon_claimed"] for one in runs] == [True] * 20
    assert max(one["epsilon_lower"] for one in runs) > 0  # and they are not all empty
    for check in CHECKS:
        assert sum(not one[check] for one in runs) == 0, check


def _clip_nothing(gradient: torch.Tensor, clip_norm: float, _units: int) -> torch.Tensor:
    return (gradient.double() * steps_per_unit(clip_norm)).round().to(torch.int64)


def _halve_noise(key: bytes, step: int, total: NDArray[np.int64], noise_multiplier: float) -> NDArray[np.int64]:
    return noise.add_noise(key, step, total, noise_multiplier / 2)


def _repeat_noise(_key: bytes, _step: int, total: NDArray[np.int64], noise_multiplier: float) -> NDArray[np.int64]:
    return total + noise.draw_noise(bytes(32), total.size, noise_multiplier * 2**20)


def _shuffle(key: bytes, step: int, patients: int, sample_rate: float) -> NDArray[np.int64]:
    """Each patient once an epoch, in batches of one size."""
    size = round(patients * sample_rate)
    epoch, place = divmod(step, patients // size)
    order = np.random.default_rng([*key[:8], epoch]).permutation(patients)
    return np.sort(order[place * size : (place + 1) * size])


@pytest.mark.parametrize(
    ("name", "fault", "found"),
    [
        ("clip_to_grid", _clip_nothing, "sensitivity_ok"),
        ("add_noise", _halve_noise, "noise_ok"),
        ("add_noise", _repeat_noise, "noise_ok"),
        ("draw_patients", _shuffle, "sampling_ok"),
    ],
)
def test_each_fault_is_found_by_its_own_check(
    name: str, fault: Callable[..., Any], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, name, fault)
    result = _audit()
    assert not result[found]
    assert not result["ok"]
    assert [check for check in CHECKS if not result[check]] == [found]
    assert describe_audit(result)[-1] == "The claim does NOT hold."


def test_a_divisor_that_tells_how_many_were_drawn_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # opacus#571: the mean over those drawn, in place of the expected number. Its noise then has no fixed size.
    real = private.PrivateSteps.add_gradients

    def divide_by_drawn(self: Any, draw: Any, scaler: Any) -> Any:
        told = real(self, draw, scaler)
        expected = self._settings.sample_rate * self._patients.announced
        for one in self._trained:
            one.grad *= expected / max(1, len(draw.patients))
        return told

    monkeypatch.setattr(private.PrivateSteps, "add_gradients", divide_by_drawn)
    assert not _audit()["noise_ok"]


def test_a_patient_that_counts_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = private.clip_to_grid
    monkeypatch.setattr(private, "clip_to_grid", lambda gradient, norm, units: 2 * real(gradient, norm, units))
    assert not _audit()["sensitivity_ok"]


def test_the_command_prints_what_programs_ask_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "exp.toml").write_text(write_toml(_plain()))
    assert run_command(["privacy", "audit", str(tmp_path / "exp.toml"), "--canaries", "100", "--json"]) == 0
    said = capfd.readouterr()
    found = json.loads(said.out)
    assert {"epsilon_claimed", "epsilon_lower", "delta", *CHECKS} <= found.keys()
    assert found["epsilon_lower"] <= found["epsilon_claimed"]
    assert found["delta"] == 1e-5
    assert "canaries: step" in said.err


def test_each_mistake_is_one_line_and_status_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    private_file, plain_file = tmp_path / "exp.toml", tmp_path / "plain.toml"
    private_file.write_text(write_toml(_plain()))
    plain_file.write_text(write_toml(rig.experiment().as_plain()))
    mistakes = {
        "has no [privacy.dp]": [str(plain_file)],
        "none.toml": [str(tmp_path / "none.toml")],
        "7 canaries: 100 to 100000": [str(private_file), "--canaries", "7"],
        "3 rounds of 2": [str(private_file), "--rounds", "3"],
    }
    for words, arguments in mistakes.items():
        assert run_command(["privacy", "audit", *arguments]) == 2, words
        said = capfd.readouterr().err.splitlines()
        assert len(said) == 1
        assert words in said[0]
