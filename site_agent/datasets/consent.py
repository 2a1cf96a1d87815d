"""Whom a list of the withdrawn means among those whom a data set has: read, compared, and refused where it is in doubt.

To train on somebody who has withdrawn is the worst fault that a site can make. So every entry comes to one of three
ends, and none is passed over in silence:

    matched    it equals a name of the data in the normal form (`messages.ground.written.identifiers`)
    nobody's   nothing here is like it: counted and told, since it may be a typing error
    in doubt   somebody here is like it, or nobody can say what it means: the data set is not used
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from messages.ground.errors import DataError
from messages.ground.written.entries import ListEntry, list_comments, parse_entries
from messages.ground.written.identifiers import ISSUER, normalise_identifier
from messages.ground.written.likeness import list_marks, list_meanings, list_own_meanings, read_pattern
from messages.ground.written.text import read_text

_COMMENT = "is a comment, and the name of somebody here (in quotes it means them; a comment has a space behind its #)"
_NAME = "looks like a patient's name, not like an identifier"
_COMPARED = 2000
"""Names up to which the nearest one to an entry is looked for: that takes a while."""
COPY = "its patient has images of somebody who has withdrawn: it is one person under two names"
"""Why a case of another name is left out."""
SHOWN = 20
"""Lines that one message names."""


class ListUnclear(DataError):
    """A list of the withdrawn that cannot be used; `details` say whom it may mean, and stay on this machine."""

    def __init__(self, what: str, *, where: str, advice: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(what, where=where, advice=advice)
        self.details = details


@dataclass(frozen=True, slots=True)
class Consent:
    """What became of a list's entries.

    Attributes:
        entries: how many there are; matched: how many of them are somebody's here.
        nobody: lines of those that are nobody's. texts: each of these entries in words, for local eyes.
        fewer: in words, what the list named or matched before, where that was more (`data.list_memory`).
        copies: cases or studies of other names that are left out, because these names have images of the withdrawn.
        used_copies: cases of other names that are used all the same, since everybody here has such images.
        uncompared: cases or studies of withdrawn patients of which an image could not be had, to look for copies of it.
    """

    entries: int
    matched: int
    nobody: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    copies: int = 0
    uncompared: int = 0
    used_copies: int = 0
    fewer: tuple[str, ...] = ()

    def say_counts(self) -> str:
        """In words, without a name."""
        if not self.entries:
            return "; ".join(("the list of the withdrawn names nobody", *self.fewer))
        noun = "entry" if self.entries == 1 else "entries"
        said = f"{self.matched} of {self.entries} {noun} in the list of the withdrawn matched"
        if self.nobody:
            lines = ", ".join(map(str, self.nobody[:SHOWN])) + (" …" if len(self.nobody) > SHOWN else "")
            said += f", {len(self.nobody)} nobody's here ({'line' if len(self.nobody) == 1 else 'lines'} {lines})"
        if self.copies:
            said += f"; left out too: {self.copies} under other names that have images of the withdrawn"
        if self.uncompared:
            studies = "study of theirs" if self.uncompared == 1 else "studies of theirs"
            said += f"; {self.uncompared} {studies} could not be had, to look for copies of it"
        if self.used_copies:
            noun = "case" if self.used_copies == 1 else "cases"
            said += (
                f"; {self.used_copies} {noun} used though they have images of the withdrawn: everybody here has them,"
                " so they tell nobody apart (name whoever is the same person)"
            )
        return "; ".join((said, *self.fewer))

    @property
    def needs_a_look(self) -> bool:
        """Whether somebody should read what became of the list."""
        return bool(self.nobody or self.uncompared or self.used_copies or self.fewer)


@dataclass(frozen=True)
class WithdrawnList:
    """A list as it was read; without one (`path` None) nobody has withdrawn."""

    path: Path | None
    entries: tuple[ListEntry, ...] = ()
    comments: tuple[ListEntry, ...] = ()
    _names: frozenset[str] = field(default=frozenset(), repr=False)

    @classmethod
    def read_list(cls, path: Path | None) -> WithdrawnList:
        """Read a list.

        Raises:
            ListUnclear: it cannot be read, or a line of it cannot be understood; a site that names a list never trains
                without it.
        """
        if path is None:
            return cls(None)
        try:
            text = read_text(path, refuse=DataError)
            entries = tuple(parse_entries(text, str(path), refuse=DataError))
        except DataError as error:
            what = error.what if error.what.startswith("cannot") else f"cannot be used: it {error.what}"
            raise ListUnclear(
                f"the list of withdrawn patients {what}",
                where=error.where,
                advice=f"{error.advice}. No data set is used without its list",
            ) from None
        return cls.of_entries(path, entries, tuple(list_comments(text)))

    @classmethod
    def of_entries(
        cls, path: Path, entries: tuple[ListEntry, ...], comments: tuple[ListEntry, ...] = ()
    ) -> WithdrawnList:
        """A list of entries that were read from a file, and its lines that have a comment."""
        return cls(path, entries, comments, frozenset(name for one in entries for name in names_of(one)))

    def covers(self, *names: str) -> bool:
        """Whether an entry means whoever has one of these names; an issuer plays no part."""
        return any(not self._names.isdisjoint(list_forms(name)) for name in names if name)

    @property
    def numbers(self) -> frozenset[str]:
        """Every name of the list in its normal form, with and without an issuer."""
        return self._names


def names_of(entry: ListEntry) -> set[str]:
    """An entry with and without its issuer."""
    return {entry.name, entry.number.strip(" ")}


def list_pieces(name: str) -> set[str]:
    """A name as it came, without its issuer, and each one where a backslash joins several (DICOM's multiplicity)."""
    return {name, *(part.partition(ISSUER)[0] for part in name.split("\\"))} - {""}


def list_forms(name: str) -> set[str]:
    """The forms in which a name is compared: the normal form of each of its pieces."""
    return {form for piece in list_pieces(name) if (form := normalise_identifier(piece))}


def compare_list(
    listed: WithdrawnList, subjects: Iterable[Sequence[str]], *, shows_names: bool = True
) -> Consent | None:
    """Find out whom each entry means; None without a list.

    Args:
        subjects: of each case or study the names that it goes by: its own, its patient's. Empty ones do not count.
        shows_names: whether the details of a doubt may show the data's names; a PACS's never leave memory.

    Raises:
        ListUnclear: an entry may mean somebody whose name differs, or nobody can say what it means.
    """
    if listed.path is None:
        return None
    crowd = _Crowd(subjects)
    matched, nobody, doubts = 0, [], []
    for entry in listed.entries:
        others = [] if entry.exact else crowd.list_alike(entry)
        if crowd.knows(entry) and not others:
            matched += 1
        elif others or (not entry.exact and (others := crowd.list_meant(entry))):
            meant = (
                ", ".join(sorted(others)[:3]) if shows_names else "somebody here whose identifier is written otherwise"
            )
            doubts.append((entry, f"may mean {meant}"))
        elif not entry.exact and "^" in entry.number:
            doubts.append((entry, _NAME))
        else:
            nobody.append(entry)
    doubts += [(one, _COMMENT) for one in listed.comments if crowd.knows_comment(one)]
    if doubts:
        raise _make_error(listed.path, doubts)
    return Consent(
        entries=len(listed.entries),
        matched=matched,
        nobody=tuple(entry.line for entry in nobody),
        texts=tuple(
            f"line {entry.line}: {entry.name} is nobody's here"
            + (crowd.say_close(entry) if shows_names and place < SHOWN else "")
            for place, entry in enumerate(nobody)
        ),
    )


class _Crowd:
    """Everybody whom a data set has, by what may name them."""

    def __init__(self, subjects: Iterable[Sequence[str]]) -> None:
        self._forms: dict[str, set[int]] = {}
        pieces: dict[str, str] = {}
        for number, names in enumerate(subjects):
            for piece in {piece for name in names if name for piece in list_pieces(name)}:
                form = normalise_identifier(piece)
                if form:
                    self._forms.setdefault(form, set()).add(number)
                    pieces[piece] = form
        self._marked: dict[str, set[str]] = {}
        for piece, form in pieces.items():
            for mark in list_marks(piece):
                self._marked.setdefault(mark, set()).add(form)
        self._lost = any(mark.startswith("? ") for mark in self._marked)

    def knows(self, entry: ListEntry) -> bool:
        return any(name in self._forms for name in names_of(entry))

    def list_alike(self, entry: ListEntry) -> list[str]:
        """Names that differ from the entry's and could be it, of others than those whom it names."""
        meant: set[int] = set().union(*(self._forms.get(name, ()) for name in names_of(entry)))
        own = (list_own_meanings(name, lost=self._lost) for name in names_of(entry))
        alike = self._list_marked(set().union(*own)) - names_of(entry)
        return [form for form in alike if self._forms[form] - meant]

    def list_meant(self, entry: ListEntry) -> list[str]:
        """Names that an entry, nobody's as it stands, may mean."""
        found = self._list_marked(list_meanings(entry.name, lost=self._lost))
        if (pattern := read_pattern(entry.name)) is not None:
            found |= {form for form in self._forms if pattern.match(form.casefold())}
        return [*found]

    def knows_comment(self, comment: ListEntry) -> bool:
        """Whether what reads as a comment is somebody's name: the whole line, or the first word behind the "#"."""
        return comment.name in self._forms or (
            comment.name.startswith("#") and comment.name.partition(" ")[0] in self._forms
        )

    def _list_marked(self, marks: Collection[str]) -> set[str]:
        return {form for mark in marks for form in self._marked.get(mark, ())}

    def say_close(self, entry: ListEntry) -> str:
        """The name that is nearest to an entry, where one is near: it may have been meant."""
        if len(self._forms) > _COMPARED:
            return ""
        near = get_close_matches(entry.name, self._forms, n=1, cutoff=0.85)
        return f" (the nearest is {near[0]})" if near else ""


def _make_error(path: Path, doubts: Sequence[tuple[ListEntry, str]]) -> ListUnclear:
    lines = ", ".join(str(entry.line) for entry, _ in doubts[:SHOWN]) + (" …" if len(doubts) > SHOWN else "")
    first = doubts[0][0]
    why = (
        _NAME if all(said == _NAME for _, said in doubts) else "is like the name of somebody here, and not equal to it"
    )
    return ListUnclear(
        f"the list of withdrawn patients is in doubt in {'line' if len(doubts) == 1 else 'lines'} {lines}: it {why}",
        where=f"{path}, line {first.line}",
        advice='Write the identifier as the data have it; if somebody else is meant, write "exactly: " before it',
        details=tuple(f"line {entry.line}: {entry.name} {why}" for entry, why in doubts),
    )
