"""Strict msgpack: plain types only, bounded size and depth, maps with string keys, one value per message.

Why own limits around the library: `msgpack.Unpacker` bounds sizes but neither depth nor key types.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgpack

from messages.ground.errors import MalformedMessage
from messages.reasons import Reason

MAX_EVENT_BYTES = 4 * 2**20
MAX_DEPTH = 16


def pack(value: Any) -> bytes:
    """Encode plain types (None, bool, int, float, str, bytes, list, tuple, dict with string keys).

    Maps are written in the order given; canonical bytes are the writer's care (see `canonical`).
    """
    return bytes(msgpack.packb(value, use_bin_type=True, strict_types=False))


def canonical(value: Any) -> bytes:
    """Encode with map keys sorted, so that equal content has equal bytes (for digests)."""
    return pack(_sort_keys(value))


def _sort_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sort_keys(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sort_keys(item) for item in value]
    return value


def unpack(data: bytes | memoryview, *, max_bytes: int = MAX_EVENT_BYTES) -> Any:
    """Decode one value.

    Raises:
        MalformedMessage: too large, too deep, trailing bytes, a type or key outside the plain ones, a key
            that comes twice.
    """
    if len(data) > max_bytes:
        raise MalformedMessage(Reason.TOO_LARGE, f"message of {len(data)} bytes, at most {max_bytes}")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_map_of_pairs,
            use_list=True,
            max_bin_len=max_bytes,
            max_str_len=max_bytes,
            max_array_len=2**20,
            max_map_len=2**20,
            max_ext_len=0,
        )
    except msgpack.StackError as error:
        raise MalformedMessage(Reason.TOO_DEEP, "message nested too deep") from error
    except (ValueError, msgpack.UnpackException, UnicodeDecodeError) as error:
        raise MalformedMessage(Reason.MALFORMED, f"not one msgpack value: {type(error).__name__}") from error
    _check_plain(value, MAX_DEPTH)
    return value


def _map_of_pairs(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    for key in content:
        if type(key) is not str:
            raise MalformedMessage(Reason.WRONG_TYPE, "map key is not a string")
    if len(content) != len(pairs):
        # Two readers could take different ones of the two.
        raise MalformedMessage(Reason.MALFORMED, "a map's key comes twice")
    return content


_SCALARS = frozenset({str, bytes, int, float, bool, type(None)})


def _check_plain(value: Any, depth: int) -> None:
    """Refuse what is not plain or too deep. One call a container, none a scalar: every message passes here."""
    if type(value) is dict:
        items: Collection[Any] = value.values()
    elif type(value) is list:
        items = value
    elif type(value) in _SCALARS:
        return
    else:
        raise MalformedMessage(Reason.WRONG_TYPE, f"value of type {type(value).__name__}")
    if depth <= 0 and items:
        raise MalformedMessage(Reason.TOO_DEEP, f"message nested deeper than {MAX_DEPTH}")
    for item in items:
        if type(item) not in _SCALARS:
            _check_plain(item, depth - 1)
