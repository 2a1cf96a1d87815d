"""The demo at its smallest, as a program of its own: `python e2e_tiny_demo.py OUT [--null | --secure | --from-pacs]`.

Same code as `konsil demo`; only the images are tiny and the rounds few. --null: one site, no training,
slow rounds. --secure: secure rounds of three sites without training. --from-pacs: the same images out of a PACS a
site, and everything that the run wrote is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deploy import console
from deploy.cli import live
from deploy.demo import outcome as outcomes
from deploy.demo.data import PhantomShape
from deploy.demo.layout import prepare_layout
from deploy.demo.run import Options, ending_on_sigterm, run_demo
from messages.ground.errors import KonsilError

TINY = {
    "net": {"channels": [4, 8], "strides": [2], "num_res_units": 0},
    "training": {"patch": [16, 16, 16], "patches_per_case": 1},
    "data": {"least_cases": 2},
}
CASES = 5
"""Of each site: the fewest with which any is for validation. By the keyed hash site-a has none of them for testing,
which a demo must get over."""
SHAPE, SPACING_MM = (24, 24, 18), (7.0, 7.5, 7.0)
NULL = (sys.executable, "-m", "site_agent.training.null", "--cases", "20", "--seconds", "3")
QUICK = (*NULL[:-1], "0")


MASKS = {**TINY, "privacy": {"secure_aggregation": "masks"}}


def main(out: Path, *, null: bool = False, secure: bool = False, from_pacs: bool = False) -> int:
    options = Options(
        prepare_layout(out),
        sites=1 if null else 3,
        rounds=50 if null else 2,
        cases=CASES,
        size=PhantomShape(SHAPE, SPACING_MM),
        overrides=MASKS if secure else TINY,
        baselines=() if null or secure else ("pooled",) if from_pacs else ("pooled", "alone"),
        from_pacs=from_pacs,
        keep=from_pacs,
        trainer=NULL if null else QUICK if secure else None,
    )
    try:
        with ending_on_sigterm():
            outcome = run_demo(options, live.Lines(), console.note_line)
    except KonsilError as error:
        console.note_line(console.one_line(error))
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    console.emit_json(outcomes.outcome_as_plain(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(
        main(
            Path(sys.argv[1]),
            null="--null" in sys.argv,
            secure="--secure" in sys.argv,
            from_pacs="--from-pacs" in sys.argv,
        )
    )
