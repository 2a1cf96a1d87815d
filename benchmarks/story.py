"""What an experiment's story costs by its length: `python -m benchmarks.story [--json]`.

Every view (watch, report, page) reduces the event log to a story. Printed: CPU seconds and microseconds an event for
8,000, 16,000 and 32,000 events of ten sites. The cost of one event must not grow with the story.
"""

from __future__ import annotations

import argparse
import json
import time

from deploy.story.story import ExperimentStory
from deploy.story.telling import tell_all
from messages import kinds
from messages.envelope import Author, Event
from messages.reasons import Reason

LENGTHS = (8_000, 16_000, 32_000)
SITES = 10


def make_events(count: int) -> list[Event]:
    """Rounds in which each site takes on a round and gives it up."""
    authors = [Author("bench", f"site-{number}", 1) for number in range(SITES)]
    said = (("round-accepted", kinds.RoundAccepted()), ("round-failed", kinds.RoundFailed(reason=Reason.LEAVING)))
    found: list[Event] = []
    while len(found) < count:
        number = len(found) // (SITES * len(said)) + 1
        for author in authors:
            for kind, body in said:
                event = author.write_event(kind, body, time=float(number), experiment="bench", round_number=number)
                found.append(event)
    return found[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    rows = []
    as_json = parser.parse_args().json
    for length in LENGTHS:
        events = make_events(length)
        began = time.process_time()
        tell_all(ExperimentStory("bench"), events)
        spent = time.process_time() - began
        rows.append({"events": length, "cpu_seconds": round(spent, 3), "us_an_event": round(spent / length * 1e6, 1)})
        if not as_json:
            print(f"{length:>7} events {spent:7.2f} s CPU {spent / length * 1e6:7.1f} us an event", flush=True)
    if as_json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
