"""Bytes of a file that a person wrote → text: UTF-8, with or without a byte order mark; anything else is named.

Windows' editors begin a file with a byte order mark (U+FEFF); Excel's "Unicode text" and PowerShell's ">" write UTF-16.
A mark is taken away. Another encoding is refused by its name, with the line and with what to do: a guess would read
some letters wrong, and a name read wrong is nobody's.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NoReturn

from messages.ground.errors import ConfigError, RequestError

MOST = 64 * 2**20
"""Bytes of the largest file that is read as text."""
MARK = b"\xef\xbb\xbf"
_BREAK = re.compile("\r\n|[\r\n\v\f\x85\u2028\u2029]")
_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32LE", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32BE", "UTF-32"),
    (b"\xff\xfe", "UTF-16LE", "UTF-16"),
    (b"\xfe\xff", "UTF-16BE", "UTF-16"),
)
"""Byte order marks of other encodings: the exact name, and the name that iconv takes for a file with a mark."""
_OTHERS = (
    (b"PK\x03\x04", "an Excel workbook or another zip file"),
    (b"\xd0\xcf\x11\xe0", "an Office document of the old kind (.xls, .doc)"),
    (b"{\\rtf", "a document in RTF"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "a gzip file"),
)
_SAVE = "Save it as UTF-8 (Notepad: UTF-8; Excel: CSV UTF-8), or"
_SAMPLE = 4096


def read_text(path: Path, *, refuse: type[RequestError] = ConfigError, pipes: bool = False) -> str:
    """The text of a file, without its byte order mark.

    Args:
        refuse: the class of what is raised.
        pipes: whether a pipe may be read to its end (`<(command)` of a shell); one without a writer is empty.

    Raises:
        RequestError (`refuse`): it cannot be read, is no regular file, larger than `MOST`, or not UTF-8. `where` is
            the path, with the line where there is one.
    """
    return decode_text(read_content(path, refuse=refuse, pipes=pipes), str(path), refuse=refuse)


def read_content(path: Path, *, refuse: type[RequestError] = ConfigError, pipes: bool = False) -> bytes:
    """The bytes of a file; nothing else than a regular file is waited for.

    Raises:
        RequestError (`refuse`): as `read_text`, but for what the bytes mean.
    """
    advice = "Check the path and its permissions"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        why = error.strerror if isinstance(error, OSError) else "no file has such a name"
        raise refuse(f"cannot be read ({why})", where=str(path), advice=advice) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) and not (pipes and stat.S_ISFIFO(status.st_mode)):
            raise refuse(f"is {_name_kind(status.st_mode)}, not a file", where=str(path), advice="Name a text file")
        os.set_blocking(descriptor, True)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = file.read(MOST + 1)
    except OSError as error:
        raise refuse(f"cannot be read ({error.strerror})", where=str(path), advice=advice) from None
    finally:
        os.close(descriptor)
    if len(content) > MOST:
        raise refuse(f"is larger than {MOST // 2**20} MiB", where=str(path), advice="Name a text file")
    return content


def decode_text(content: bytes, where: str, *, refuse: type[RequestError] = ConfigError) -> str:
    """Bytes → text, without a byte order mark.

    Raises:
        RequestError (`refuse`): they are not UTF-8; `where` gets the line.
    """
    for start, name in _OTHERS:
        if content.startswith(start):
            raise refuse(f"is {name}, not text", where=where, advice="Save it as plain text in UTF-8")
    for start, exact, name in _MARKS:
        if content.startswith(start):
            raise refuse(f"is {exact}, not UTF-8", where=where, advice=_advise(name))
    while content.startswith(MARK):  # files put together may have several
        content = content.removeprefix(MARK)
    if b"\0" in content:
        _refuse_zeros(content, where, refuse)
    try:
        return content.decode("utf-8").removesuffix("\x1a")  # DOS ended a text so
    except UnicodeDecodeError as error:
        line = f"{where}, line {_line_at(content, error.start)}"
        if error.end == len(content) and error.reason == "unexpected end of data":
            raise refuse("ends inside a letter", where=line, advice="The file was cut off: copy it again") from None
        byte = content[error.start]
        meant = bytes((byte,)).decode("cp1252", "replace")
        guess = f", which is {meant!r} in Windows-1252 and Latin-1" if meant.isprintable() and meant != "\ufffd" else ""
        raise refuse(f"is not UTF-8: byte 0x{byte:02X}{guess}", where=line, advice=_advise("WINDOWS-1252")) from None


def split_lines(text: str) -> list[str]:
    """Lines of a text, whatever ends them: CR LF, LF, CR and Unicode's own."""
    return _BREAK.split(text)


def cut_comment(line: str) -> str:
    """A line without its comment: from a "#" at the start, or after a space, on."""
    return re.sub(r"(^|\s)#.*$", "", line, flags=re.DOTALL)


def _refuse_zeros(content: bytes, where: str, refuse: type[RequestError]) -> NoReturn:
    """Text in ASCII that is written as UTF-16 has a zero in every second byte."""
    sample = content[:_SAMPLE]
    for first, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        if sample[first::2].count(0) * 2 > len(sample[first::2]) and not sample[1 - first :: 2].count(0):
            raise refuse(f"is {name} without a mark, not UTF-8", where=where, advice=_advise(name))
    line = _line_at(content, content.index(0))
    raise refuse(
        "holds a byte 0 and is no text", where=f"{where}, line {line}", advice="Save it as plain text in UTF-8"
    )


def _line_at(content: bytes, place: int) -> int:
    return len(re.findall(rb"\r\n|[\r\n]", content[:place])) + 1


def _advise(encoding: str) -> str:
    return f"{_SAVE}: iconv -f {encoding} -t UTF-8 OLD > NEW"


def _name_kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")
