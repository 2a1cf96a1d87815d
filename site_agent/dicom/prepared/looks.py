"""The last look at a source: by what terms it was asked, when, and whether that look still stands.

A look that is young enough is not repeated (`refresh`). An older one stands in for a PACS that is away (`stale`), since
hospitals maintain theirs at night, just when training is allowed; but never under other terms than those of today.
"""

from __future__ import annotations

import hmac
import json
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Self

from site_agent.dicom.config import DicomDataset
from site_agent.dicom.prepared import fingerprint, pins
from site_agent.dicom.prepared.index import Index

READ = 3
"""Raise it when the list of the withdrawn comes to be read otherwise than before: no earlier look stands in then, or is
young enough."""
JUDGED = 2
"""Raise it when studies come to be judged otherwise than before: those that were left out get another chance."""
_NOT_ASKED = ("password", "token", "rate", "associations", "patience", "refresh", "stale", "disk", "privacy")
"""Keys of the configuration that change nothing in what is found."""
_NOTE = "looked"


class Terms:
    """What decides what is found at a source and what is made of it, as digests keyed with the site's secret."""

    def __init__(self, config: DicomDataset, secret: bytes) -> None:
        self._config, self._secret = config, secret
        self._plain: dict[str, Any] = config.model_dump(mode="json")

    def keyed_digest(self, what: object) -> str:
        """A keyed digest of plain data: what a study is made of must not be guessed from its print."""
        text = json.dumps(what, sort_keys=True, default=str).encode()
        return hmac.new(self._secret, b"konsil-dicom-print\xff" + text, sha256).hexdigest()

    @property
    def rules(self) -> list[object]:
        """What a verdict depends on beside the study."""
        keys = ("channels", "overrides", "labels", "encrypt")
        return [fingerprint.VERSION, JUDGED, self._plain["query"]["modalities"]] + [self._plain[key] for key in keys]

    @property
    def asked(self) -> str:
        """Everything that decides what is found: another value, another look at the source."""
        lists = (self._config.withdrawn, self._config.query.patients, self._config.query.accessions)
        read = [] if self._config.withdrawn is None else [READ]
        return self.keyed_digest([self._what, [pins.look_at_list(path) for path in lists], *read])

    @property
    def standing(self) -> str:
        """What must be as it was for the last look to stand in: all but the withdrawn, who are taken out of it."""
        lists = (self._config.query.patients, self._config.query.accessions)
        listed = None if self._config.withdrawn is None else READ
        looks = [pins.look_at_list(path) for path in lists]
        return self.keyed_digest([self.rules, self._what, looks] + ([] if listed is None else [listed]))

    @property
    def _what(self) -> dict[str, Any]:
        return {key: value for key, value in self._plain.items() if key not in _NOT_ASKED}


@dataclass(frozen=True, slots=True)
class Look:
    """A look at a source that led to a state of the data set.

    Attributes:
        time: Unix time. asked, standing: the terms then.
        complete: whether every verdict stands, so that asking again is worth nothing while it is young.
    """

    time: float
    asked: str
    standing: str
    complete: bool

    @classmethod
    def read_last(cls, index: Index) -> Self | None:
        """The last one; None where there was none."""
        noted = index.noted_value(_NOTE)
        if not noted:
            return None
        plain = json.loads(noted)
        # Notes of before `stale` have no standing terms: such a look is not one to stand in.
        return cls(float(plain["time"]), str(plain["asked"]), str(plain.get("standing", "")), bool(plain["complete"]))

    def write_last(self, index: Index) -> None:
        """Remember this as the last one."""
        index.note_value(_NOTE, json.dumps(asdict(self)))

    def is_fresh(self, terms: Terms, refresh: float) -> bool:
        """Whether the source need not be asked."""
        return self.complete and self.asked == terms.asked and 0 <= self._age < refresh

    def stands_in(self, terms: Terms, stale: float) -> bool:
        """Whether what came of it may be used where the source is away."""
        return self.standing == terms.standing and stale > 0 and 0 <= self._age <= stale

    @property
    def _age(self) -> float:
        return time.time() - self.time
