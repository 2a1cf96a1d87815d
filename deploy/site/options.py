"""What several commands of `konsil site` take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT = Path("/etc/konsil/site.toml")
ConfigOption = Annotated[Path, typer.Option("--config", help="The site's configuration, site.toml.")]
