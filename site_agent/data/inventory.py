"""What a data set holds, for the operator's eyes: `konsil site datasets` and `preflight`. Reads every image.

What comes from DICOM is prepared first, as a training process would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from messages.experiment import Experiment
from site_agent.data.list_memory import recall_before
from site_agent.data.volumes import ConceptVolume, measure_volumes
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.consent import Consent
from site_agent.datasets.opening import show_name
from site_agent.datasets.vault import CASES, Vault
from site_agent.dicom.base import Accounting
from site_agent.dicom.config import DicomDataset
from site_agent.disk.secret import secret_of

if TYPE_CHECKING:
    from site_agent.datasets.layouts import Layout


MOST_CLASSES = 32
"""Words of a table that are counted apart."""


@dataclass(frozen=True, slots=True)
class Stock:
    """One data set.

    Attributes:
        details: name cases and stay at the site. prepared: what a preparation from DICOM counted.
        consent: what became of the list of the withdrawn; None where there is none. remarks: what else is worth a line
            (`datasets.remarks`); they stay at the site, too.
        volumes: of each concept, over the cases that are used; empty unless they were asked for.
        classes: what a table says → how many of the cases that are used, the most frequent ones first.
    """

    found: int
    used: int
    left_out: dict[str, int]
    details: tuple[str, ...]
    channels: tuple[str, ...]
    concepts: tuple[str, ...]
    prepared: Accounting | None = None
    consent: Consent | None = None
    remarks: tuple[str, ...] = ()
    volumes: tuple[ConceptVolume, ...] = ()
    classes: Mapping[str, int] = field(default_factory=dict)


def take_stock_of(
    name: str,
    config: DatasetConfig | DicomDataset,
    state: Path,
    experiment: Experiment | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    again: bool = False,
    limit: int | None = None,
    measure: bool = False,
) -> Stock:
    """Survey any data set; one from DICOM is brought up to date first.

    Args:
        state: the site's state directory. again: ask the PACS even where it was asked a short while ago.
        limit: most bytes under `state` (`limits.disk`). measure: volumes, too.

    Raises:
        DataError: as `take_stock`. PacsUnreachable, PacsRefused, WorkFailed: as `dicom.build.materialise`.
    """
    if isinstance(config, DatasetConfig):
        stock = take_stock(config, experiment, progress, measure=measure)
        return replace(stock, consent=recall_before(state, name, stock.consent))
    from site_agent.dicom.prepared import accounts
    from site_agent.dicom.prepared.unused import remark_on_settings
    from site_agent.dicom.prepared.withdrawals import recall_consent
    from site_agent.dicom.preparing import build  # pydicom: not for the agent's event loop

    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = secret_of(state)
    told = progress or (lambda _done, _total: None)
    found: list[Accounting] = []
    dataset = build.prepare_dataset(name, config, state, secret, told, again=again, limit=limit, done=found.append)
    prepared = found[0]
    details = tuple(
        f"{study}: {verdict.text} ({verdict.reason})"
        for study, verdict in accounts.read_verdicts(state, name).items()
        if verdict.reason is not None
    )
    details += tuple(
        f"{one.study or 'a file'}: {show_name(one.name) or 'an object without a UID'}: {one.text} ({one.reason})"
        for one in accounts.read_left_out(state, name)
    )
    channels, concepts = config.channels, config.labels.names
    stock = Stock(0, 0, {}, (), channels, concepts)
    if prepared.used:
        cache = state / "datasets" / name / "survey.sqlite"
        stock = take_stock(dataset, experiment, None, cache, Vault(secret, CASES), channels, measure=measure)
    left_out = Counter({str(reason): count for reason, count in prepared.left_out.items()})
    left_out.update(stock.left_out)
    return Stock(
        found=prepared.found,
        used=stock.used,
        left_out=dict(sorted(left_out.items())),
        details=details + stock.details,
        channels=stock.channels,
        concepts=stock.concepts,
        prepared=prepared,
        consent=recall_before(state, name, recall_consent(state, name, config)),
        remarks=(*_remark_on_source(prepared), *remark_on_settings(state, name, config), *stock.remarks),
        volumes=stock.volumes,
    )


def take_stock(
    config: DatasetConfig,
    experiment: Experiment | None = None,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
    vault: Vault | None = None,
    own: tuple[str, ...] = (),
    *,
    measure: bool = False,
) -> Stock:
    """Survey a folder, for an experiment's channels and concepts, or else for those that it has itself.

    Args:
        vault: opens files that are encrypted. own: the channels that it has, where that is known.
        measure: read each label map once more, for the concepts' volumes.

    Raises:
        DataError: the folder cannot be read, holds no case, or lacks a concept of the experiment.
    """
    from site_agent.datasets import layouts, source  # nibabel: not for the agent's event loop

    layout = layouts.find_cases(config)
    encode = layout.any_value
    if experiment is None:
        channels, concepts = own or common_channels(layout), set(layout.labels.values())
    else:
        channels, concepts = experiment.task.channels, set(experiment.task.concepts)
        encode = experiment.task.encode_value if experiment.task.truth == "table" else None
    preprocessing = None if experiment is None else experiment.preprocessing
    survey = source.survey_cases(
        config, channels, concepts, progress, cache, vault, preprocessing=preprocessing, encode=encode
    )
    used = {case.key for case in survey.cases}
    told = Counter(one for lying in layout.candidates if lying.key in used for one in layout.classes_of(lying))
    lacking = () if experiment is None or encode is None else experiment.task.list_lacking(told)
    return Stock(
        found=survey.found,
        used=len(survey.cases),
        left_out={str(reason): count for reason, count in survey.left_out.items()},
        details=tuple(f"{show_name(one.key)}: {one.text} ({one.reason})" for one in survey.details),
        channels=tuple(channels),
        concepts=tuple(sorted(concepts)),
        consent=survey.consent,
        remarks=(
            *(show_name(remark) for remark in survey.remarks),
            *(f"no case is {name}: metrics of that class have no value here" for name in lacking),
        ),
        volumes=measure_volumes(survey.cases, config, vault) if measure and encode is None else (),
        classes=dict(told.most_common(MOST_CLASSES)) if encode is not None else {},
    )


def _remark_on_source(prepared: Accounting) -> Iterator[str]:
    if not prepared.found:
        yield "the query finds no study: widen it in site.toml"


def common_channels(layout: Layout) -> tuple[str, ...]:
    """The channels that most cases have: a case that lacks one of them is worth a line."""
    if layout.channels:
        return layout.channels
    counted = Counter(name for case in layout.candidates for name in case.images or case.numbers)
    most = max(counted.values(), default=0)
    return tuple(sorted(name for name, count in counted.items() if 2 * count >= most))
