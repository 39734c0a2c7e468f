"""Settings that are checked when they are made: their base, and what a person is told of a fault."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llamarec_core.files import InputError

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Settings(BaseModel):
    """Base of all settings: unknown names are refused, values cannot change after they were checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

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
    given = f" (given: {first['input']!r})" if first["loc"] else ""
    said = first["msg"].removeprefix("Value error, ").removesuffix(".")
    return f"{where + ': ' if where else ''}{said}{given}."
