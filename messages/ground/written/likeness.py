"""When a name in a list could mean a name in the data that it does not equal. Pure.

A name of the data has marks, an entry of a list has meanings: both are short texts. Where they have one in common, the
entry may mean that name, and no program can tell. So the comparison needs no name: keyed digests of marks will do.

    what differs                                              first letter of the mark
    case, accents, alphabet, signs, leading zeros             =   (also: a part of the entry is the name)
    the entry is a part of the name                           <
    letters and digits grouped otherwise (12-34, 1234)        ~
    letters and digits of one shape (O and 0, I, l and 1)     0
    a number of which a spreadsheet keeps 15 digits           15
    letters that were lost, or read in another encoding       ?
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from fnmatch import translate
from urllib.parse import unquote

from messages.ground.written.identifiers import ISSUER, mend_mojibake, normalise_identifier

_FROM_OTHER_ALPHABETS = str.maketrans(
    "авекмнорстухіјѕһԛԝ" + "αβεζηικμνορτυχ" + "ıſ",
    "abekmhopctyxijshqw" + "abezhikmnoptyx" + "is",
)  # fmt: skip
"""Cyrillic and Greek letters that look like Latin ones, in lower case."""
_WITHOUT_STROKE = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "æ": "ae", "œ": "oe", "þ": "th"}
)
_SPELT_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
"""How letters are written where a keyboard or a system has none of them."""
_ONE_SHAPE = str.maketrans("oil", "011")
_TOKEN = re.compile(r"[0-9]+|[^\W\d_]+")
_UID = re.compile(r"[0-9]+(\.[0-9]+){3,}")
"""A UID's numbers are like many names, and nobody means one by a part of it."""
_WILD = re.compile(r"[*?]|\[[^\]]+\]|\u2026$|\.\.\.$")
_RANGE_WORDS = frozenset(["to", "until", "till", "through", "thru", "bis", "au"])
_MONTHS = tuple(
    frozenset(names.split())
    for names in (
        "jan january januar janv janvier janner",
        "feb february februar fev fevr fevrier",
        "mar march marz mrz mars maerz",
        "apr april avr avril",
        "may mai",
        "jun june juni juin",
        "jul july juli juil juillet",
        "aug august aout",
        "sep sept september septembre",
        "oct october okt oktober octobre",
        "nov november novembre",
        "dec december dez dezember decembre",
    )
)
_CENTURIES = ("18", "19", "20")
_MOST_TOKENS = 32
"""Tokens of the longest run within a name that counts."""
_MOST_NAMES = 1000
"""Names that a range may stand for."""
_LEAST_GROUPED = 5
"""Letters and digits of the shortest name that may be grouped otherwise: "P1_1" is no "P11"."""
_LEAST_KEPT = 4
"""Letters and digits that have to be left of a name where others may have been lost."""
_DIGITS = 15
"""Digits that a spreadsheet keeps of a number; behind them it writes zeros."""
_SCRIPTS = ("latin-1", "latin", "cyrillic", "greek", "other")


def liken_identifier(name: str) -> str:
    """What is left of a name when people and spreadsheets have changed what they do not mean to change.

    Runs of letters and of digits: letters without case, accent and alphabet, numbers without leading zeros.
    """
    return _join_tokens(_list_tokens(normalise_identifier(name)))


def list_marks(name: str) -> frozenset[str]:
    """The marks of a name of the data, which may be as it came: with letters that were lost on the way."""
    normal = normalise_identifier(name)
    marks = {f"0{_join_tokens(_list_tokens(normal, _ONE_SHAPE))}", *_mark_rounded(normal), *_mark_lost(name, normal)}
    for tokens in _spell(normal):
        marks |= {f"={_join_tokens(tokens)}", *_mark_grouped(tokens)}
        if not _UID.fullmatch(normal):
            marks |= {f"<{_join_tokens(run)}" for run in _list_runs(tokens)}
    return frozenset(marks)


def list_own_meanings(entry: str, *, lost: bool = True) -> frozenset[str]:
    """Meanings of an entry as a whole: whoever has them may be meant though the entry equals another name.

    Args:
        lost: whether there may be names of which letters were lost.
    """
    normal = normalise_identifier(entry)
    rounded = _mark_rounded(normal) if not normal.lstrip("0")[_DIGITS:].strip("0") else ()
    return frozenset({*(f"={_join_tokens(tokens)}" for tokens in _spell(normal)), *_mean_lost(normal, lost), *rounded})


def list_meanings(entry: str, *, lost: bool = True) -> frozenset[str]:
    """All meanings of an entry that equals no name: it may hold a remark, a path, a range, or a part of a name.

    Args:
        lost: as for `list_own_meanings`.
    """
    normal = normalise_identifier(entry)
    meant = {*list_own_meanings(entry, lost=lost), f"0{_join_tokens(_list_tokens(normal, _ONE_SHAPE))}"}
    meant |= {*_mean_decoded(normal, lost), *_mean_century(normal)}
    whole = bool(_UID.fullmatch(normal))
    for text in _spell_texts(normal):
        tokens = _TOKEN.findall(text)
        for run in [tokens] if whole else _list_parts(text):
            meant |= {f"={_join_tokens(run)}", *_mark_grouped(run)}
        if not whole:
            meant |= {f"={one}" for one in (*_list_range(tokens), *_list_dates(tokens))}
    meant |= {f"<{_join_tokens(tokens)}" for tokens in _spell(normal.partition(ISSUER)[0])}
    return frozenset(one for one in meant if one not in ("=", "<", "~", "0"))


def _mean_decoded(normal: str, lost: bool) -> frozenset[str]:
    """An entry out of an address: %2F is a sign, and + may be a space (RFC 3986, 2.1)."""
    decoded = normal
    while (further := unquote(decoded)) != decoded:
        decoded = further
    return frozenset() if decoded == normal else list_meanings(decoded.replace("+", " "), lost=lost)


def _mean_century(normal: str) -> Iterator[str]:
    """A number that begins with a birth date (Sweden, Finland, Denmark …), with the century and without it."""
    digits = "".join(_TOKEN.findall(_fold(normal)))
    if digits.isdecimal() and len(digits) == 12 and digits[:2] in _CENTURIES:
        yield from _mark_grouped([digits[2:]])
    elif digits.isdecimal() and len(digits) == 10:
        for century in _CENTURIES:
            yield from _mark_grouped([century + digits])


def read_pattern(entry: str) -> re.Pattern[str] | None:
    """What an entry with wildcards matches (names in their normal form, casefolded); None where it has none."""
    if not _WILD.search(entry):
        return None
    return re.compile(translate(re.sub(r"(\u2026|\.\.\.)$", "*", entry.casefold())))


def _list_tokens(normal: str, *tables: dict[int, int] | dict[int, str]) -> list[str]:
    """Runs of letters and of digits of a name in its normal form, as they are but for case, accent and alphabet."""
    return _TOKEN.findall(_fold(normal, *tables))


def _fold(normal: str, *tables: dict[int, int] | dict[int, str]) -> str:
    """A name without case, accents, and other alphabets."""
    text = unicodedata.normalize("NFC", normal if normal.isascii() else mend_mojibake(normal)).casefold()
    for table in tables:
        text = text.translate(table)
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).casefold().translate(_WITHOUT_STROKE)
        text = "".join(letter for letter in text if not unicodedata.combining(letter)).translate(_FROM_OTHER_ALPHABETS)
        text = "".join(str(unicodedata.decimal(one)) if one.isdecimal() else one for one in text)
    return text


def _spell(normal: str) -> list[list[str]]:
    """A name's tokens, in each way of `_spell_texts`."""
    return [_TOKEN.findall(text) for text in _spell_texts(normal)]


def _spell_texts(normal: str) -> list[str]:
    """A name, once with accents taken away and once with them spelt out, where that is another name."""
    plain = _fold(normal)
    if normal.isascii() or (spelt := _fold(normal, _SPELT_OUT)) == plain:
        return [plain]
    return [plain, spelt]


def _join_tokens(tokens: list[str]) -> str:
    return " ".join(token.lstrip("0") or "0" if token[0].isdecimal() else token for token in tokens)


def _list_runs(tokens: list[str]) -> Iterator[list[str]]:
    for first in range(len(tokens)):
        for last in range(first + 1, min(len(tokens), first + _MOST_TOKENS) + 1):
            yield tokens[first:last]


def _list_parts(text: str) -> Iterator[list[str]]:
    """Runs of tokens that may be a name within an entry: a short one begins where a word does, and ends there or has a
    number. "P1" is a part of "P1x", "X" is none of "X9"."""
    found = [*_TOKEN.finditer(text)]
    for first, begin in enumerate(found):
        for last in range(first, min(len(found), first + _MOST_TOKENS)):
            run = [one[0] for one in found[first : last + 1]]
            starts = begin.start() == 0 or not text[begin.start() - 1].isalnum()
            ends = found[last].end() == len(text) or not text[found[last].end()].isalnum()
            if sum(map(len, run)) >= _LEAST_KEPT or (starts and (ends or any(one[0].isdecimal() for one in run))):
                yield run


def _mark_grouped(tokens: list[str]) -> set[str]:
    together = "".join(tokens)
    if len(together) < _LEAST_GROUPED:
        return set()
    return {f"~{(together.lstrip('0') or '0') if together.isdecimal() else together}"}


def _mark_rounded(normal: str) -> set[str]:
    """All but the last of the digits that a spreadsheet keeps of a number: it rounds the last."""
    digits = normal.lstrip("0")
    return {f"15 {len(digits)} {digits[: _DIGITS - 1]}"} if digits.isdecimal() and len(digits) > _DIGITS else set()


def _list_range(tokens: list[str]) -> Iterator[str]:
    """The names from the first to the last of a range: 17-19, P1-P5, P1-5, 17 to 19."""
    tokens = [token for token in tokens if token not in _RANGE_WORDS]
    if len(tokens) < 2 or not tokens[-1].isdecimal():
        return
    *before, last = tokens
    half = len(before) // 2 + 1
    if before[:half][:-1] and before[: half - 1] == before[half:]:
        before = before[:half]
    first = before[-1]
    if not first.isdecimal() or ("0" in (first[0], last[0]) and len(first) != len(last)):
        return
    if len(last) <= len(first) + 3 and 0 < int(last) - int(first) <= _MOST_NAMES:
        yield from (_join_tokens([*before[:-1], str(number)]) for number in range(int(first), int(last) + 1))


def _list_dates(tokens: list[str]) -> Iterator[str]:
    """What a spreadsheet may have made a date of: SEP2 becomes 2-Sep, 9-2 becomes 02. Sep."""
    month = next((place for place, names in enumerate(_MONTHS, 1) for one in tokens if one in names), None)
    numbers = [token for token in tokens if token.isdecimal()]
    if month is None and len(numbers) == len(tokens) == 3:
        yield from _list_plain_dates(*numbers)
    if month is None or len(tokens) > 3 or not numbers:
        return
    for number in numbers:
        yield from (_join_tokens([name, number]) for name in _MONTHS[month - 1])
    for said in ([str(month), *numbers], [*numbers, str(month)], [numbers[0], str(month), *numbers[1:]]):
        yield _join_tokens(said)


def _list_plain_dates(first: str, second: str, third: str) -> Iterator[str]:
    """SEP2 as 2024-09-02, 02.09.2024 or 9/2/2024; SEP24 (the month of a year) as its first day."""
    ends = {(second, third, first), (second, first, third), (first, second, third)}
    for month, day, year in ends:
        if len(year) in (2, 4) and 1 <= int(month) <= 12 and 1 <= int(day) <= 31:
            for number in {day, year[-2:], year} if int(day) == 1 else {day}:
                yield from (_join_tokens([name, number]) for name in _MONTHS[int(month) - 1])


def _mark_lost(name: str, normal: str) -> Iterator[str]:
    """What is left of a name's letters, and what became of the others."""
    left = _keep_ascii(normal)
    foreign = _list_foreign(name)
    if not foreign:
        if "?" in name:
            yield f"? {left}"
        elif len(left) >= _LEAST_KEPT:
            yield f"?gone {left}"
    elif "?" in name or not all(map(_is_sound, foreign)):
        yield f"? {left}"
    else:
        yield f"?{_name_script(foreign)} {left}"


def _mean_lost(normal: str, shortened: bool) -> Iterator[str]:
    """What an entry's name becomes where letters are lost, dropped, or read as those of another script."""
    left, foreign = _keep_ascii(normal), _list_foreign(normal)
    if foreign:
        yield f"? {left}"
        own = _name_script(foreign)
        yield from (f"?{script} {left}" for script in _SCRIPTS if script != own)
        if len(foreign) <= 2:
            yield f"?gone {left}"
    for lost in (1, 2) if shortened else ():
        if len(left) >= lost + _LEAST_KEPT:
            yield from (f"? {left[:at]}{left[at + lost :]}" for at in range(len(left) - lost + 1))


def _keep_ascii(normal: str) -> str:
    return "".join(letter for letter in normal.casefold() if letter.isascii() and letter.isalnum())


def _list_foreign(name: str) -> list[str]:
    """The letters beyond ASCII of a name, and what stands in their place."""
    if name.isascii():
        return []
    text = unicodedata.normalize("NFC", name)
    passed_over = ("Zs", "Zl", "Zp", "Pd", "Cf", "Mn")
    return [letter for letter in text if not letter.isascii() and unicodedata.category(letter) not in passed_over]


def _is_sound(letter: str) -> bool:
    return unicodedata.category(letter)[0] == "L" or letter.isdecimal()


def _name_script(letters: list[str]) -> str:
    """What the letters are, all of them: one of `_SCRIPTS`."""
    if all(ord(letter) < 0x100 for letter in letters):
        return "latin-1"
    found = {unicodedata.name(letter, "").partition(" ")[0].lower() for letter in letters}
    return found.pop() if len(found) == 1 and found <= set(_SCRIPTS) else "other"
