"""What one login can make the coordinator write in an hour: journal and streams, whatever it sends (issue 12: 16 MiB).

    PYTHONPATH=.:tests python benchmarks/hour_of_flood.py [--accepted 40000] [--refused 20000]

The real coordinator on the bus in memory. Its budgets are by the hour, so the rate does not matter: what is sent within
minutes here is sent within one hour, and more than any budget holds. Sender rates are lifted, since they only slow it.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

import structlog
from coordinator_kit import CONSORTIUM, PLATFORM, ScriptedSite, counts, plain
from coordinator_rig import Consortium, running

from coordinator.wire import rates
from messages import kinds
from messages.bus.memory import MemoryBus
from messages.envelope import Author

STREAMS = ("audit", "downlink", "models")


def measure_streams(consortium: Consortium) -> dict[str, int]:
    """Bytes that lie in each stream of the coordinator's word."""
    broker = consortium.broker
    with broker.lock:
        return {name: sum(len(one.body) for one in broker.streams[name].messages) for name in STREAMS}


def size_of(folder: Path) -> int:
    """Bytes of the journal on the disk."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and "journal" in path.name)


def flood_journal(accepted: int, refused: int) -> dict[str, float]:
    """Bytes by which journal and streams grow while `site-a` says so many events, each another one."""
    with tempfile.TemporaryDirectory() as folder:
        consortium = Consortium(Path(folder))
        consortium.start()
        consortium.sites += [ScriptedSite(consortium.broker, name, 10) for name in ("site-b", "site-c")]
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
        consortium.until("experiment-accepted")
        time.sleep(1.0)
        before = {**measure_streams(consortium), "journal": size_of(Path(folder))}
        bus, author = MemoryBus(consortium.broker, "site-a"), Author(CONSORTIUM, "site-a", 1)
        began = time.monotonic()
        for n in range(accepted):
            body = kinds.Joined(cases=counts(1 + n), platform=PLATFORM)
            event = author.write_event("joined", body, time=0.0, experiment="exp-1", attempt=n + 1, seq=n + 1)
            bus.publish(event.key, event.raw)
        for n in range(refused):
            event = author.write_event(
                "leaving", kinds.Leaving(), time=0.0, experiment=f"exp-{n + 9}", attempt=1, seq=accepted + n + 1
            )
            bus.publish(event.key, event.raw)
        steps = running(consortium).shell.steps
        counted = -1
        while steps.floods.count_of("site-a", "unknown-experiment") != counted or counted < 0:
            counted = steps.floods.count_of("site-a", "unknown-experiment")
            time.sleep(5.0)
        taken = steps.floods.count_of("site-a", "accepted")
        bus.close()
        consortium.stop()
        after = {**measure_streams(consortium), "journal": size_of(Path(folder))}
        grown = {name: (after[name] - before[name]) / 2**20 for name in after}
        consortium.close()
        return {
            **{f"{name}_mib": round(value, 2) for name, value in grown.items()},
            "only_counted": taken + counted,
            "seconds": round(time.monotonic() - began, 1),
        }


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--accepted", type=int, default=40_000)
    asked.add_argument("--refused", type=int, default=20_000)
    given = asked.parse_args()
    rates.BURST = float(given.accepted + given.refused)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    print(json.dumps(flood_journal(given.accepted, given.refused)))
