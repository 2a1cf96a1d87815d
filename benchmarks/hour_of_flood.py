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
from collections.abc import Iterator
from pathlib import Path

import structlog
from brokers import eventually
from coordinator_kit import CONSORTIUM, PLATFORM, counts, plain
from coordinator_rig import Consortium, running

from coordinator.loop.floods import ACCEPTED
from coordinator.wire import rates
from messages import kinds
from messages.bus.memory import MemoryBus
from messages.envelope import Author, Event
from messages.names import UPLINK
from messages.reasons import Reason

STREAMS = ("audit", "downlink", "models")
BATCH = 2000
"""Events after which the coordinator is waited for."""


def measure_streams(consortium: Consortium) -> dict[str, int]:
    """Bytes that lie in each stream of the coordinator's word."""
    broker = consortium.broker
    with broker.lock:
        return {name: sum(len(one.body) for one in broker.streams[name].messages) for name in STREAMS}


def size_of(folder: Path) -> int:
    """Bytes of the journal on the disk."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and "journal" in path.name)


def write_flood(accepted: int, refused: int) -> Iterator[Event]:
    """What `site-a` says: joins with other counts each time, which change a state; then leaves what does not exist."""
    author = Author(CONSORTIUM, "site-a", 1)
    for n in range(accepted):
        body = kinds.Joined(cases=counts(1 + n), platform=PLATFORM)
        yield author.write_event("joined", body, time=0.0, experiment="exp-1", attempt=n + 1, seq=n + 1)
    for n in range(refused):
        seq = accepted + n + 1
        yield author.write_event("leaving", kinds.Leaving(), time=0.0, experiment=f"exp-{n + 9}", attempt=1, seq=seq)


def flood_journal(accepted: int, refused: int) -> dict[str, float]:
    """MiB by which journal and streams grow while one site says so many events, each another one."""
    with tempfile.TemporaryDirectory() as folder:
        consortium = Consortium(Path(folder))
        consortium.start()
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
        consortium.until("experiment-accepted")
        before = {**measure_streams(consortium), "journal": size_of(Path(folder))}
        bus, journal = MemoryBus(consortium.broker, "site-a"), running(consortium).journal
        uplink = consortium.broker.streams[UPLINK]

        def is_read() -> bool:
            """Whether the coordinator has dealt with all that lies on uplink."""
            position = journal.position_of(UPLINK)
            return position is not None and position.offset >= uplink.end - 1

        began = time.monotonic()
        for number, event in enumerate(write_flood(accepted, refused), start=1):
            bus.publish(event.key, event.raw)
            if number % BATCH == 0 or number == accepted + refused:
                eventually(is_read, what=f"{number} events to be dealt with")
        floods = running(consortium).shell.steps.floods
        counted = sum(floods.count_of("site-a", why) for why in (ACCEPTED, Reason.UNKNOWN_EXPERIMENT))
        seconds = time.monotonic() - began
        bus.close()
        consortium.stop()
        after = {**measure_streams(consortium), "journal": size_of(Path(folder))}
        consortium.close()
    grown = {f"{name}_mib": round((after[name] - before[name]) / 2**20, 2) for name in after}
    return {**grown, "only_counted": counted, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--accepted", type=int, default=40_000)
    asked.add_argument("--refused", type=int, default=20_000)
    given = asked.parse_args()
    rates.BURST = float(given.accepted + given.refused)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    print(json.dumps(flood_journal(given.accepted, given.refused)))
