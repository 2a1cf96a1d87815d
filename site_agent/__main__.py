"""`python -m site_agent --config FILE`: the agent, as `konsil site run` starts it."""

from __future__ import annotations

import argparse
from pathlib import Path

from messages.ground import starting


def main() -> int:
    """Entry point; returns the exit status."""
    starting.settle_process()
    starting.end_on_sigterm()
    from site_agent.service import run_agent  # after it: this is what takes its time

    parser = argparse.ArgumentParser(prog="site_agent")
    parser.add_argument("--config", type=Path, required=True)
    return run_agent(parser.parse_args().config)


if __name__ == "__main__":
    raise SystemExit(main())
