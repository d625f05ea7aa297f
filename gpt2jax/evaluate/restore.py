"""Parquet copies of data sets, row by row back to the lines of the files that they were made from."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gpt2jax.errors import GPT2JaxError

Row = dict[str, Any]


def rows(path: Path, fields: tuple[str, ...]) -> list[Row]:
    """The rows of a Parquet file, with these columns.

    Raises:
        GPT2JaxError: pyarrow is not installed, or it is no such file.
    """
    try:
        import pyarrow.parquet as parquet  # Of the extra `eval`: only when a Parquet file is there.
    except ImportError:
        raise GPT2JaxError(f"{path}: reading Parquet files needs pyarrow: pip install 'gpt2jax[eval]'") from None
    try:
        table = parquet.read_table(path, columns=list(fields))
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors are ValueErrors.
        line = " ".join(str(error).split())
        raise GPT2JaxError(f"{path}: not a Parquet file with {', '.join(fields)} ({line})") from None
    if set(table.column_names) != set(fields):
        raise GPT2JaxError(
            f"{path}: columns {', '.join(table.column_names) or 'none'}: should hold {', '.join(fields)}"
        )
    return table.to_pylist()


def restore(rule: str, rows: Iterable[Row], fields: tuple[str, ...]) -> bytes:
    """The bytes of the file that the rows were made from, by the rule of that name."""
    make = RULES[rule]
    return "".join(make(row, fields) for row in rows).encode()


def _wikitext(row: Row, fields: tuple[str, ...]) -> str:
    """Lines, of which the blank ones were emptied."""
    return row[fields[0]] or " \n"


def _padded(row: Row, fields: tuple[str, ...]) -> str:
    """Lines that stood between spaces."""
    return f" {row[fields[0]]} \n"


def _lines(row: Row, fields: tuple[str, ...]) -> str:
    return f"{row[fields[0]]}\n"


def _json_text(row: Row, fields: tuple[str, ...]) -> str:
    return json.dumps({"text": row[fields[0]]}) + "\n"


def _cbt(row: Row, fields: tuple[str, ...]) -> str:
    """A numbered block. Spaces at the ends of lines are lost."""
    sentences, question, answer, options = (row[name] for name in fields)
    lines = [f"{number} {text}" for number, text in enumerate(sentences, start=1)]
    lines.append(f"{len(lines) + 1} {question}\t{answer}\t\t{'|'.join(options)}")
    return "\n".join(lines) + "\n\n"


def _hellaswag(row: Row, fields: tuple[str, ...]) -> str:
    """One object a line, in another order of keys than the original's; the label is a number again."""
    label = row["label"]
    if isinstance(label, str) and label.isdecimal():
        label = int(label)
    return json.dumps(row | {"label": label}) + "\n"


RULES: dict[str, Callable[[Row, tuple[str, ...]], str]] = {
    "wikitext": _wikitext,
    "padded": _padded,
    "lines": _lines,
    "json-text": _json_text,
    "cbt": _cbt,
    "hellaswag": _hellaswag,
}
