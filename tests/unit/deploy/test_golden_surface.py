"""What users type and read changes only on purpose: every command, key, reason code and exit status is kept as text.

After a change that is meant: `python -m tests.surface`, look at the difference, and a line in CHANGELOG.md.
"""

from __future__ import annotations

import difflib

import pytest
import surface


@pytest.mark.parametrize("part", sorted(surface.PARTS))
def test_what_users_type_and_read_is_as_it_was(part: str) -> None:
    kept, now = (surface.FOLDER / part).read_text(encoding="utf-8"), surface.text_of(part)
    changes = difflib.unified_diff(kept.splitlines(), now.splitlines(), f"kept {part}", f"{part} now", lineterm="", n=2)
    told = "\n".join(changes)
    assert not told, f"\n{told}\n\nIf it is meant: python -m tests.surface, and a line in CHANGELOG.md"


def test_a_key_that_changes_is_shown_as_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = list(surface.reasons())
    monkeypatch.setitem(surface.PARTS, "reasons.txt", lambda: iter(lines[1:]))  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match=f"-{lines[0]}"):
        test_what_users_type_and_read_is_as_it_was("reasons.txt")
