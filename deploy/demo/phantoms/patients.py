"""Writes the demo's patients into each hospital's PACS: a process of its own, as many as there are cores.

python -m deploy.demo.phantoms.patients PLAN

PLAN is a JSON file that only its owner can read: `DeliveryPlan` as plain data. The phantoms are those that
`deploy.demo.phantoms.phantom.write_site` writes as NIfTI.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from deploy.demo.phantoms import dicom, phantom
from deploy.demo.phantoms.anatomy import Shape, Spacing
from deploy.demo.phantoms.identities import PatientIdentity
from deploy.orthanc.rest import Rest
from messages.ground.errors import KonsilError


@dataclass(frozen=True, slots=True)
class Delivery:
    """What goes into one hospital's PACS."""

    site_index: int
    port: int
    user: str
    password: str
    cases: tuple[PatientIdentity, ...]


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """One worker's share."""

    seed: int
    shape: Shape
    spacing_mm: Spacing
    deliveries: tuple[Delivery, ...]

    def as_plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The reverse of `plain`."""
        x, y, z = plain["shape"]
        dx, dy, dz = plain["spacing_mm"]
        deliveries = tuple(
            Delivery(**{**one, "cases": tuple(PatientIdentity(**case) for case in one["cases"])})
            for one in plain["deliveries"]
        )
        return cls(plain["seed"], (x, y, z), (dx, dy, dz), deliveries)


def deliver_studies(plan: DeliveryPlan) -> None:
    """Store a study for each case, one archive a study.

    Raises:
        WorkFailed: a PACS does not take it.
    """
    for one in plan.deliveries:
        pacs = Rest(one.port, one.user, one.password)
        for case in one.cases:
            images, label = phantom.make_case(
                site_index=one.site_index,
                patient=case.patient,
                visit=case.visit,
                seed=plan.seed,
                shape=plan.shape,
                spacing_mm=plan.spacing_mm,
            )
            examined = dicom.invent_examination(
                plan.seed, one.site_index, case.patient, case.visit, case.patient_id, case.study
            )
            files = [
                dicom.encode_dataset(found) for found in dicom.make_objects(images, label, plan.spacing_mm, examined)
            ]
            pacs.store_content(_pack_archive(files))


def _pack_archive(files: Sequence[bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for number, content in enumerate(files):
            archive.writestr(f"{number:05d}.dcm", content)
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """The worker's entry point."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    try:
        deliver_studies(DeliveryPlan.from_plain(json.loads(Path(path).read_text(encoding="utf-8"))))
    except KonsilError as error:
        sys.stderr.write(f"konsil: {error}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
