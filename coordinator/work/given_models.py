"""Models that the operator has put in, for experiments that begin with one (`net.from`): `models/` in the state folder.

Each is a model file of Konsil (`nets.model_file`), named by its model's digest. It says which net it is of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from messages.experiment import Experiment
from messages.ground.durable import replace_file, sync_to_disk
from messages.ground.errors import ConfigError, WorkFailed
from messages.tensors.layout import Manifest, manifest_of, view_tensors, write_into
from nets import registry
from nets.digest import arrays_digest
from nets.model_file import read_metadata, read_model, save_model

Arrays = Mapping[str, NDArray[Any]]
FOLDER = "models"
NAMED = 3
"""Tensors that do not fit which a line names; the others are counted."""
FREE = ("dropout",)
"""Beginnings of the names of parameters that change no tensor."""


def explain_misfit(wanted: Manifest, found: Arrays) -> str | None:
    """Which tensors of a model do not fit a net's, in one line; None where all do. Their order does not count."""
    here = {name: (tuple(array.shape), array.dtype.name) for name, array in found.items()}
    needed = {spec.name: (spec.shape, spec.dtype) for spec in wanted.tensors}
    wrong = [
        f"{name} is {_tell_shape(*here[name])} and the net's is {_tell_shape(*one)}"
        for name, one in needed.items()
        if name in here and here[name] != one
    ]
    wrong += [f"{name} is missing" for name in needed if name not in here]
    wrong += [f"{name} is none of the net's" for name in here if name not in needed]
    if not wrong:
        return None
    more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    return f"{'; '.join(wrong[:NAMED])}{more}"


def _tell_shape(shape: tuple[int, ...], dtype: str) -> str:
    return f"{' x '.join(str(edge) for edge in shape) or 'a scalar'} of {dtype}"


@dataclass(frozen=True, slots=True)
class MadeFor:
    """What a model was made for: its net, its channels, and what its outputs mean."""

    net: Mapping[str, Any]
    channels: tuple[str, ...]
    out_channels: int
    outputs: Mapping[str, Any]

    @classmethod
    def of_experiment(cls, experiment: Experiment) -> MadeFor:
        """As an experiment's file says."""
        net, task = {"name": experiment.net.name, **experiment.net.parameters}, experiment.task
        return cls(net, tuple(task.channels), task.out_channels, task.describe_outputs())

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, Any], like: Experiment) -> MadeFor:
        """As a model file says, in the words of the task that it is wanted for."""
        outputs = {key: metadata.get(key) for key in like.task.describe_outputs()}
        return cls(metadata["net"], tuple(metadata["channels"]), metadata["out_channels"], outputs)

    def find_misfit(self, experiment: Experiment) -> str | None:
        """Why an experiment cannot begin with such a model, in one line; None where it may.

        What is only scored must mean what the file says. What is trained on may learn something else.
        """
        wanted = MadeFor.of_experiment(experiment)
        if self.net.get("name") != experiment.net.name:
            return f"that model is a {self.net.get('name')}, and net.name is {experiment.net.name!r}"
        ours, theirs = (_shaping(one.net) for one in (wanted, self))
        if different := sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key)):
            key = different[0]
            return f"that model has {key} = {theirs.get(key)}, and the file's net has {ours.get(key)}"
        for count, plural in ((len(self.channels), "channels"), (self.out_channels, "outputs")):
            needed = len(wanted.channels) if plural == "channels" else wanted.out_channels
            if count != needed:
                return f"that model has {count} {plural}, and the file's task has {needed}"
        if not experiment.plan.trains and self.channels != wanted.channels:
            return f"that model's channels are {', '.join(self.channels)}, in this order"
        if not experiment.plan.trains and dict(self.outputs) != dict(wanted.outputs):
            key = next(key for key, value in wanted.outputs.items() if self.outputs.get(key) != value)
            return f"that model's {key} are not the file's"
        return None


def _shaping(net: Mapping[str, Any]) -> dict[str, Any]:
    """A net's parameters, defaults too, without those that change no tensor."""
    spec = registry.read_spec(net)
    return {key: value for key, value in spec.model_dump(mode="json").items() if not key.startswith(FREE)}


class GivenModels:
    """The folder.

    Args:
        folder: need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, digest: str) -> Path:
        """Where a model is or would be. A digest is 64 hex digits, so the path stays inside."""
        return self.folder / f"{digest}.safetensors"

    def read_metadata(self, digest: str) -> dict[str, Any] | None:
        """What a model's file says of it; None where there is no such model.

        Raises:
            ConfigError: it is no model file.
        """
        path = self.path_of(digest)
        return read_metadata(path) if path.is_file() else None

    def open_model(self, digest: str) -> Arrays:
        """A model's tensors.

        Raises:
            ConfigError: there is no such model.
            WorkFailed: it is not what its name says.
        """
        arrays, metadata = read_model(self.path_of(digest))
        if metadata["model_digest"] != digest:
            raise WorkFailed("is not the model that its name says", where=str(self.path_of(digest)))
        return arrays

    def put_model(self, source: Path) -> str:
        """Take in a model that Konsil wrote; returns its digest.

        Raises:
            ConfigError: it is none, or its net is not known here.
            DataError: its weights do not match its own digest.
            WorkFailed: it cannot be written.
        """
        _arrays, metadata = read_model(source)
        digest = metadata["model_digest"]
        try:
            registry.read_spec(metadata["net"], str(source))
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(self.path_of(digest), source.read_bytes(), durable=True)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"is not a model of Konsil ({error})", where=str(source)) from None
        except OSError as error:
            raise WorkFailed(f"cannot be written ({error.strerror})", where=str(self.folder)) from None
        return str(digest)

    def put_weights(self, source: Path, experiment: Experiment, net: Manifest) -> str:
        """Take in any safetensors file whose tensors are those of an experiment's net; returns the model's digest.

        Args:
            net: the net's tensors, in its order.

        Raises:
            ConfigError: it is no safetensors file, or tensors do not fit: they are named.
            WorkFailed: it cannot be written.
        """
        arrays = _read_weights(source)
        if (why := explain_misfit(net, arrays)) is not None:
            raise ConfigError(why, where=str(source), advice="Nothing was put in")
        buffer = bytearray(net.nbytes)
        write_into(arrays, net, memoryview(buffer))
        digest = arrays_digest(view_tensors(net, buffer))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_model(self.path_of(digest), experiment, net, buffer)
            sync_to_disk(self.path_of(digest))
            sync_to_disk(self.folder)
        except OSError as error:
            raise WorkFailed(f"cannot be written ({error.strerror})", where=str(self.folder)) from None
        return digest


def _read_weights(source: Path) -> Arrays:
    try:
        with safe_open(source, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        manifest_of(arrays)
    except (OSError, TypeError, ValueError, SafetensorError) as error:
        raise ConfigError(f"is no safetensors file of weights ({error})", where=str(source)) from None
    return arrays
