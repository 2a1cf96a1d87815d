"""`python -m coordinator --config coordinator.toml`."""

from __future__ import annotations

import argparse
from pathlib import Path

from messages.ground import starting


def main() -> int:
    """Entry point; returns the exit status."""
    starting.settle_process()
    starting.end_on_sigterm()
    from coordinator.service import run_service  # after it: this is what takes its time

    parser = argparse.ArgumentParser(prog="coordinator", description="The coordinator of a consortium.")
    parser.add_argument("--config", type=Path, required=True, help="coordinator.toml")
    return run_service(parser.parse_args().config)


if __name__ == "__main__":
    raise SystemExit(main())
