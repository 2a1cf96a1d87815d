"""`python -m site_agent.external --fd N --parent PID`: the training process that runs an operator's program."""

from __future__ import annotations

from site_agent.external.session import ExternalSession
from site_agent.training.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main(ExternalSession))
