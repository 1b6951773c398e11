"""Shared parts of our YAML files: strict sections, durations, error messages with their path in the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from rempart.errors import ConfigError
from rempart.settings import plain_yaml

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_duration(value: object) -> timedelta:
    """Parse `90d`, `15m` or `1h` as a timedelta. Raises ValueError for anything else."""
    if isinstance(value, str) and (matched := re.fullmatch(r"(\d+)\s*([smhdw])", value)):
        with suppress(OverflowError, ValueError):
            return timedelta(seconds=int(matched[1]) * _UNITS[matched[2]])
        raise ValueError("write a duration of at most 999999999d")
    if isinstance(value, timedelta):
        return value
    raise ValueError("write a duration as a number and a unit: 30s, 15m, 1h, 90d or 8w")


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


class Strict(BaseModel):
    """A section of a YAML file: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def told_path(*path: int | str) -> str:
    """Return a path in a file as a person counts: `expectations, rule 1.reason` for the first entry of that list."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f", {'rule' if text == 'expectations' else 'entry'} {part + 1}"
        else:
            text += f".{part}" if text else part
    return text


def explain(error: ValidationError, file: Path, model: type[BaseModel] | None = None) -> str:
    """Return one line per fault: the file, the path in it, the error.

    An unknown key that is spelled like a key that is missing there is one fault. `model`: the file's, to add what a key
    at fault means, on a line of its own.
    """
    lines, faults = [], error.errors()
    forbidden = [fault["loc"] for fault in faults if fault["type"] == "extra_forbidden"]
    unknown = {loc: _meant(loc, faults, model) for loc in forbidden}
    for fault in faults:
        if fault["type"] == "missing" and any(
            loc[:-1] == fault["loc"][:-1] and meant == fault["loc"][-1] for loc, meant in unknown.items()
        ):
            continue
        loc = _in_file(fault["loc"])
        path = f"{told_path(*loc)}: " if loc else ""
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            meant = unknown[fault["loc"]]
            message = f"unknown key: {_advice(fault['loc'], meant, model)}"
        elif fault["type"] == "missing":
            message = "required key is missing: add it"
        # a section that is checked as a whole tells each fault with its own path
        lines += [f"{file}: {path}{line}" for line in message.split("\n")]
        at = (*loc[:-1], unknown[fault["loc"]]) if fault["loc"] in unknown else loc
        if model and (meaning := described(model, at)):
            lines.append(f"    {at[-1]}: {meaning}")
    return "\n".join(lines)


def _advice(loc: tuple[int | str, ...], meant: str, model: type[BaseModel] | None) -> str:
    """Return what to do about an unknown key. A section that its `kind` chose tells what it takes."""
    kind, key = _kind(loc) if model else None, meant or str(loc[-1])
    sections = _descend(model, _in_file(loc)[:-1])[0] if model and kind else set()
    own = _of_kind(sections, kind)
    taken = [name for section in own for name in _own_keys(section) if name != "kind"]
    if meant and (not kind or meant in taken):
        return f"remove it, or correct its spelling (did you mean {meant}?)"
    others = [section for section in sections - own if key in _own_keys(section)]
    homes = [f"`kind: {name}`" for section in others for name in _names_of(section)]
    homes = sorted(homes) or (_homes(model, key) if model else [])
    move = f"`{key}` belongs to {' or '.join(homes)}; move it there, or remove it" if homes else ""
    takes = f"; `kind: {kind}` takes {', '.join(taken)}" if taken else ""
    return (move or "remove it, or correct its spelling") + takes


_TAGGED = {"source": 1, "features": 2}
"""Where pydantic adds the tag of a discriminated union to a path: below `source`, and below each of `features`."""


def _in_file(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return a path of pydantic as it is in the file: without the tag of a discriminated union."""
    place = _TAGGED.get(str(loc[0]), len(loc)) if loc else 0
    return loc[:place] + loc[place + 1 :]


def _kind(loc: tuple[int | str, ...]) -> str | None:
    """Return the tag of the discriminated union that a key of this path stands in at once; None in other sections."""
    place = _TAGGED.get(str(loc[0]), len(loc))
    return str(loc[place]) if len(loc) == place + 2 else None


def _of_kind(sections: set[type[BaseModel]], kind: str | None) -> set[type[BaseModel]]:
    """Return the sections of a kind; all of them where nothing tells the kind."""
    return {section for section in sections if kind in _names_of(section)} or sections


def _names_of(section: type[BaseModel]) -> tuple[str, ...]:
    """Return the values that `kind` may have in a section."""
    field = section.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


def _own_keys(section: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in section.model_fields.items()]


def described(model: type[BaseModel], loc: Sequence[int | str]) -> str | None:
    """Return the description of the key at a path of a file; None if its section says nothing of it. Pure."""
    _, fields, named = _descend(model, loc)
    told = {field.description for field in fields} if loc and not named else set()
    return told.pop() if len(told) == 1 else None


def _descend(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[set[type[BaseModel]], list[FieldInfo], bool]:
    """Return the sections at a path of a file, the fields of its last key, and whether a name comes next."""
    sections: set[type[BaseModel]] = {model}
    fields: list[FieldInfo] = []
    named = False
    for part in loc:
        if named or isinstance(part, int):  # a name that the writer of the file chose, or a place in a list
            named = False
            continue
        keys = [key for section in sections for key in section.model_fields.items()]
        fields = [field for name, field in keys if part in (name, field.alias)]
        sections = {found for field in fields for found in _sections_in(field.annotation)}
        named = any(get_origin(kind) is dict for field in fields for kind in _kinds(field.annotation))
    return sections, fields, named


def _homes(section: type[BaseModel], key: str, place: str = "the top level of the file", path: str = "") -> list[str]:
    """Return where a key may stand in a section, in words; empty if that is nowhere, or in more than three places."""
    found = []
    for name, field in section.model_fields.items():
        told = field.alias or name
        if told == key:
            found.append(place)
        within = f"{path}.{told}" if path else told
        chosen = any(get_origin(kind) is dict for kind in _kinds(field.annotation))  # the writer of the file names each
        inside = f"{'a column' if told == 'schema' else 'an entry'} under `{within}`" if chosen else f"`{within}`"
        for part in _sections_in(field.annotation):
            found += _homes(part, key, inside, within)
    found = list(dict.fromkeys(found))
    return found if len(found) <= 3 else []


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield a type and all types within it."""
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def _sections_in(annotation: Any) -> set[type[BaseModel]]:
    return {kind for kind in _kinds(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)}


def keys_at_fault(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return the top-level keys of a file that its faults name, in order. Pure."""
    known = {field.alias or name for name, field in model.model_fields.items()}
    found = []
    for fault in error.errors():
        whole = fault["msg"].removeprefix("Value error, ").split("\n")
        paths = [str(fault["loc"][0])] if fault["loc"] else [re.split(r"[.:,]", line, maxsplit=1)[0] for line in whole]
        found += [_meant(fault["loc"], error.errors(), model) if path not in known else path for path in paths]
    return [key for key in dict.fromkeys(found) if key in known]


def _meant(loc: tuple[int | str, ...], faults: Sequence[ErrorDetails], model: type[BaseModel] | None = None) -> str:
    """Return the key that a misspelled one may stand for; "" if it is right in another place.

    It is missing beside it, or a key of its section, or any key of our files.
    """
    written = str(loc[-1])
    missing = [
        str(fault["loc"][-1]) for fault in faults if fault["type"] == "missing" and fault["loc"][:-1] == loc[:-1]
    ]
    sections = _of_kind(_descend(model, _in_file(loc)[:-1])[0] if model else set(), _kind(loc))
    of_section = sorted(key for section in sections for key in _own_keys(section))
    every = _keys(Strict)
    for known in (missing, of_section, [] if written in every else sorted(every)):
        if found := get_close_matches(written, known, n=1, cutoff=0.75):
            return found[0]
    return ""


def _keys(section: type[BaseModel]) -> set[str]:
    """Return every key of every section."""
    return set(_own_keys(section)).union(*(_keys(part) for part in section.__subclasses__()))


def _place(cause: Exception) -> str:
    """Return where a YAML text is wrong and why, in one line."""
    mark, problem = getattr(cause, "problem_mark", None), getattr(cause, "problem", None)
    if not (mark and problem):
        return " ".join(str(cause).split())
    context, begun = getattr(cause, "context", None), getattr(cause, "context_mark", None)
    opened = f" ({context} that begins in line {begun.line + 1})" if context and begun else ""
    return f"line {mark.line + 1}: {problem}{opened}"


def read_yaml(file: Path, error: type[ConfigError] = ConfigError) -> dict[str, Any]:
    """Read a YAML mapping as plain data only; duplicate keys are refused."""
    try:
        data = plain_yaml.load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise error(f"{file} does not exist", "Create it, or name another file.") from cause
    except OSError as cause:
        raise error(f"{file} cannot be read: {cause.strerror}", "Correct its rights, or remove it.") from cause
    except plain_yaml.YamlRefused as cause:
        raise error(
            f"{file}: {cause}", "Correct that line: use each key once, and keep the file within the limits."
        ) from cause
    except (yaml.YAMLError, UnicodeDecodeError) as cause:
        raise error(f"{file} is not valid YAML: {_place(cause)}", "Correct the line that the message names.") from cause
    if not isinstance(data, dict):
        raise error(f"{file} has no mapping at its top level", "Start from the file that the project ships.")
    return data
