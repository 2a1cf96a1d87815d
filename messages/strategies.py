"""What an experiment file may say under `plan.strategy`: a name, or a table with a name and that strategy's parameters.

Each strategy is one model here, and one file in `coordinator/work/strategies/`, which holds its arithmetic. A site has
the whole experiment file: what a strategy asks of a site's training stands in its table, as numbers.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_serializer, model_validator

from messages.ground.settings import Settings


class StrategySpec(Settings):
    """Base: a strategy's name and its parameters. Defaults are frozen, because an experiment's digest holds them; a
    parameter that comes later is left out of the table where it has its default."""

    name: str
    from_model: ClassVar[bool] = False
    """Whether the aggregate is made from the round's own model too, under every codec."""

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


class FedAdamSpec(StrategySpec):
    """Adam at the coordinator (Reddi et al. 2021): the sites' mean change is its gradient."""

    name: Literal["FedAdam"] = "FedAdam"
    lr: float = Field(0.01, gt=0, le=100)
    """The coordinator's learning rate (the paper's eta)."""
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    tau: float = Field(1e-3, ge=1e-12, le=1)
    """How adaptive it is: the smaller, the more. The second moment begins at its square."""
    from_model: ClassVar[bool] = True


SPECS: tuple[type[StrategySpec], ...] = (FedAvgSpec, FedAdamSpec)
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
    Annotated[FedAvgSpec, Tag("[FedAvg]")] | Annotated[FedAdamSpec, Tag("[FedAdam]")],
    Discriminator(_tag),
    BeforeValidator(_as_table),
]
"""A plain word stands for the table that holds nothing but this name."""
FEDAVG = FedAvgSpec()
