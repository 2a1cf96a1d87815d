"""The null trainer, whose rounds wait at a gate: what a test does meanwhile is in mid-training, however slow.

    python gated_trainer.py GATE [what `site_agent.training.null` takes]

A round begins, says so, and goes no further while `GATE/SITE` holds its number or a lower one. (Test modules import
`Gate` from this as `gated_trainer`.)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from site_agent.training import null
from site_agent.training.protocol import Progress, Train


class Gate:
    """The test's end: which rounds of a site are held. A round that is held stays so until another word is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def trainer(self) -> tuple[str, ...]:
        """The command of a trainer that waits at this gate."""
        return (sys.executable, str(Path(__file__).resolve()), str(self.folder))

    def hold(self, site: str, number: int = 1) -> None:
        """Rounds of this number and later ones begin, and go no further; earlier ones go on."""
        beside = self.folder / f".{site}"
        beside.write_text(str(number))
        beside.replace(self.folder / site)

    def open(self, site: str) -> None:
        """All rounds go on."""
        (self.folder / site).unlink(missing_ok=True)

    @contextmanager
    def held(self, site: str, number: int = 1) -> Iterator[None]:
        """Held meanwhile, and open in the end."""
        self.hold(site, number)
        try:
            yield
        finally:
            self.open(site)


def shut(gate: Path, number: int) -> bool:
    """Whether a round has to wait."""
    try:
        return number >= int(gate.read_text())
    except FileNotFoundError:
        return False


def main() -> int:
    """The trainer's end."""
    folder = Path(sys.argv.pop(1))
    plain = null.NullTrainer._train_round

    def train(self: null.NullTrainer, request: Train) -> None:
        assert self._prepare is not None
        gate = folder / self._prepare.site
        if shut(gate, request.round):
            self._send_reply(
                Progress(round=request.round, phase="training", done=0, total=null.STEPS, epoch=1, epochs=1, loss=None)
            )
        while shut(gate, request.round):
            time.sleep(0.02)
        plain(self, request)

    null.NullTrainer._train_round = train  # type: ignore[method-assign]
    return null.main()


if __name__ == "__main__":
    raise SystemExit(main())
