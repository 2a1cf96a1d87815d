"""A simulation as a program of its own: `python e2e_tiny_simulation.py EXPERIMENT JOBS OUT`; tiny phantoms.

The images are those of `e2e_tiny_demo`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from e2e_tiny_demo import CASES, SHAPE, SPACING_MM

from deploy import console
from deploy.cli import live
from deploy.demo.data import PhantomShape
from deploy.simulate.layout import claim_folder
from deploy.simulate.sources import DataWish
from deploy.simulate.study import StudyWish, plan_study, run_study
from messages.experiment import read_experiment


def main(experiment: Path, jobs: int, out: Path) -> None:
    """Prints the run's object."""
    wish = StudyWish(
        read_experiment(experiment), DataWish(cases=CASES, size=PhantomShape(SHAPE, SPACING_MM)), jobs=jobs
    )
    with claim_folder(out) as layout:
        results, _outcome = run_study(plan_study(wish), layout, live.Lines, console.note_line)
    console.emit_json(results[0].as_plain())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
