"""What people write, checked: names, YAML files, the base of all settings, and what is said of a fault."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from llamarec_core.files import InputError

_LARGEST = 2**18  # bytes of a file of settings; the largest of the study has 10 kB
_NAMING = "take letters, digits, `.`, `_` and `-`, at most 64, and begin with a letter or a digit"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""The name of a profile, a data set or a variant, which stands in paths and in commands."""


class Settings(BaseModel):
    """Base of all settings: unknown names are refused, values cannot change after they were checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise ValueError("true and false are no values of this setting")
        return value

    def changed(self, changes: Mapping[str, Any], *, place: str = "") -> Self:
        """Return these settings with some changed, and checked again; ``place`` is where a person gave them."""
        return validated(type(self), self.model_dump() | changes, place=f"{place}." if place else "")


def validated(kind: Any, value: Any, *, place: str) -> Any:
    """Return a value as a type of pydantic's; an :class:`InputError` says, after ``place``, what is wrong with it."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
    where, shown = ".".join(map(str, first["loc"])), repr(first["input"])
    given = f" (given: {shown if len(shown) <= 80 else shown[:80] + '…'})" if where else ""
    naming = first["type"] == "string_pattern_mismatch"
    said = _NAMING if naming else first["msg"].removeprefix("Value error, ").removesuffix(".")
    raise InputError(f"{place}{where[:200] + ': ' if where else ''}{said}{given}.")


def checked_name(name: str, *, of: str) -> str:
    """Return a name that can stand in paths and in commands, e.g. ``of`` a data set; refuse any other."""
    return validated(Name, name, place=f"{name!r} cannot be the name of a {of}: ")


class _Plain(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently take the last, and names for repeated parts."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few lines of them can stand for gigabytes
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(problem="write repeated parts out", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in names:
                problem = f"{key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Read a YAML file of at most 256 kB, without aliases and with each key once."""
    if path.stat().st_size > _LARGEST:
        raise InputError(f"{path} is larger than {_LARGEST // 2**10} kB, which no file of settings needs.")
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), place=str(path))
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8: save it in that encoding.") from None


def parse_yaml(text: str, *, place: str) -> Any:
    """Parse YAML that a person gave at a place; an :class:`InputError` where it is none, as in :func:`read_yaml`."""
    try:
        return yaml.load(text, Loader=_Plain)  # noqa: S506 (a safe loader)
    except RecursionError:
        raise InputError(f"{place} is not valid YAML: it nests too deeply.") from None
    except (yaml.YAMLError, ValueError) as error:  # also a number of 5,000 digits, or the 31st of February
        raise InputError(f"{place} is not valid YAML: {' '.join(str(error).split())}.") from None
