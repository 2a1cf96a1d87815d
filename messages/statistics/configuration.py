"""What a federation has configured itself to, and the experiment that goes on with it. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from messages.experiment import Experiment, read_recorded
from messages.ground.strictness import StrictModel, at_most
from messages.sections import Intensities

Edge = Annotated[int, Field(ge=1, le=4096)]
ByAxis = tuple[Edge, Edge, Edge]
Millimetres = Annotated[float, Field(gt=0, le=1e6)]
MOST_LEVELS = 8


class Configuration(StrictModel):
    """The sections of an experiment file that follow from a pooled fingerprint.

    Attributes:
        spacing_mm, normalise, intensities: `preprocessing`. patch, batch: `training`.
        filters, strides, kernels: of a DynUNet, by level; strides between levels.
        median_shape: of the cases at that spacing, after cropping, rounded down.
        memory_mib: for which it was made.
    """

    spacing_mm: tuple[Millimetres, Millimetres, Millimetres]
    normalise: Annotated[str, Field(pattern="^zscore(-nonzero)?$")]
    intensities: Annotated[tuple[Intensities, ...], at_most(64)] = ()
    patch: ByAxis
    batch: Annotated[int, Field(ge=1, le=256)]
    filters: Annotated[tuple[Edge, ...], at_most(MOST_LEVELS)]
    strides: Annotated[tuple[ByAxis, ...], at_most(MOST_LEVELS)]
    kernels: Annotated[tuple[ByAxis, ...], at_most(MOST_LEVELS)]
    median_shape: ByAxis
    memory_mib: Annotated[int, Field(ge=1, le=2**40)]

    @property
    def words(self) -> str:
        """For a person, in one line."""
        patch, spacing = " × ".join(map(str, self.patch)), " × ".join(f"{edge:g}" for edge in self.spacing_mm)
        ct = f", {len(self.intensities)} of CT" if self.intensities else ""
        return (
            f"DynUNet of {len(self.filters)} levels, patch {patch}, batch {self.batch}, {spacing} mm, "
            f"{self.normalise}{ct}, for {self.memory_mib / 1024:g} GiB"
        )


def configure_experiment(experiment: Experiment, found: Configuration) -> Experiment:
    """The experiment with what was found in the place of `[net] name = "auto"`; all else as the file says it.

    A log outlives the model: what was decided once is read even where the model of today would refuse it.
    """
    plain = experiment.as_plain()
    net: dict[str, Any] = {"name": "DynUNet", "filters": list(found.filters)}
    net |= {"strides": [list(one) for one in found.strides], "kernel_size": [list(one) for one in found.kernels]}
    preprocessing = {**plain.get("preprocessing", {}), "spacing_mm": list(found.spacing_mm)}
    preprocessing["normalise"] = found.normalise
    if found.intensities:
        preprocessing["intensities"] = [one.model_dump(mode="json") for one in found.intensities]
    training = {**plain.get("training", {}), "patch": list(found.patch), "batch": found.batch}
    return read_recorded({**plain, "net": net, "preprocessing": preprocessing, "training": training})
