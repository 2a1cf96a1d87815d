"""python -m benchmarks.imports: seconds of a processor that a training process takes before it can do anything.

A table, the median of five processes each: MONAI as it comes, MONAI as `nets.monai_parts` has it, and all modules.
torch is loaded before and not counted.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

RUNS = 5
SHOW = """
import sys, time
import torch
begun = time.process_time()
{}
print(time.process_time() - begun, len(sys.modules))
"""
STEPS = {
    "MONAI as it comes": "import monai; from monai.networks.nets import UNet",
    "nets.monai_parts": "import nets.monai_parts",
    "all of a training process": "import site_agent.training.session",
}


def measure_import(statement: str) -> tuple[float, int]:
    """Seconds of a processor that a statement takes in a fresh process with torch, and the modules loaded after it."""
    done = subprocess.run([sys.executable, "-c", SHOW.format(statement)], capture_output=True, text=True, check=True)
    seconds, modules = done.stdout.split()
    return float(seconds), int(modules)


def main() -> int:
    """Print the table."""
    print("| import | CPU seconds | modules loaded |\n|---|---|---|")
    for name, statement in STEPS.items():
        runs = [measure_import(statement) for _ in range(RUNS)]
        print(f"| {name} | {statistics.median(one[0] for one in runs):.2f} | {runs[0][1]:,} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
