"""What a page shows, before it is HTML: a title, sections, and of when it is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol
from urllib.parse import quote

from messages.ground.shown import escape_controls
from messages.ground.units import human_moment

STALE_AFTER = 20.0
"""Seconds without news after which a page is grey."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a sheet. `html`: trusted; whoever makes it has escaped others' text."""

    name: str
    html: str

    @property
    def id(self) -> str:
        """Names it in the page."""
        return "-".join(self.name.lower().split())


@dataclass(frozen=True, slots=True)
class Sheet:
    """One page's content.

    Attributes:
        lead: what matters first, one line.
        sections: those without content are left out.
        trouble: what makes that less is known than could be, a line each.
        heard_at: when those that the page tells of were last heard, the page's own clock, seconds since 1970; None:
            never.
        links: (address, words) of neighbouring pages.
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
    heard_at: float | None
    trouble: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()

    def is_fresh(self, now: float) -> bool:
        """Whether it may look as if all were well. A clock that was set back makes nothing fresh."""
        return self.heard_at is not None and abs(now - self.heard_at) < STALE_AFTER

    def tell_age(self, now: float) -> str:
        """ "as of 14:03:12Z", with the day where that is another one."""
        if self.heard_at is None:
            return "nothing heard yet"
        told = human_moment(self.heard_at)
        return f"as of {told[11:] if told[:10] == human_moment(now)[:10] else told}"

    def shown_sections(self) -> list[Section]:
        """Those with content. What is not printable in them stands there as an escape, whoever wrote it."""
        tidy = ((one.name, escape_controls(one.html, keep="\n")) for one in self.sections if one.html)
        return [Section(name, html.replace("<div class=scroll>", SCROLL)) for name, html in tidy]


SCROLL = '<div class="scroll" tabindex="0">'
"""A table that is wider than the screen can be moved by keys, too."""


class Face(Protocol):
    """What one role sees."""

    name: str
    """Whose page it is, in words: "researcher dr-a"."""

    def find_sheet(self, path: str, chosen: Sequence[str], now: float) -> Sheet | None:
        """The sheet at an address; None: there is none.

        Args:
            chosen: what the reader picked (`?id=`).
        """

    def find_file(self, path: str) -> tuple[str, str] | None:
        """Name and text of a file to take away; None: there is none."""

    def close(self) -> None:
        """Stop listening."""


def make_link(address: str, words: str) -> str:
    """An anchor; both escaped."""
    return f'<a href="{escape(quote(address, safe="/?=&"))}">{escape(words)}</a>'


def make_list(lines: Sequence[str]) -> str:
    """Lines of others' text."""
    return "<ul>" + "".join(f"<li>{escape(one)}</li>" for one in lines) + "</ul>" if lines else ""
