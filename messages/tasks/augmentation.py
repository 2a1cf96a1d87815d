"""`[augmentation]` of an experiment file: how training images are varied, each patch by chance."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from messages.ground.settings import Settings

_Fraction = Annotated[float, Field(ge=0, le=1)]
_FORM_4: dict[str, Any] = {"json_schema_extra": {"form": 4}, "exclude_if": lambda value: value is None}


class Variation(Settings):
    """One way to vary a patch: with this chance, by a strength drawn evenly between two numbers.

    Where one number lies below 1 and the other above, and the strength is a factor, it is as often below 1 as above.
    """

    chance: _Fraction
    between: tuple[float, float]

    @model_validator(mode="after")
    def _from_less_to_more(self) -> Self:
        if not self.between[0] <= self.between[1]:
            raise ValueError("between = [LEAST, MOST]: the smaller number comes first")
        return self


BOUNDS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "rotation": (-180, 180),
        "scaling": (0.25, 4),
        "elastic": (0, 32),
        "gaussian_noise": (0, 10),
        "blur": (0, 8),
        "brightness": (0.1, 10),
        "contrast": (0.1, 10),
        "low_resolution": (0.1, 1),
        "gamma_inverted": (0.1, 10),
        "gamma": (0.1, 10),
    }
)
"""Every variation by its key, in the order in which they are done → what its strength may be."""
FACTORS = frozenset({"scaling", "brightness", "contrast", "gamma_inverted", "gamma"})
"""Those whose strength is a factor, of which 1 changes nothing."""


def _varied(chance: float, least: float, most: float) -> Variation:
    return Variation(chance=chance, between=(least, most))


_NNUNET: Mapping[str, Variation] = MappingProxyType(
    {
        "scaling": _varied(0.2, 0.7, 1.4),
        "gaussian_noise": _varied(0.1, 0.0, 0.1),
        "blur": _varied(0.2, 0.5, 1.0),
        "brightness": _varied(0.15, 0.75, 1.25),
        "contrast": _varied(0.15, 0.75, 1.25),
        "low_resolution": _varied(0.25, 0.5, 1.0),
        "gamma_inverted": _varied(0.1, 0.7, 1.5),
        "gamma": _varied(0.3, 0.7, 1.5),
    }
)
"""nnU-Net v2's default trainer (Isensee et al. 2021; `nnUNetTrainer.get_training_transforms`). Frozen: an experiment's
digest holds the preset's name alone."""
_LONG = 1.5
"""nnU-Net turns a patch in 2D by small angles only from this ratio of its edges on."""


class Augmentation(Settings):
    """Probabilities and strengths; 0 switches one off, and so does leaving a variation out."""

    flip: _Fraction = 0.0
    """Chance of mirroring, for each axis."""
    scale_intensity: float = Field(0.0, ge=0, lt=1)
    shift_intensity: float = Field(0.0, ge=0, lt=1)
    noise: float = Field(0.0, ge=0, lt=1)
    preset: Literal["nnunet", "nnunet-without-mirroring"] | None = Field(None, **_FORM_4)
    """A whole set of them; what the file says beside it holds instead."""
    rotation: Variation | None = Field(None, **_FORM_4)
    """Degrees, about each axis; in 2D about the one that is not in the slice."""
    scaling: Variation | None = Field(None, **_FORM_4)
    """How much of the image a patch sees along an edge: above 1 all is smaller."""
    elastic: Variation | None = Field(None, **_FORM_4)
    """Voxels by which control points, 16 voxels apart, are moved at most."""
    gaussian_noise: Variation | None = Field(None, **_FORM_4)
    """Standard deviation of noise that is added, of a channel whose own is 1 after z-scores."""
    blur: Variation | None = Field(None, **_FORM_4)
    """Standard deviation of a Gaussian, in voxels; of each channel by a chance of one half."""
    brightness: Variation | None = Field(None, **_FORM_4)
    """A factor of each channel."""
    contrast: Variation | None = Field(None, **_FORM_4)
    """A factor of each channel's distances from its mean, held within its range."""
    low_resolution: Variation | None = Field(None, **_FORM_4)
    """A factor by which the grid is made coarser, and fine again; of each channel by a chance of one half."""
    gamma_inverted: Variation | None = Field(None, **_FORM_4)
    """An exponent of the mirrored intensities between a channel's extremes; its mean and deviation stay."""
    gamma: Variation | None = Field(None, **_FORM_4)
    """The same of the intensities as they are."""

    spatial: ClassVar[frozenset[str]] = frozenset({"rotation", "scaling", "elastic"})
    """Those that move voxels: where there are whole images and where there are patches."""

    @model_validator(mode="after")
    def _strengths_are_possible(self) -> Self:
        for key, (least, most) in BOUNDS.items():
            said: Variation | None = getattr(self, key)
            if said is not None and not (least <= said.between[0] and said.between[1] <= most):
                raise ValueError(f"{key}.between lies within {least:g} and {most:g}")
        return self

    @property
    def mirrors(self) -> float:
        """Chance of mirroring, for each axis, also where a preset says it."""
        return self.flip or (0.5 if self.preset == "nnunet" else 0.0)

    def list_variations(self, patch: tuple[int, ...]) -> dict[str, Variation]:
        """What is asked for, by key and in order, on patches of this size; nothing that never happens."""
        found: dict[str, Variation] = {}
        if self.preset is not None:
            widest = 180.0 if len(patch) == 2 else 30.0
            if len(patch) == 2 and max(patch) > _LONG * min(patch):
                widest = 15.0
            found = {"rotation": _varied(0.2, -widest, widest), **_NNUNET}
        found |= {key: said for key in BOUNDS if (said := getattr(self, key)) is not None}
        return {key: found[key] for key in BOUNDS if key in found and found[key].chance > 0}
