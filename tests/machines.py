"""Draws docs/machines.md out of the transition tables: `python -m tests.machines` writes the page anew."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path

from coordinator.core import machine
from coordinator.core.state import Phase
from messages.reasons import Reason
from site_agent.core import agenda
from site_agent.core.jobs import Phase as SitePhase

PAGE = Path(__file__).resolve().parent.parent / "docs" / "machines.md"

HEAD = """# State machines

`python -m tests.machines` draws this page from the transition tables themselves; a test holds it.

Both services decide in the same way. `decide(state, input)` looks up the pair of phase and kind of input in a table,
and says what happened as decisions. `evolve(state, decision)` applies one decision. `effects(state, decision)` says
what the shell has to do about it. All three are pure. The coordinator's journal keeps input and decisions, a site's
spool the state after them; so each may be killed at any time, and goes on from what it wrote.

In the tables a name is a handler, a code in quotes a refusal that changes nothing, and `·` a pair that cannot occur:
it raises `IllegalInput`, since only a defect of our own can bring it about.
"""

COORDINATOR = """## The coordinator: an experiment

An experiment is recruited, initialised, trained in rounds and evaluated. The table is total over the kinds that can
come over the wire: whatever a site or researcher says in whatever phase is either recorded or refused with a reason.
Handlers record, and never look further: after each decision `rules.advance` is asked what follows (recruiting closes,
a step opens or closes), until nothing more does. So no way into a state can forget what follows from it. The answers
that a step asks for are added by its row (`coordinator.core.steps`); which step opens next, and for whom, the plan
says (`coordinator.core.plans`). Source: `coordinator.core.machine.TABLE`.
"""

ARROWS = """The arrows were found by trying: each phase is entered, and each kind of input is given to it. What changes
the phase is drawn. A paused experiment goes back to the phase that it came from.
"""

PAUSE = """A paused experiment records as in the phase that the pause came from, and advances only when it resumes.
These kinds mean something else while it is paused:
"""

SITE = """## A site: its job in an experiment

A site has a job for each experiment, and one slot for training, which the jobs queue for. The coordinator may be
wrong, old or repeated: the newest step of the newest round wins, and whatever else it says is refused by a code and
changes nothing. Our own parts may be late (a trainer's last words after its round was dropped): that is refused as
late. Anything else of our own that a phase cannot have is a defect. After each decision the free slot goes to the
first job in the queue that may begin. Source: `site_agent.core.agenda.TABLE`; the steps' kinds come from
`site_agent.core.steps`.
"""

Rule = Callable[..., object] | Reason


def draw_page() -> str:
    """The whole page."""
    import machine_arrows  # beside this file, which is on the path of tests and of the command below

    phases = [phase for phase in Phase if phase not in (Phase.NONE, Phase.PAUSED)]
    site_phases = [phase for phase in SitePhase if phase is not SitePhase.UNKNOWN]
    return "\n".join(
        [
            HEAD,
            COORDINATOR,
            ARROWS,
            *machine_arrows.draw_diagram(machine_arrows.coordinator_arrows(), machine_arrows.COORDINATOR_ENDS),
            *_tables(machine.TABLE, phases),
            PAUSE,
            *(f"- `{kind}`: {_cell(rule)}" for kind, rule in sorted(machine.PAUSED.items())),
            "",
            *_handlers([*machine.TABLE.values(), *machine.PAUSED.values()]),
            "",
            SITE,
            *machine_arrows.draw_diagram(machine_arrows.site_arrows(), machine_arrows.SITE_ENDS),
            *_tables(agenda.TABLE, site_phases),
            *_handlers(agenda.TABLE.values()),
            "",
        ]
    )


def _tables(table: Mapping[tuple[StrEnum, str], Rule], phases: Iterable[StrEnum]) -> list[str]:
    """Kinds down, phases across; five phases a table, so that it fits a page."""
    across = list(phases)
    kinds = list(dict.fromkeys(kind for _phase, kind in table))
    lines: list[str] = []
    for start in range(0, len(across), 5):
        some = across[start : start + 5]
        lines += [f"| | {' | '.join(phase.value for phase in some)} |", "|---" * (len(some) + 1) + "|"]
        lines += [f"| `{kind}` | {' | '.join(_cell(table.get((phase, kind))) for phase in some)} |" for kind in kinds]
        lines.append("")
    return lines


def _cell(rule: Rule | None) -> str:
    if rule is None:
        return "·"
    return f'"{rule.value}"' if isinstance(rule, Reason) else rule.__name__


def _handlers(rules: Iterable[Rule]) -> list[str]:
    """What each handler is triggered by and records, in its own words."""
    found = {rule.__name__: rule.__doc__ or "" for rule in rules if not isinstance(rule, Reason)}
    return [f"- **{name}**: {' '.join(words.split())}" for name, words in sorted(found.items())]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    PAGE.write_text(draw_page())
