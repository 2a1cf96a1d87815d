"""Others' text as a terminal may show it: nothing in it moves the cursor, colours, renames the window or forges a line.

What other people, files and servers say is shown, and a terminal obeys what it is shown (ECMA-48 control sequences;
Unicode's bidirectional controls). So what is not printable stands there as an escape.
"""

from __future__ import annotations


def escape_controls(text: str, keep: str = "") -> str:
    """The text with each character that is not printable as an escape: "\\x1b", "\\n", "\\u202e".

    Args:
        keep: characters that stay as they are: a line end where the text is ours to break.
    """
    if text.isprintable():
        return text
    return "".join(one if one in keep or one.isprintable() else _escape(one) for one in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def escape_json(text: str) -> str:
    """JSON that says the same without such characters: what JSON leaves as it is (DEL, C1, bidirectional controls)."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escape_as_json(one) for one in text)


def _escape_as_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))
