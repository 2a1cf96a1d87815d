"""A trainer of a site's own, made for another version of the protocol: the null trainer with another first word.

    python own_trainer.py VERSION [what `site_agent.training.null` takes]

VERSION: "none" says nothing first, as 0.1's trainers do; one with a newer minor than ours adds fields and frames that
nobody here knows. (Test modules import `command` from this as `own_trainer`.)
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgpack

from site_agent.training import null, protocol


def command(version: str, *more: str) -> tuple[str, ...]:
    """The command line of such a trainer."""
    return (sys.executable, str(Path(__file__).resolve()), version, *more)


def main() -> int:
    version = sys.argv.pop(1)
    if version == "none":
        null.greeting = lambda: b""  # type: ignore[attr-defined]
    else:
        null.greeting = lambda: protocol.encode_frame(protocol.Ready(protocol=version))  # type: ignore[attr-defined]
    if version.startswith("1.") and version > protocol.PROTOCOL:
        null.encode_frame = newer  # type: ignore[attr-defined]
    return null.main()


def newer(frame: protocol.Frame) -> bytes:
    """The frame with a field that nobody here knows, also within its scores, after a frame of an unknown kind."""
    plain = frame.model_dump() | {"watts": 300.0}
    for split in [plain["evaluation"]] if plain.get("evaluation") else plain.get("scores", []):
        split["seconds"] = 1.0
        for case in split["cases"]:
            case["nice"] = True
    unknown = msgpack.packb({"kind": "temperature", "celsius": [70, 71]})
    return len(unknown).to_bytes(4, "big") + unknown + protocol.in_frame(plain)


if __name__ == "__main__":
    raise SystemExit(main())
