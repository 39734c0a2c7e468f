"""Settings that are checked when they are made: their base, and what a person is told of a fault."""

from collections.abc import Mapping
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from llamarec_core.files import InputError

PositiveInt = Annotated[int, Field(gt=0, le=1_000_000)]
Width = Annotated[int, Field(gt=0, le=4096)]
"""A size by which a model's memory grows."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A name that stands in paths and in commands: of a profile, a data set, a variant."""

_PLAIN = "take letters, digits, `.`, `_` and `-`, at most 64, and begin with a letter or a digit"
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Settings(BaseModel):
    """Base of all settings: unknown names are refused, values cannot change after they were checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise ValueError("true and false are no values of this setting")
        return value

    def changed(self, changes: Mapping[str, Any], *, place: str = "") -> Self:
        """Return these settings with some changed, and checked again.

        Args:
            changes: new values by name.
            place: where a person gave them, e.g. ``datasets.beauty.retriever``.

        Raises:
            InputError: a name is unknown, or a value is out of range.
        """
        try:
            return type(self)(**self.model_dump() | changes)
        except ValidationError as error:
            raise InputError(first_fault(error, place=place)) from None


def first_fault(error: ValidationError, *, place: str = "") -> str:
    """Return what is said of the first fault: the setting's place, what is wrong with it, and what was given."""
    first = error.errors()[0]
    where = ".".join(map(str, (place, *first["loc"]) if place else first["loc"]))
    shown = repr(first["input"])
    given = f" (given: {shown if len(shown) <= 80 else shown[:80] + '…'})" if first["loc"] else ""
    plain = first["type"] == "string_pattern_mismatch"
    said = _PLAIN if plain else first["msg"].removeprefix("Value error, ").removesuffix(".")
    return f"{where[:200] + ': ' if where else ''}{said}{given}."


def checked_name(name: str, *, of: str) -> str:
    """Return a name that can stand in paths and in commands.

    Args:
        name: as :data:`Name`.
        of: what has the name, e.g. ``data set``.

    Raises:
        InputError: it holds anything else.
    """
    try:
        return TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise InputError(f"{name!r} cannot be the name of a {of}: {_PLAIN}.") from None
