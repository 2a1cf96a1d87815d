"""What stays at a site and what travels beside the net, through real sessions: FedBN, SCAFFOLD, FedDyn."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from trainer_rig import experiment, preparation, write_data

from messages.experiment import Experiment
from messages.ground.errors import WorkFailed
from messages.tensors.layout import Manifest, tensors_of, view_tensors, write_into
from nets.export import load_model
from nets.initial import initial_model
from nets.model_file import save_model
from site_agent.training.protocol import Evaluate, Train
from site_agent.training.session import TrainingSession

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    write_data(folder)
    return folder


def chosen(strategy: str) -> Experiment:
    plain = experiment().as_plain()
    plain["net"] |= {"norm": "batch"}
    plain["training"] |= {"local_epochs": None, "local_steps": 2, "patch": [8, 8, 8]}
    plain["plan"] |= {"strategy": strategy}
    return Experiment.model_validate(plain)


class Site:
    """One site's rounds, each from the model that it is given."""

    def __init__(self, data: Path, folder: Path, one: Experiment) -> None:
        folder.mkdir(exist_ok=True)
        self.data, self.folder, self.experiment = data, folder, one
        built, buffer = initial_model(one)
        self.manifest = Manifest(tensors=one.plan.strategy.choose_travelling(built.tensors))
        initial = view_tensors(built, buffer)
        self.initial: Arrays = {
            spec.name: initial.get(spec.name, np.zeros(spec.shape, np.float32)) for spec in self.manifest.tensors
        }
        self.open()

    def open(self) -> None:
        """A process of its own, as after a restart."""
        request = preparation(self.data, self.experiment).model_copy(update={"cache": str(self.folder / "cache")})
        self.session = TrainingSession(request, lambda _reply: None)

    def train(self, number: int, model: Arrays) -> Arrays:
        """A round; what travels back."""
        self._write(model)
        output = self.folder / "update"
        plain = self.manifest.plain()
        request = Train(
            round=number, attempt=1, model=str(self.folder / "model"), manifest=plain, update=plain, output=str(output)
        )
        self.session.train_round(request)
        return {name: one.read_all() for name, one in tensors_of(self.manifest, output.read_bytes()).items()}

    def score(self, number: int, model: Arrays) -> str:
        self._write(model)
        request = Evaluate(
            round=number,
            model=str(self.folder / "model"),
            manifest=self.manifest.plain(),
            splits=["validation"],
            label="final",
        )
        return self.session.evaluate_model(request).model_dump_json()

    def _write(self, model: Arrays) -> None:
        buffer = bytearray(self.manifest.nbytes)
        write_into(model, self.manifest, memoryview(buffer))
        (self.folder / "model").write_bytes(buffer)

    @property
    def kept(self) -> list[Path]:
        return sorted((self.folder / "cache" / "strategy").rglob("*.safetensors"))


Sites = Callable[[str], Site]


@pytest.fixture
def site(data: Path, tmp_path: Path) -> Sites:
    return lambda strategy: Site(data, tmp_path / "site", chosen(strategy))


def test_under_fedbn_batch_norms_never_travel_and_the_site_goes_on_with_its_own(site: Sites) -> None:
    one = site("FedBN")
    layers = [name for name, _ in one.session._net.named_modules() if name.endswith(".N")]
    assert layers
    assert not [spec.name for spec in one.manifest.tensors if spec.name.rpartition(".")[0] in layers]
    first = one.train(1, one.initial)
    assert first.keys() == one.initial.keys()
    own = {name: value.clone() for name, value in one.session._net.state_dict().items() if "running" in name}
    assert any(value.abs().sum() for name, value in own.items() if name.endswith("mean"))
    one.score(2, one.initial)
    for name, value in own.items():  # the model that came has none: the site's own are in the net
        torch.testing.assert_close(one.session._net.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("strategy", ["FedBN", "FedDC", "MOON", "Ditto"])
def test_what_a_site_keeps_outlives_its_process_to_the_bit_and_a_round_done_again_begins_where_it_began(
    site: Sites, strategy: str
) -> None:
    one = site(strategy)
    one.train(1, one.initial)
    second = one.train(2, one.initial)
    one.open()
    again = one.train(2, one.initial)
    for name, array in second.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
    assert one.score(3, second) == one.score(3, second)
    assert len(one.kept) == 2


@pytest.mark.parametrize("strategy", ["FedBN", "SCAFFOLD"])
def test_a_site_that_lost_what_it_kept_begins_anew_and_says_so(
    site: Sites, strategy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = site(strategy)
    one.train(1, one.initial)
    second, kept = one.train(2, one.initial), one.kept[-1].read_bytes()
    assert "begins anew" not in capsys.readouterr().err
    shutil.rmtree(one.folder / "cache" / "strategy")
    lost = one.train(2, one.initial)
    assert f"{strategy}: nothing is kept from an earlier round: it begins anew" in capsys.readouterr().err
    assert one.kept[-1].read_bytes() != kept
    assert any((lost[name] != second[name]).any() for name in second)


def test_plain_averaging_keeps_nothing(site: Sites) -> None:
    one = site("FedAvg")
    one.train(2, one.initial)
    assert one.kept == []


def test_a_model_that_lacks_what_the_strategy_lets_travel_is_no_model(site: Sites) -> None:
    one = site("SCAFFOLD")
    one.manifest = Manifest(tensors=tuple(spec for spec in one.manifest.tensors if ":" not in spec.name))
    with pytest.raises(WorkFailed, match="not the experiment's net"):
        one.train(1, one.initial)


def test_the_finished_model_holds_the_net_without_its_control_variates(site: Sites, tmp_path: Path) -> None:
    one = site("SCAFFOLD")
    buffer = bytearray(one.manifest.nbytes)
    write_into(one.initial, one.manifest, memoryview(buffer))
    digest = save_model(tmp_path / "m", one.experiment, one.manifest, buffer)
    net, metadata = load_model(tmp_path / "m")
    assert metadata["model_digest"] == digest != metadata["announced_digest"]
    assert len(net.state_dict()) > 0


def test_a_finished_model_without_batch_norms_needs_those_of_a_site(site: Sites, tmp_path: Path) -> None:
    one = site("FedBN")
    one.train(1, one.initial)
    buffer = bytearray(one.manifest.nbytes)
    write_into(one.initial, one.manifest, memoryview(buffer))
    save_model(tmp_path / "m", one.experiment, one.manifest, buffer)
    with pytest.raises(WorkFailed, match="do not belong together"):
        load_model(tmp_path / "m")
    net, _metadata = load_model(tmp_path / "m", one.kept[-1])
    assert any(value.abs().sum() for name, value in net.state_dict().items() if name.endswith("running_mean"))


def test_a_site_takes_its_personal_model_out_of_what_it_keeps(site: Sites, tmp_path: Path) -> None:
    one = site("Ditto")
    sent = one.train(1, one.initial)
    buffer = bytearray(one.manifest.nbytes)
    write_into(sent, one.manifest, memoryview(buffer))
    save_model(tmp_path / "m", one.experiment, one.manifest, buffer)
    common, _metadata = load_model(tmp_path / "m")
    own, _metadata = load_model(tmp_path / "m", one.kept[-1])
    name = next(iter(dict(own.named_parameters())))
    assert not torch.equal(own.state_dict()[name], common.state_dict()[name])


def test_dittos_global_model_is_that_of_plain_averaging(data: Path, tmp_path: Path) -> None:
    """Nothing of the personal model shows in what travels; the net has no dropout, whose numbers both would draw."""
    made = [Site(data, tmp_path / name, chosen(name)) for name in ("FedAvg", "Ditto")]
    plain, beside = (one.train(1, one.initial) for one in made)
    for name, array in plain.items():
        np.testing.assert_array_equal(beside[name], array)
