"""A site's cases for one experiment: found, left out with a reason, split by patient; what the site joins with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from messages import codec
from messages.experiment import Experiment
from messages.ground.errors import DataError
from messages.reasons import Reason
from site_agent.data.described import dataset_of
from site_agent.datasets.barrier import hold_faults
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.source import Case, CaseError, LoadedCase, Survey, survey_cases
from site_agent.datasets.splits import split_cases
from site_agent.datasets.vault import CASES, Vault
from site_agent.dicom.base import Accounting
from site_agent.disk.lineage import plain_name
from site_agent.training.cases import cache
from site_agent.training.cases.cache import CachedCase
from site_agent.training.progress import ProgressTeller, name_left_out
from site_agent.training.protocol import Prepare, Prepared, Split, UsedCase

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class DatasetGone(DataError):
    """The folder is not there (any more); `messages.reasons.Reason.DATASET_GONE`."""

    reason = Reason.DATASET_GONE


class NoImages(DataError):
    """Konsil's own trainer has nothing to see; `messages.reasons.Reason.MISSING_CHANNEL`."""

    reason = Reason.MISSING_CHANNEL


class CaseShelf(Protocol):
    """What becomes of each case that is read."""

    def keep_case(self, case: Case, loaded: LoadedCase) -> None:
        """Make of a case what is needed of it, and keep that."""

    def fetch_case(self, case: Case, config: DatasetConfig) -> tuple[str, CachedCase]:
        """The digest of a case's content, and the case as it is used. CaseError: it cannot be read any more."""

    def drop_others(self, names: Collection[str]) -> None:
        """Forget all but these cases."""


@dataclass(frozen=True)
class CasesRead:
    """A site's cases, by split.

    Attributes:
        keys: of the cases' content, in the order of `splits`.
        patients: of training: for each, the numbers of its cases. Who has images in common with another counts as one
            with him, as in the split.
        counts: the fields of `Prepared` that tell of them.
    """

    splits: dict[Split, list[CachedCase]]
    keys: dict[Split, list[str]]
    patients: list[list[int]]
    counts: dict[str, Any]

    def join_as(self, machine: dict[str, Any]) -> Prepared:
        """What the agent is told; `machine` as `machine.describe_machine` says."""
        return Prepared(**self.counts, **machine)


def open_vault(request: Prepare) -> Vault | None:
    """Opens the site's cases. Only what comes from DICOM is encrypted, where the operator asks for it; what was, opens
    in any case."""
    return Vault(request.secret, CASES) if "encrypt" in request.dataset else None


def read_cases(request: Prepare, experiment: Experiment, shelf: CaseShelf, teller: ProgressTeller) -> CasesRead:
    """Read a site's cases; those that cannot be used are counted, and named in the trainer's log.

    Raises:
        DataError: the data set cannot be read.
    """
    folder = Path(request.cache)
    cache.sweep_leftovers(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config, prepared = _find_data(request, experiment, teller)
    survey = Survey(0, (), {}, ())
    if prepared is None or prepared.used:
        survey = _survey_dataset(request, experiment, config, shelf, teller)
    shelf.drop_others({case.key for case in survey.cases})
    for one in survey.details:
        name_left_out(one.key, one.reason, one.text)
    # What was left out on the way from DICOM counts with what the survey leaves out.
    left_out = Counter({str(reason): count for reason, count in survey.left_out.items()})
    before = Counter[Reason]() if prepared is None else prepared.left_out
    left_out.update({str(reason): count for reason, count in before.items()})
    parts = split_cases(survey.cases, request.secret, experiment.seed, experiment.data.split.model_dump())
    fingerprint = sha256(codec.canonical(experiment.preprocessing.model_dump(mode="json")))
    total, done = len(survey.cases), 0
    splits: dict[Split, list[CachedCase]] = {name: [] for name in SPLITS}
    keys: dict[Split, list[str]] = {name: [] for name in SPLITS}
    used: list[UsedCase] = []
    patients: dict[str, list[int]] = {}
    for name in SPLITS:
        for case in parts[name]:
            done += 1
            try:
                with hold_faults(case.key):
                    key, cached = shelf.fetch_case(case, config)
            except CaseError as error:  # it could be read a moment ago: count it, and go on without it
                left_out[str(error.reason)] += 1
                name_left_out(case.key, error.reason, str(error))
                continue
            splits[name].append(cached)
            if name == "train":
                patients.setdefault(min(case.kin) if case.kin else case.patient, []).append(len(keys[name]))
            keys[name].append(key)
            said = f"{key} {list(case.truth)}" if case.truth else key
            fingerprint.update(f"{name} {said}\n".encode())
            used.append(_describe_case(case, name, said))
            teller.tell_progress(0, "preparing", total + done, 2 * total)
    # That nothing may be left to train on is for the agent to judge: it tells of it with these counts.
    counts: dict[str, Any] = {
        "found": survey.found + before.total(),
        "used": sum(len(cases) for cases in splits.values()),
        "left_out": dict(sorted(left_out.items())),
        "fingerprint": fingerprint.hexdigest(),
        "data": "" if prepared is None else prepared.fingerprint,
        "as_of": None if prepared is None else prepared.as_of,
        "cases": used,
    }
    counts.update({name: len(splits[name]) for name in SPLITS})
    return CasesRead(splits, keys, list(patients.values()), counts)


def in_terms_of(concepts: Sequence[str], label: NDArray[np.uint8], own: Sequence[str]) -> NDArray[np.uint8]:
    """A data set's label values → the experiment's; concepts that it does not name become background."""
    table = np.zeros(256, dtype=np.uint8)
    for value, concept in enumerate(own, start=1):
        table[value] = concepts.index(concept) + 1 if concept in concepts else 0
    return table[label]


def _survey_dataset(
    request: Prepare, experiment: Experiment, config: DatasetConfig, shelf: CaseShelf, teller: ProgressTeller
) -> Survey:
    if not config.path.is_dir():
        raise DatasetGone("there is no such folder", where=str(config.path))
    if config.table is not None and config.table.numbers:
        raise NoImages("the data set is a table of numbers, and Konsil's nets see images", where=str(config.path))
    task = experiment.task
    return survey_cases(
        config,
        task.channels,
        task.concepts,
        lambda done, total: teller.tell_progress(0, "preparing", done, 2 * total),
        cache=Path(request.cache) / "survey.sqlite",
        vault=open_vault(request),
        preprocessing=experiment.preprocessing,
        visit=shelf.keep_case,
        encode=task.encode_value if task.truth == "table" else None,
    )


def _find_data(
    request: Prepare, experiment: Experiment, teller: ProgressTeller
) -> tuple[DatasetConfig, Accounting | None]:
    """The folder to read; from DICOM it is prepared first, with what that left out."""
    dataset = dataset_of(request.dataset)
    if isinstance(dataset, DatasetConfig):
        return dataset, None
    from site_agent.dicom.preparing.build import for_experiment  # pydicom only where it is needed

    return for_experiment(
        experiment.data.dataset,
        dataset,
        Path(request.state),
        request.secret,
        Path(request.cache),
        lambda done, total: teller.tell_progress(0, "preparing", done, total),
        limit=request.disk_bytes,
        processes=request.threads,
    )


def _describe_case(case: Case, split: Split, content: str) -> UsedCase:
    """A case for the agent's own record."""
    digest = sha256(content.encode()).hexdigest()
    return UsedCase(case=plain_name(case.key), patient=plain_name(case.patient), split=split, digest=digest)
