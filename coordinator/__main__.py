"""`python -m coordinator --config coordinator.toml`."""

from __future__ import annotations

import argparse
from pathlib import Path

from coordinator.service import run


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="coordinator", description="The coordinator of a consortium.")
    parser.add_argument("--config", type=Path, required=True, help="coordinator.toml")
    return run(parser.parse_args().config)


if __name__ == "__main__":
    raise SystemExit(main())
