"""What settings are made of: types that say what is allowed, and frozen classes whose errors are one line."""

import dataclasses
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

import pydantic.dataclasses
from pydantic import Field, ValidationError

from gpt2jax.errors import GPT2JaxError, nearest

T = TypeVar("T")

# Strict: text that looks like a number is a mistake to report, not to repair.
Count = Annotated[int, Field(ge=1, strict=True)]
CountOrZero = Annotated[int, Field(ge=0, strict=True)]
AxisSize = Annotated[int, Field(ge=-1, strict=True)]
Probability = Annotated[float, Field(ge=0.0, le=1.0, strict=True)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0, strict=True)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False, strict=True)]
# What float32 holds with room to spare.
Finite = Annotated[float, Field(ge=-1e6, le=1e6, strict=True)]
NotEmpty = Annotated[str, Field(min_length=1)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False, strict=True)]


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, Field))
def settings(section: str) -> Any:
    """A frozen pydantic dataclass whose constructor raises :class:`GPT2JaxError` naming ``section.key``."""

    def make(cls: type[T]) -> type[T]:
        made: Any = pydantic.dataclasses.dataclass(frozen=True, config={"extra": "forbid"})(cls)
        construct = made.__init__

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            try:
                construct(self, *args, **kwargs)
            except ValidationError as error:
                raise GPT2JaxError(first_error(error, made, (section,) if section else ())) from None

        made.__init__ = __init__
        return cast(type[T], made)

    return make


def first_error(error: ValidationError, cls: Any, prefix: tuple[str, ...]) -> str:
    """One line for the first thing wrong: the key's path, the value and what is allowed."""
    first = error.errors(include_url=False)[0]
    loc = [str(part) for part in first["loc"]]
    path = ".".join([*prefix, *loc])
    if first["type"] == "unexpected_keyword_argument":
        for part in loc[:-1]:
            cls = {field.name: field.type for field in dataclasses.fields(cls)}[part]
        return f"{path}: unknown key ({nearest(loc[-1], [field.name for field in dataclasses.fields(cls)])})"
    if first["type"] == "value_error":  # A check of our own, below: its text starts with the key.
        return f"{path}.{first['ctx']['error']}"
    return f"{path}: {first['input']!r}: {first['msg'].removeprefix('Input ')}"
