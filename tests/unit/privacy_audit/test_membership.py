"""`konsil site privacy test`: a real model, a real data set, the real command; and each mistake in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import membership_rig as rig
import pytest

from deploy.cli.command import run_command
from deploy.demo.toml import write_toml
from deploy.privacy import membership
from deploy.privacy.site_cli import _make_request, describe_test
from messages.experiment import Experiment
from messages.ground.errors import RequestError
from nets.model_file import read_metadata
from site_agent.config import read_config


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a site with 24 phantoms, a model and its experiment's file."""
    folder = tmp_path_factory.mktemp("site")
    rig.write_site(folder, 24)
    rig.write_model(folder, rig.experiment())
    (folder / "exp.toml").write_text(write_toml(rig.experiment().as_plain()))
    return folder


def _ask(folder: Path, *more: str, experiment: str = "exp.toml", dataset: str = "glioma") -> int:
    words = ["site", "privacy", "test", str(folder / "model.safetensors"), "--dataset", dataset]
    return run_command([*words, "--config", str(folder / "site.toml"), "--experiment", str(folder / experiment), *more])


def _request(folder: Path, chosen: Experiment, shadows: int) -> dict[str, Any]:
    model = folder / "model.safetensors"
    return _make_request(
        read_config(folder / "site.toml"), chosen, model, "glioma", None, shadows, read_metadata(model)
    )


def test_the_command_tells_how_well_members_are_told_from_others(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _ask(site, "--json") == 0
    said = capfd.readouterr()
    found = json.loads(said.out)
    assert found["loss"]["members"] + found["loss"]["others"] >= 10
    low, high = found["loss"]["auc_interval"]
    assert 0 <= low <= found["loss"]["auc"] <= high <= 1
    assert "reading cases" in said.err
    assert not (site / "state" / "privacy-test").exists() or not any((site / "state" / "privacy-test").iterdir())
    assert any("picked in" in line for line in describe_test(found))


def test_a_test_with_shadow_models_goes_on_where_it_was_ended(site: Path) -> None:
    request = _request(site, rig.experiment(), 4)
    told: list[str] = []

    def end_in_third(text: str) -> None:
        told.append(text)
        if text.startswith("shadow model 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        membership.probe_model(request, end_in_third)
    assert not Path(request["prepare"]["cache"]).exists()  # images of patients do not stay
    kept = sorted(path.name for path in Path(request["folder"]).iterdir())
    assert [name[:9] for name in kept] == ["shadow-1-", "shadow-2-"]
    told.clear()
    found = membership.probe_model(request, told.append)
    assert not any(text.startswith(("shadow model 1", "shadow model 2")) for text in told)
    assert found["lira"]["variant"] == "offline"
    assert 0 <= found["lira"]["auc"] <= 1
    assert not Path(request["folder"]).exists()
    assert found["lira"] == membership.probe_model(request, told.append)["lira"]  # ended or not: the same figures


def test_shadow_models_of_a_private_experiment_are_trained_with_its_noise(site: Path) -> None:
    plain = rig.experiment(local_steps=2).as_plain()
    plain["privacy"] = {"dp": {"noise_multiplier": 1.0, "clip_norm": 0.5, "sample_rate": 0.2}}
    found = membership.probe_model(_request(site, Experiment.model_validate(plain), 4), lambda _text: None)
    assert found["lira"]["shadows"] == 4


def test_too_few_patients_are_refused_with_their_numbers(tmp_path: Path) -> None:
    rig.write_site(tmp_path, 8)
    rig.write_model(tmp_path, rig.experiment())
    with pytest.raises(RequestError, match=r"too few patients: \d+ patients trained on and \d+ in the test split"):
        membership.probe_model(_request(tmp_path, rig.experiment(), 0), lambda _text: None)


def test_each_mistake_is_one_line_and_status_2(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other_net = rig.experiment().as_plain()
    other_net["net"]["channels"] = [8, 16]
    (site / "net.toml").write_text(write_toml(other_net))
    (site / "seed.toml").write_text(write_toml(rig.experiment().as_plain() | {"seed": 99}))
    config = ["--config", str(site / "site.toml")]
    mistakes = {
        "is not a model of Konsil": lambda: run_command(
            ["site", "privacy", "test", str(site / "none.safetensors"), "--dataset", "glioma", *config]
        ),
        "'lung' is not described": lambda: _ask(site, dataset="lung"),
        "the model's net is UNet, the experiment's is UNet with other parameters": lambda: _ask(
            site, experiment="net.toml"
        ),
        "made by another version of experiment": lambda: _ask(site, experiment="seed.toml"),
        "this site does not know experiment": lambda: run_command(
            ["site", "privacy", "test", str(site / "model.safetensors"), "--dataset", "glioma", *config]
        ),
        "2 shadow models: 4 to 1000": lambda: _ask(site, "--shadows", "2"),
        "none.st": lambda: _ask(site, "--own", str(site / "none.st")),
    }
    for words, ask in mistakes.items():
        assert ask() == 2, words
        said = [line for line in capfd.readouterr().err.splitlines() if not line.endswith(" ...")]
        assert len(said) == 1, said
        assert words in said[0]
