"""The training process of an experiment whose net is not known yet: it reads the cases and measures them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NoReturn, cast

from messages.experiment import Experiment
from messages.ground.errors import WorkFailed
from site_agent.datasets.barrier import hold_faults
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.source import Case, LoadedCase, load_case
from site_agent.training.cases.cache import CachedCase, content_key
from site_agent.training.cases.reading import in_terms_of, open_vault, read_cases
from site_agent.training.machine import choose_device, describe_machine
from site_agent.training.progress import ProgressTeller, Send
from site_agent.training.protocol import Evaluate, Measure, Measured, MeasuredCase, Prepare, Train
from site_agent.training.statistics.measure import measure_case


@dataclass(frozen=True, slots=True)
class CountedCase:
    """A case that is counted in its split, and has no voxels here."""

    name: str


class MeasuredCases:
    """What statistics need of each case; a `reading.CaseShelf`. Nothing is preprocessed: how is not known yet."""

    def __init__(self, request: Prepare, experiment: Experiment) -> None:
        self._experiment, self._vault = experiment, open_vault(request)
        self._keys: dict[str, str] = {}
        self._measured: dict[str, MeasuredCase] = {}

    def keep_case(self, case: Case, loaded: LoadedCase) -> None:
        """Measure a case."""
        with hold_faults(case.key):
            task, settings = self._experiment.task, self._experiment.preprocessing
            label = in_terms_of(task.concepts, loaded.label, loaded.concepts)
            self._keys[case.key] = content_key(loaded.image, label, loaded.affine, settings, task.concepts)
            self._measured[case.key] = measure_case(
                loaded.image, label, loaded.affine, settings.orientation, task.channels, task.concepts
            )

    def fetch_case(self, case: Case, config: DatasetConfig) -> tuple[str, CachedCase]:
        """The digest of its content, and its name alone."""
        if case.key not in self._keys:  # its verdict was known, and nobody read it
            self.keep_case(case, load_case(case, config, self._vault))
        return self._keys[case.key], cast("CachedCase", CountedCase(case.key))

    def drop_others(self, names: Collection[str]) -> None:
        """Nothing of a case lies on the disk."""

    def measured(self, name: str) -> MeasuredCase:
        """What was measured of a case."""
        return self._measured[name]


class MeasuringSession:
    """A site's data for one experiment, without a net.

    Raises:
        DataError: the data set cannot be read.
        GpuGone: the site lends a GPU that is not there.
    """

    def __init__(self, request: Prepare, send: Send) -> None:
        experiment = Experiment.model_validate(request.experiment)
        device = choose_device(request.gpus, request.threads, strict=False)
        self._shelf = MeasuredCases(request, experiment)
        read = read_cases(request, experiment, self._shelf, ProgressTeller(send))
        self._training = read.splits["train"]
        self.prepared = read.join_as(describe_machine(device, {}))

    @property
    def net_bytes(self) -> int:
        """There is no net."""
        return 0

    def measure_cases(self, request: Measure) -> Measured:
        """What was measured of the training cases, in the order of the split."""
        return Measured(round=request.round, cases=[self._shelf.measured(case.name) for case in self._training])

    def train_round(self, request: Train) -> NoReturn:
        """There is nothing to train."""
        raise WorkFailed("the net is not known yet", where=f"round {request.round}")

    def evaluate_model(self, request: Evaluate) -> NoReturn:
        """There is nothing to score with."""
        raise WorkFailed("the net is not known yet", where=f"round {request.round}")
