"""Words of an event that a later version may add to: read as "other" where the event says that it is of a later one.

`messages.envelope` hands a reader in (`Reading`) as pydantic's context. Without one, or where the event says no newer
vocabulary than the reader's, every word is as strict as its model says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from pydantic import BaseModel, BeforeValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from messages import abilities, codec
from messages.extension import EXT_BYTES, WORD, is_coded

OTHER: Final = "other"
"""What an unknown word of a newer version is read as. No event of ours says it: 0.1 would refuse it."""
MOST_FOLDED = 256
"""Keys of a map that are looked at; a map with more of them is left to its model."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How an event is read: by a reader of so many words, because it says that it has newer ones."""

    vocabulary: int


def reading_of(info: ValidationInfo) -> Reading | None:
    """The lenient reader, if it is one."""
    return info.context if isinstance(info.context, Reading) else None


def other_where_unknown(known: frozenset[str]) -> BeforeValidator:
    """A word out of `known`, or "other" where the event is of a newer version and the word is a code word."""

    def read(value: Any, info: ValidationInfo) -> Any:
        reading = reading_of(info)
        return value if reading is None else _read_word(value, known, reading)

    return BeforeValidator(read)


def other_keys_folded(known: frozenset[str]) -> BeforeValidator:
    """A map from words to counts: what is unknown counts together, under "other"."""

    def read(value: Any, info: ValidationInfo) -> Any:
        reading = reading_of(info)
        if reading is None or not isinstance(value, dict) or len(value) > MOST_FOLDED:
            return value
        folded: dict[Any, Any] = {}
        for key, count in value.items():
            word = _read_word(key, known, reading)
            folded[word] = folded[word] + count if word in folded and type(count) is int else count
        return folded

    return BeforeValidator(read)


def _read_word(value: Any, known: frozenset[str], reading: Reading) -> Any:
    if not isinstance(value, str) or WORD.fullmatch(value) is None:
        return value
    return value if value in known and abilities.is_known(value, reading.vocabulary) else OTHER


def drop_unknown_fields(model: type[BaseModel], content: dict[str, Any], reading: Reading) -> dict[str, Any]:
    """A body's content without the fields that the reader does not know.

    Raises:
        PydanticCustomError: what they hold is more than numbers, hashes and code words, or much of it: free text has
            no way in here either.
    """
    known = {name for name in model.model_fields if abilities.is_known(f"{model.__name__}.{name}", reading.vocabulary)}
    unknown = {key: value for key, value in content.items() if key not in known}
    if not unknown:
        return content
    if not _is_coded_throughout(unknown) or len(codec.pack(unknown)) > EXT_BYTES:
        raise PydanticCustomError("extra_forbidden", "fields of a newer version hold more than codes")
    return {key: value for key, value in content.items() if key in known}


def _is_coded_throughout(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(WORD.fullmatch(key) and _is_coded_throughout(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_is_coded_throughout(item) for item in value)
    return value is None or isinstance(value, bool) or is_coded(value)


def needed_vocabulary(kind: str, body: BaseModel) -> int:
    """The number that an event has to say: of the newest word in it."""
    newer = abilities.NEWER
    return (
        max(newer.get(kind, 1), _newest_number(body)) if newer else 1
    )  # of 100,000 tensors nothing is looked at for it


def _newest_number(value: Any) -> int:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        name = type(value).__name__
        # What was not set has its default, and most bodies set few of their fields.
        said = [(one, getattr(value, one)) for one in value.model_fields_set if one in fields]
        return max(
            (
                max(abilities.NEWER.get(f"{name}.{one}", 1), _newest_number(item))
                for one, item in said
                if item != fields[one].get_default(call_default_factory=True)
            ),
            default=1,
        )
    if isinstance(value, Enum):
        return _newest_number(value.value)
    if isinstance(value, str):
        return abilities.NEWER.get(value, 1)
    if isinstance(value, Mapping):
        return max((max(_newest_number(key), _newest_number(item)) for key, item in value.items()), default=1)
    if isinstance(value, list | tuple):
        return max((_newest_number(item) for item in value), default=1)
    return 1
