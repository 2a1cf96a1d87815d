"""What became of each data set's list of the withdrawn, for the agent's log and `konsil site status`: counts and lines.

Names of cases are compared with the list, no image is opened and no PACS is asked: of a data set from DICOM, what its
last look at the source found is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from messages.ground.errors import DataError
from site_agent.data.list_memory import recall_before
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.consent import Consent, WithdrawnList, compare_list
from site_agent.datasets.layouts import find_cases
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.prepared.withdrawals import recall_consent

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ListStanding:
    """One list in words, without a name. `usable`: whether the data set may be used with it; `nobody`: entries that
    matched nobody; `told`: whether somebody should look."""

    said: str
    usable: bool = True
    nobody: int = 0
    told: bool = False


def judge_dataset_list(name: str, config: DatasetConfig | DicomDataset, state: Path) -> ListStanding | None:
    """How a data set's list stands; None where it has none."""
    if config.withdrawn is None:
        return None
    try:
        consent = recall_before(state, name, _find_consent(name, config, state))
    except DataError as error:
        return ListStanding(f"not used: {error}", usable=False)
    if consent is None:
        return ListStanding("the list of the withdrawn is read, and compared when the data set is prepared")
    return ListStanding(consent.say_counts(), nobody=len(consent.nobody), told=consent.needs_a_look)


def _find_consent(name: str, config: DatasetConfig | DicomDataset, state: Path) -> Consent | None:
    if not isinstance(config, DatasetConfig):
        return recall_consent(state, name, config)
    listed = WithdrawnList.read_list(config.withdrawn)
    layout = find_cases(config)
    return compare_list(listed, [layout.names_of(one, config) for one in layout.candidates])


class ListBoard:
    """How the lists of all data sets stand: looked at on threads, shown by the main loop; logged where it changes."""

    def __init__(self, datasets: Mapping[str, DatasetConfig | DicomDataset], state: Path) -> None:
        self._datasets, self._state = datasets, state
        self._standing: dict[str, ListStanding] = {}

    @property
    def has_lists(self) -> bool:
        """Whether a data set names a list at all."""
        return any(config.withdrawn is not None for config in self._datasets.values())

    def look_at_all(self) -> None:
        """Look at every list. Any thread."""
        for name in self._datasets:
            self.look_at_one(name)

    def look_at_one(self, name: str) -> None:
        """Look at one data set's list. Any thread."""
        standing = judge_dataset_list(name, self._datasets[name], self._state)
        if standing is None or standing == self._standing.get(name):
            return
        self._standing[name] = standing
        if not standing.usable:
            log.error("the list of the withdrawn cannot be used", dataset=name, why=standing.said)
        elif standing.told:
            log.warning(standing.said, dataset=name)
        else:
            log.info(standing.said, dataset=name)

    def as_plain(self) -> list[dict[str, Any]]:
        """For the status."""
        return [
            {"dataset": name, "said": one.said, "usable": one.usable, "nobody": one.nobody}
            for name, one in sorted(self._standing.items())
        ]
