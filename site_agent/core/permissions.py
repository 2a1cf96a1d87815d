"""What a site's operator allows, as `[policy]` of site.toml says it: strict models."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from messages.ground.settings import Name, Settings
from messages.sections import PlanKind
from messages.tensors.codecs import CodecName

Fingerprint = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""Of a key: SHA-256 of its 32 public bytes, in hex (`messages.trust.keys.fingerprint_of`)."""


class Allow(Settings):
    """One permission: every key that is given must fit. A key that is absent allows any value."""

    researchers: tuple[Name, ...] | None = None
    datasets: tuple[Name, ...] | None = None
    tasks: tuple[str, ...] | None = None
    nets: tuple[str, ...] | None = None
    strategies: tuple[str, ...] | None = None
    codecs: tuple[CodecName, ...] | None = None
    plans: tuple[PlanKind, ...] | None = None
    purposes: tuple[str, ...] | None = None
    """Patterns with `*` and `?`; the file's `purpose` has to match one, whatever the case of its letters."""
    needs_approval_number: bool = False
    """Whether the file has to name an approval (`approval`): an ethics committee's number, say."""
    researcher_keys: tuple[Fingerprint, ...] | None = None
    """Keys of which one has signed the researcher's own event; without a good signature the rule does not fit."""
    trainers: tuple[Name, ...] | None = None
    """"konsil" is the one that comes with it. Absent: that one alone, since another one is a program to be named."""
    rounds_max: int | None = Field(None, ge=1)
    until: date | None = None


SecureMode = Literal["masks", "bfv"]
SECURE_MODES: tuple[SecureMode, ...] = ("masks", "bfv")


class Floors(Settings):
    """What no experiment can go below."""

    least_cases: int = Field(1, ge=1)
    """Usable cases without which the site does not take part."""
    least_steps: int = Field(1, ge=1)
    """Optimiser steps of a round below which an update could tell too much of single cases."""
    least_metric_cases: int = Field(5, ge=1)
    """A split with fewer cases is reported as "withheld"."""
    round_counts_to: int = Field(1, ge=1)
    """Case counts leave the site rounded to a multiple of this."""
    clip_norm_max: float | None = Field(None, gt=0)
    """Largest clipping norm under differential privacy; means nothing without noise."""
    noise_multiplier_min: float = Field(0.0, ge=0)
    """Above 0: nothing is trained without differential privacy, nor with less noise."""
    dp_unit: Literal["patient", "site"] | None = Field(None, exclude_if=lambda value: value is None)
    """Who has to be protected by differential privacy: "patient"; or "site", which either unit does."""
    epsilon_max: float | None = Field(None, gt=0, exclude_if=lambda value: value is None)
    """Most that one experiment may spend, to its end, for each of the site's patients."""
    secure_aggregation: tuple[SecureMode, ...] | bool = False
    """Modes of which an experiment has to use one; true: any of them, false: it may do without."""
    secure_least_sites: int = Field(2, ge=2, exclude_if=lambda value: value == 2)
    """Of the sites in a secure sum, how many there are beside those that may collude."""
    secure_colluding: int = Field(1, ge=0, exclude_if=lambda value: value == 1)
    """How many other sites may pool what they know with the coordinator."""
    peers: tuple[Fingerprint, ...] | None = Field(None, exclude_if=lambda value: value is None)
    """Keys of the sites that count in a secure sum; None: of every site that the operator's register names."""
    share_site_metrics: bool = True
    share_case_metrics: bool = False

    @field_validator("secure_aggregation", mode="before")
    @classmethod
    def _some_mode_is_left(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and not value:
            raise ValueError("an empty list lets nothing in: name modes, or write false")
        return tuple(value) if isinstance(value, list) else value

    @property
    def secure_modes(self) -> tuple[SecureMode, ...]:
        """Modes of which an experiment has to use one; none: it may do without."""
        asked = self.secure_aggregation
        return SECURE_MODES if asked is True else () if asked is False else asked


class PolicyConfig(Settings):
    """The site's policy: what is not allowed is declined with a code."""

    default: Literal["deny", "allow"] = "deny"
    approval: Literal["hand", "auto"] = "hand"
    """"hand": the operator approves each experiment with `konsil site resume --approve ID`."""
    allow: tuple[Allow, ...] = ()
    open_per_researcher: int = Field(32, ge=1)
    """Most experiments of one researcher that are open here at a time: neither declined nor over."""
    statistics: bool = True
    """Whether the fingerprint of training cases may leave (plan "statistics", net "auto"), above the floors."""
    floors: Floors = Floors()
