"""How names look: of parties and consortia, and of experiments. Standard library only."""

from __future__ import annotations

import re

NAME = re.compile(r"[a-z0-9-]{1,32}")
EXPERIMENT_ID = re.compile(r"[a-z0-9-]{1,64}")
NO_EXPERIMENT = "none"
"""What stands for the experiment where a message or a line is about none."""
