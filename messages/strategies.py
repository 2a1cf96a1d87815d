"""What an experiment file may say under `plan.strategy`: a name, or a table with a name and that strategy's parameters.

Each strategy is one model here. Its arithmetic is in `coordinator/work/strategies/`. What it asks of a site's training
is in `site_agent/training/strategies/`: a site has the whole experiment file, and reads its numbers there.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_serializer, model_validator

from messages.ground.settings import Settings
from messages.tensors.travelling import Tensors, add_controls, leave_batch_norms


class StrategySpec(Settings):
    """Base: a strategy's name and its parameters. Defaults are frozen, because an experiment's digest holds them; a
    parameter that comes later is left out of the table where it has its default."""

    name: str
    from_model: ClassVar[bool] = False
    """Whether the aggregate is made from the round's own model too, under every codec."""
    counts_steps: ClassVar[bool] = False
    """Whether it counts by how many optimiser steps a site says that it took."""
    in_training: ClassVar[bool] = False
    """Whether it asks something of a site's training: a trainer that does not know it would train something else."""
    beside: ClassVar[int] = 0
    """Numbers that travel beside each weight: one, a control variate, or none."""
    withholds: ClassVar[bool] = False
    """Whether batch normalisation never travels."""
    remembers: ClassVar[bool] = False
    """Whether a round depends on more of the earlier rounds than on the model that they made: the coordinator or the
    sites keep something of them."""
    nets: ClassVar[int] = 1
    """Nets that a site trains at a time."""

    @property
    def least_updates(self) -> int:
        """Updates of a round below which it cannot bear what it is said to bear."""
        return 1

    @property
    def alters_tensors(self) -> bool:
        """Whether other tensors travel than the net has."""
        return bool(self.beside) or self.withholds

    def choose_travelling(self, built: Tensors) -> Tensors:
        """The tensors that travel, of a net's as it was built.

        The others stay at the sites. Those beside begin as zeros, and are combined like any other.
        """
        sent = leave_batch_norms(built) if self.withholds else built
        return add_controls(sent) if self.beside else sent

    @property
    def words(self) -> str:
        """Name and parameters, for a person."""
        told = ", ".join(f"{key} {value:g}" for key, value in self.parameters.items())
        return f"{self.name} ({told})" if told else self.name

    @property
    def parameters(self) -> dict[str, float]:
        """Everything but the name."""
        return {key: getattr(self, key) for key in type(self).model_fields if key != "name"}

    @model_serializer
    def _as_said(self) -> Any:
        """The whole table, defaults too: what an experiment ran with stands in its log."""
        return {"name": self.name, **self.parameters}

    @model_validator(mode="before")
    @classmethod
    def _parameters_are_known(cls, content: Any) -> Any:
        """One line that names what is known, where a table holds a parameter of another strategy."""
        if isinstance(content, dict):
            known = sorted(set(cls.model_fields) - {"name"})
            strange = sorted(str(key) for key in set(content) - set(cls.model_fields))
            if strange:
                takes = f"takes {', '.join(known)}" if known else "takes no parameter"
                raise ValueError(f"{', '.join(strange[:5])} is unknown: {content.get('name')} {takes}")
        return content


class FedAvgSpec(StrategySpec):
    """Federated averaging (McMahan et al. 2017). Written as the plain word, which is all that 0.1 knew."""

    name: Literal["FedAvg"] = "FedAvg"

    @model_serializer
    def _as_said(self) -> Any:
        return self.name


class FedAvgMSpec(StrategySpec):
    """Momentum at the coordinator (Hsu et al. 2019): the sites' mean change is its gradient."""

    name: Literal["FedAvgM"] = "FedAvgM"
    lr: float = Field(1.0, gt=0, le=100)
    momentum: float = Field(0.9, ge=0, lt=1)
    remembers: ClassVar[bool] = True
    from_model: ClassVar[bool] = True


class MomentsSpec(StrategySpec):
    """What FedAdam and FedYogi have in common: an optimiser at the coordinator with two moments (Reddi et al. 2021)."""

    lr: float = Field(0.01, gt=0, le=100)
    """The coordinator's learning rate (the paper's eta)."""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    tau: float = Field(1e-3, ge=1e-12, le=1)
    """How adaptive it is: the smaller, the more. The second moment begins at its square."""
    remembers: ClassVar[bool] = True
    from_model: ClassVar[bool] = True


class FedAdamSpec(MomentsSpec):
    """Adam: the sites' mean change is its gradient."""

    name: Literal["FedAdam"] = "FedAdam"


class FedYogiSpec(MomentsSpec):
    """Yogi: the second moment moves by no more than a share of the new square, up or down."""

    name: Literal["FedYogi"] = "FedYogi"


class FedAdagradSpec(StrategySpec):
    """Adagrad at the coordinator (Reddi et al. 2021); without momentum, as in the paper, unless `beta1` is given."""

    name: Literal["FedAdagrad"] = "FedAdagrad"
    lr: float = Field(0.01, gt=0, le=100)
    beta1: float = Field(0.0, ge=0, lt=1)
    tau: float = Field(1e-3, ge=1e-12, le=1)
    remembers: ClassVar[bool] = True
    from_model: ClassVar[bool] = True


class FedNovaSpec(StrategySpec):
    """Normalised averaging (Wang et al. 2020): a site does not pull the model its way for taking more steps."""

    name: Literal["FedNova"] = "FedNova"
    from_model: ClassVar[bool] = True
    counts_steps: ClassVar[bool] = True


class FedProxSpec(StrategySpec):
    """A proximal term in each site's loss (Li et al. 2020): it holds the weights near the round's model."""

    name: Literal["FedProx"] = "FedProx"
    mu: float = Field(0.01, ge=0, le=100)
    in_training: ClassVar[bool] = True


class FedBNSpec(StrategySpec):
    """Batch normalisation stays at the sites (Li et al. 2021): its weights and statistics never travel."""

    name: Literal["FedBN"] = "FedBN"
    remembers: ClassVar[bool] = True
    in_training: ClassVar[bool] = True
    withholds: ClassVar[bool] = True


class ScaffoldSpec(StrategySpec):
    """Control variates against client drift (Karimireddy et al. 2020, option II)."""

    name: Literal["SCAFFOLD"] = "SCAFFOLD"
    lr: float = Field(1.0, gt=0, le=100)
    """The coordinator's learning rate (the paper's global step size)."""
    remembers: ClassVar[bool] = True
    from_model: ClassVar[bool] = True
    in_training: ClassVar[bool] = True
    beside: ClassVar[int] = 1


class FedDynSpec(StrategySpec):
    """Dynamic regularisation (Acar et al. 2021)."""

    name: Literal["FedDyn"] = "FedDyn"
    alpha: float = Field(0.01, gt=0, le=100)
    remembers: ClassVar[bool] = True
    from_model: ClassVar[bool] = True
    in_training: ClassVar[bool] = True


class FedDCSpec(StrategySpec):
    """Local drift, decoupled and corrected (Gao et al. 2022)."""

    name: Literal["FedDC"] = "FedDC"
    alpha: float = Field(0.01, gt=0, le=100)
    remembers: ClassVar[bool] = True
    in_training: ClassVar[bool] = True
    beside: ClassVar[int] = 1


class MoonSpec(StrategySpec):
    """Model-contrastive learning (Li et al. 2021): representations near the round's model, far from the site's last."""

    name: Literal["MOON"] = "MOON"
    mu: float = Field(1.0, ge=0, le=100)
    temperature: float = Field(0.5, gt=0, le=100)
    remembers: ClassVar[bool] = True
    in_training: ClassVar[bool] = True


class DittoSpec(StrategySpec):
    """A personal model beside the global one (Li et al. 2021, "Ditto"): near it, and fitted to the site's own data."""

    name: Literal["Ditto"] = "Ditto"
    mu: float = Field(0.1, ge=0, le=100)
    """How near (the paper's lambda)."""
    remembers: ClassVar[bool] = True
    in_training: ClassVar[bool] = True
    nets: ClassVar[int] = 2


class MedianSpec(StrategySpec):
    """Coordinate-wise median (Yin et al. 2018)."""

    name: Literal["Median"] = "Median"


class _Attacked(StrategySpec):
    """Base of those that are told how many sites they are to bear."""

    attackers: int = Field(1, ge=1, le=499)


class TrimmedMeanSpec(_Attacked):
    """Coordinate-wise trimmed mean (Yin et al. 2018): without the `attackers` largest and smallest values of each."""

    name: Literal["TrimmedMean"] = "TrimmedMean"

    @property
    def least_updates(self) -> int:
        return 2 * self.attackers + 1


class KrumSpec(_Attacked):
    """Krum (Blanchard et al. 2017): the one update that is nearest to its nearest."""

    name: Literal["Krum"] = "Krum"

    @property
    def least_updates(self) -> int:
        return 2 * self.attackers + 3


class MultiKrumSpec(_Attacked):
    """Multi-Krum (Blanchard et al. 2017): the mean of all updates but the `attackers` that are farthest off."""

    name: Literal["MultiKrum"] = "MultiKrum"

    @property
    def least_updates(self) -> int:
        return 2 * self.attackers + 3


class NormBoundSpec(StrategySpec):
    """Norm bound (Sun et al. 2019): a longer change is shortened to it before the mean."""

    name: Literal["NormBound"] = "NormBound"
    bound: float = Field(gt=0, le=1e12)
    """Euclidean length over all trained numbers."""
    from_model: ClassVar[bool] = True


class GeometricMedianSpec(StrategySpec):
    """Geometric median by the smoothed Weiszfeld algorithm (RFA, Pillutla et al. 2022)."""

    name: Literal["RFA"] = "RFA"
    iterations: int = Field(100, ge=1, le=1000)
    smoothing: float = Field(1e-6, ge=1e-12, le=1)
    """Distance below which an update does not count more for being near."""


SPECS: tuple[type[StrategySpec], ...] = (
    FedAvgSpec, FedAvgMSpec, FedAdamSpec, FedYogiSpec, FedAdagradSpec, FedNovaSpec,
    FedProxSpec, FedBNSpec, ScaffoldSpec, FedDynSpec, FedDCSpec, MoonSpec, DittoSpec,
    MedianSpec, TrimmedMeanSpec, KrumSpec, MultiKrumSpec, NormBoundSpec, GeometricMedianSpec,
)  # fmt: skip
KNOWN = tuple(sorted(str(spec.model_fields["name"].default) for spec in SPECS))


def _as_table(value: Any) -> Any:
    name = value.get("name") if isinstance(value, dict) else value
    if isinstance(value, StrategySpec) or name in KNOWN:
        return {"name": value} if isinstance(value, str) else value
    known = "known are " + ", ".join(repr(one) for one in KNOWN)
    if not isinstance(value, dict | str):
        what = "write a strategy's name, or a table with a name and its parameters"
    elif name is None:
        what = "the table names no strategy"
    else:
        what = f"no such strategy{f' ({name!r:.40})' if isinstance(value, dict) else ''}"
    raise ValueError(f"{what}: {known}")


def _tag(value: Any) -> str:
    """The tag stands in brackets: `messages.ground.settings` leaves such a part out of a mistake's key."""
    return f"[{value['name'] if isinstance(value, dict) else value.name}]"


AnyStrategy = Annotated[
    Annotated[FedAvgSpec, Tag("[FedAvg]")]
    | Annotated[FedAvgMSpec, Tag("[FedAvgM]")]
    | Annotated[FedAdamSpec, Tag("[FedAdam]")]
    | Annotated[FedYogiSpec, Tag("[FedYogi]")]
    | Annotated[FedAdagradSpec, Tag("[FedAdagrad]")]
    | Annotated[FedNovaSpec, Tag("[FedNova]")]
    | Annotated[FedProxSpec, Tag("[FedProx]")]
    | Annotated[FedBNSpec, Tag("[FedBN]")]
    | Annotated[ScaffoldSpec, Tag("[SCAFFOLD]")]
    | Annotated[FedDynSpec, Tag("[FedDyn]")]
    | Annotated[FedDCSpec, Tag("[FedDC]")]
    | Annotated[MoonSpec, Tag("[MOON]")]
    | Annotated[DittoSpec, Tag("[Ditto]")]
    | Annotated[MedianSpec, Tag("[Median]")]
    | Annotated[TrimmedMeanSpec, Tag("[TrimmedMean]")]
    | Annotated[KrumSpec, Tag("[Krum]")]
    | Annotated[MultiKrumSpec, Tag("[MultiKrum]")]
    | Annotated[NormBoundSpec, Tag("[NormBound]")]
    | Annotated[GeometricMedianSpec, Tag("[RFA]")],
    Discriminator(_tag),
    BeforeValidator(_as_table),
]
"""A plain word stands for the table that holds nothing but this name."""
FEDAVG = FedAvgSpec()
