"""How names look: of parties and consortia, and of experiments. Standard library only."""

from __future__ import annotations

import re

NAME_PATTERN = "[a-z0-9-]{1,32}"
"""Of a party, a consortium, a kind of event: what others anchor, or put into a longer pattern."""
EXPERIMENT_PATTERN = "[a-z0-9-]{1,64}"
WHOLE_NAME, WHOLE_EXPERIMENT = f"^{NAME_PATTERN}$", f"^{EXPERIMENT_PATTERN}$"
"""As a field's `pattern`: nothing before it, nothing behind it."""
NAME = re.compile(NAME_PATTERN)
EXPERIMENT_ID = re.compile(EXPERIMENT_PATTERN)
NO_EXPERIMENT = "none"
"""What stands for the experiment where a message or a line is about none."""
