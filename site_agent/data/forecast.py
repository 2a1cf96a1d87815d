"""What an experiment would meet at this site, looked up before it starts: for the answer to `experiment check`.

On a thread of its own, since a folder may be on a mount that hangs. Only names and headers are read. Of a data set from
DICOM what site.toml says of it counts: its archive is not asked for a check.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import structlog

from messages.experiment import Experiment
from messages.ground.errors import DataError
from messages.reasons import Reason
from site_agent.datasets.barrier import CaseError
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.filenames import is_picture
from site_agent.datasets.layouts import Candidate, Layout, find_cases
from site_agent.dicom.config import DicomDataset

log = structlog.get_logger()

LOOKED_AT = 20
"""Cases whose headers are read."""


def foresee_trouble(
    config: DatasetConfig | DicomDataset, experiment: Experiment, *, has_gpu: bool
) -> tuple[bool, Reason | None]:
    """Whether the site could take part, as far as can be seen; and why not, or what the researcher should know."""
    if isinstance(config, DatasetConfig):
        try:
            layout = find_cases(config)
        except DataError as error:
            log.warning("the data set cannot be read", error=str(error))
            return False, Reason.DATASET_GONE
        fitting = [one for one in layout.candidates if _has_channels(one, layout, experiment)]
        if not fitting:
            return False, Reason.MISSING_CHANNEL
        pictured = (one for one in fitting if one.images)
        grids = [grid for one in islice(pictured, LOOKED_AT) if (grid := _grid_of(one, experiment)) is not None]
        patch = () if experiment.preprocessing.size is not None else sorted(experiment.training.patch)
        # Whichever way an image lies: sorted edges are the kindest comparison.
        if grids and not experiment.measures_first and all(_is_smaller(sorted(grid), patch) for grid in grids):
            return True, Reason.PATCH_TOO_LARGE
    elif not set(experiment.task.channels) <= set(config.channels):
        return False, Reason.MISSING_CHANNEL
    if experiment.training.precision == "amp" and not has_gpu:
        return True, Reason.AMP_WITHOUT_GPU
    return True, None


def _is_smaller(grid: Sequence[int], patch: Sequence[int]) -> bool:
    """Whether some edge is; of a patch in 2D, of the image's largest two."""
    return any(edge < width for edge, width in zip(grid[len(grid) - len(patch) :], patch, strict=True))


def _has_channels(candidate: Candidate, layout: Layout, experiment: Experiment) -> bool:
    there = set(layout.channels) if layout.four_dimensional else set(candidate.images)
    if experiment.training.trainer is not None:
        there |= set(candidate.numbers)
    return bool(there) and set(experiment.task.channels) <= there


def _grid_of(candidate: Candidate, experiment: Experiment) -> tuple[int, ...] | None:
    """Edges of the net's grid over a whole image, in voxels; None where the header is not one of an image."""
    from site_agent.datasets.look import judge_geometry, resampled_shape  # nibabel only where a folder has to be read
    from site_agent.datasets.nifti import read_grid
    from site_agent.datasets.tables.pictures import read_picture_grid

    try:
        path = next(iter(candidate.images.values()))
        shape, affine = read_picture_grid(path) if is_picture(path.name) else read_grid(path)
        judge_geometry(affine, shape[:3])
    except CaseError as error:  # it is told, and left out, when data are prepared
        log.info("a header cannot be read for a forecast", reason=error.reason)
        return None
    return resampled_shape(shape[:3], affine, experiment.preprocessing)[1]
