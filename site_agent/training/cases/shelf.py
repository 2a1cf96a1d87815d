"""Cases preprocessed as an experiment asks, kept on disk and mapped from there."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from messages.experiment import Experiment
from site_agent.datasets.barrier import hold_faults
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.opening import show_name
from site_agent.datasets.source import Case, LoadedCase, load_case
from site_agent.datasets.vault import ARRAYS, Vault
from site_agent.disk.room import Room
from site_agent.training.cases import cache
from site_agent.training.cases.cache import CachedCase
from site_agent.training.cases.precision import choose_format
from site_agent.training.cases.preprocess import prepare_case, without_label
from site_agent.training.cases.reading import in_terms_of, open_vault
from site_agent.training.protocol import Prepare


class PreprocessedCases:
    """What a net trains on; a `reading.CaseShelf`."""

    def __init__(self, request: Prepare, experiment: Experiment) -> None:
        self._request, self._experiment, self._folder = request, experiment, Path(request.cache)
        self._cases = open_vault(request)
        self._arrays = Vault(request.secret, ARRAYS) if request.dataset.get("encrypt") else None
        self._keys: dict[str, str] = {}

    @cached_property
    def _room(self) -> Room:
        """Asked for with the first case: the folder is there by then."""
        return Room(Path(self._request.state or self._request.cache), self._request.disk_bytes)

    def keep_case(self, case: Case, loaded: LoadedCase) -> None:
        """Preprocess a case and put it into the cache, as far as it is not there."""
        with hold_faults(case.key):
            settings, concepts = self._experiment.preprocessing, self._experiment.task.concepts
            label = in_terms_of(concepts, loaded.label, loaded.concepts)
            numbers = choose_format(loaded.image, settings)
            key = cache.content_key(loaded.image, label, loaded.affine, settings, concepts, numbers)
            if not cache.holds_case(self._folder, key, self._arrays):
                prepared = prepare_case(loaded.image, label, loaded.affine, settings)
                if case.truth:
                    prepared = without_label(prepared)
                self._room.require_room(cache.size_of(prepared), "preprocessed cases")
                cache.store_case(self._folder, key, prepared, self._arrays)
            self._keys[case.key] = key

    def fetch_case(self, case: Case, config: DatasetConfig) -> tuple[str, CachedCase]:
        """A case out of the cache; it is read and made again where it is not there, or does not read any more."""
        for last in (False, True):
            if case.key not in self._keys:
                self.keep_case(case, load_case(case, config, self._cases))
            key = self._keys[case.key]
            try:
                return key, cache.fetch_case(self._folder, key, show_name(case.key), self._arrays, case.truth)
            except (OSError, EOFError, ValueError, LookupError, TypeError):  # what lies there is damaged
                if last:
                    raise
                cache.remove_case(self._folder, self._keys.pop(case.key), self._arrays)
        raise AssertionError("unreachable")

    def drop_others(self, names: Collection[str]) -> None:
        """Remove what was kept of all but these: a copy of somebody who has withdrawn."""
        for name in self._keys.keys() - set(names):
            cache.remove_case(self._folder, self._keys[name], self._arrays)
