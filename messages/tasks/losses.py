"""`training.loss` as a table: a loss by name, with its arguments. A plain word stands for a table with nothing more."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from messages.ground.settings import Settings
from messages.ground.strictness import at_most

ClassName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
Weight = Annotated[float, Field(ge=0, le=1e6)]


class LossTable(Settings):
    """One loss. Which arguments it takes is its task's (`Task.arguments_of`).

    Attributes:
        class_weights: how much a case of a class counts: "balanced" by the site's own training cases, or numbers.
        label_smoothing: share of the truth that is spread over all classes (Szegedy et al. 2016).
        gamma: focal loss: how little cases count that are right already (Lin et al. 2017).
    """

    name: str
    class_weights: Literal["balanced"] | Annotated[dict[ClassName, Weight], at_most(32)] | None = None
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    gamma: float | None = Field(None, ge=0, le=10)

    came_with: ClassVar[int] = 2

    @property
    def said(self) -> frozenset[str]:
        """The arguments that have another value than where nothing is said."""
        return frozenset(
            key
            for key, field in type(self).model_fields.items()
            if key != "name" and getattr(self, key) != field.default
        )

    @property
    def focus(self) -> float:
        """`gamma`, also where the file says none."""
        return 2.0 if self.gamma is None else self.gamma
