"""What all readers share: bytes to text, and to lines with their numbers."""

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from gpt2jax.errors import GPT2JaxError


def fail(where: str, line: int, problem: str) -> NoReturn:
    """Raise the error line for a line of a file."""
    raise GPT2JaxError(f"{where}: line {line}: {problem}")


def decode(data: bytes, where: str) -> str:
    """UTF-8 text; a byte order mark is an error, since it would be scored.

    Raises:
        GPT2JaxError: nothing but white space, or not such text, naming the line and the byte.
    """
    if not data.strip():
        raise GPT2JaxError(f"{where}: is empty: should hold text")
    if data.startswith(b"\xef\xbb\xbf"):
        fail(where, 1, "begins with a byte order mark: should be UTF-8 without one")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        fail(where, line, f"byte {error.start}: {data[error.start]:#04x}: not UTF-8: should be UTF-8 text")


def numbered(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1, without ``\\n`` and what Windows puts before it.

    Empty lines at the end are none.
    """
    for number, line in enumerate(text.rstrip("\r\n").split("\n"), start=1):
        yield number, line.removesuffix("\r")


def json_object(line: str, where: str, number: int) -> dict[str, Any]:
    """The JSON object in a line."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        fail(where, number, f"not JSON ({error})")
    if not isinstance(value, dict):
        fail(where, number, f"holds a {type(value).__name__}: should be an object")
    return value


def string(record: dict[str, Any], key: str, where: str, number: int, empty: bool = False) -> str:
    """The string under ``key``, which may be ``empty`` or not."""
    value = record.get(key)
    if not isinstance(value, str):
        fail(where, number, f"{key!r}: {type(value).__name__ if key in record else 'missing'}: should be a string")
    if not (empty or value.strip()):
        fail(where, number, f"{key!r}: empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair, which is no character.
        fail(where, number, f"{key!r}: {value[error.start]!r} at character {error.start}: not a character")
    return value
