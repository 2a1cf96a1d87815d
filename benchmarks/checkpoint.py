"""What a checkpoint costs: writing and reading back one of the default 3D U-Net with Adam, on this machine's disk.

`python -m benchmarks.checkpoint [--folder DIR] [--repeat 5]`. With one every ten minutes, its share of the training
time is the time to write it over 600 s.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from nets.build import build_net
from site_agent.training.resuming.checkpoint import Checkpoints
from site_agent.training.resuming.interrupt import Interrupt
from site_agent.training.resuming.resume import Keeper, Moment

NETS = {
    "3D U-Net, 4 levels (19 MB)": {"name": "UNet"},
    "the same, wider (77 MB)": {"name": "UNet", "channels": [32, 64, 128, 256, 512]},
}


def moment(spec: dict[str, object]) -> Moment:
    """A round after one step of Adam."""
    net = build_net(spec, 4, 3, seed=1)
    optimizer = torch.optim.Adam(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    cpu = torch.device("cpu")
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return Moment(net, optimizer, scaler, torch.zeros((), dtype=torch.float64), cpu, steps=10)


def main() -> None:
    """Print seconds, median of several."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the site's state would lie; default: a temporary folder")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, spec in NETS.items():
        now = moment(spec)
        writing, reading = [], []
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:

            def keeper(folder: str = folder) -> Keeper:
                return Keeper(Checkpoints(Path(folder)), 1, lambda: "key", 600.0, Interrupt(), lambda _: None)

            for _ in range(options.repeat):
                began = time.perf_counter()
                keeper().save_checkpoint(now, 5, 1.0)
                writing.append(time.perf_counter() - began)
                began = time.perf_counter()
                reader = keeper()
                if not reader.look_for_checkpoint() or reader.resume_at(now) != 5:
                    raise SystemExit("the checkpoint was not found again")
                reading.append(time.perf_counter() - began)
            size = next((Path(folder) / "checkpoint").iterdir()).stat().st_size
        write, read = statistics.median(writing), statistics.median(reading)
        print(
            f"{name}: {size / 1e6:.0f} MB, written in {write:.2f} s ({100 * write / 600:.2f} % of ten minutes), "
            f"read in {read:.2f} s"
        )


if __name__ == "__main__":
    main()
