"""The training process of an experiment whose net is not known yet: it reads the cases and measures them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from site_agent.datasets.barrier import hold_faults
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.source import Case, LoadedCase, load_case
from site_agent.training.cases.cache import CachedCase, content_key
from site_agent.training.protocol import Measure, Measured, MeasuredCase, Prepare
from site_agent.training.session import TrainingSession, choose_device, in_terms_of
from site_agent.training.statistics.measure import measure_case


@dataclass(frozen=True, slots=True)
class CountedCase:
    """A case that is counted in its split, and has no voxels here."""

    name: str


class MeasuringSession(TrainingSession):
    """A site's data for one experiment, without a net. Nothing is preprocessed or cached: how is not known yet."""

    def _set_up_net(self, request: Prepare) -> None:
        self.device = choose_device(request.gpus, request.threads, strict=False)
        self._request, self._forward, self._team = request.model_copy(update={"processes": 1}), None, None
        self._measured: dict[str, MeasuredCase] = {}

    @property
    def net_bytes(self) -> int:
        """There is no net."""
        return 0

    def measure_cases(self, request: Measure) -> Measured:
        """What was measured of the training cases, in the order of the split."""
        return Measured(round=request.round, cases=[self._measured[case.name] for case in self.splits["train"]])

    def _cached_case(self, case: Case, config: DatasetConfig) -> tuple[str, CachedCase]:
        if case.key not in self._keys:  # its verdict was known, and nobody read it
            self._keep_case(case, load_case(case, config, self._cases))
        return self._keys[case.key], cast("CachedCase", CountedCase(case.key))

    def _keep_case(self, case: Case, loaded: LoadedCase) -> None:
        with hold_faults(case.key):
            task, settings = self.experiment.task, self.experiment.preprocessing
            label = in_terms_of(task.concepts, loaded.label, loaded.concepts)
            self._keys[case.key] = content_key(loaded.image, label, loaded.affine, settings, task.concepts)
            self._measured[case.key] = measure_case(
                loaded.image, label, loaded.affine, settings.orientation, task.channels, task.concepts
            )
