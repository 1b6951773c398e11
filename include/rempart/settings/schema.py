"""Shared parts of our YAML files: strict sections, durations, error messages with their path in the file."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from rempart.errors import ConfigError
from rempart.settings import plain_yaml

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_duration(value: object) -> timedelta:
    """Parse `90d`, `15m` or `1h` as a timedelta. Raises ValueError for anything else."""
    if isinstance(value, str) and (matched := re.fullmatch(r"(\d+)\s*([smhdw])", value)):
        return timedelta(seconds=int(matched[1]) * _UNITS[matched[2]])
    if isinstance(value, timedelta):
        return value
    raise ValueError("write a duration as a number and a unit: 30s, 15m, 1h, 90d or 8w")


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


class Strict(BaseModel):
    """A section of a YAML file: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def explain(error: ValidationError, file: Path) -> str:
    """Return one line per fault: the file, the path in it, the error."""
    lines = []
    for fault in error.errors():
        # pydantic adds the tag of a discriminated union to the path; a reader of the file does not know it
        path = ".".join(str(part) for part in fault["loc"]) or "(whole file)"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown key: remove it, or correct its spelling"
        elif fault["type"] == "missing":
            message = "required key is missing: add it"
        lines.append(f"{file}: {path}: {message}")
    return "\n".join(lines)


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
        raise error(f"{file} is not valid YAML: {cause}", "Correct the line that the message names.") from cause
    if not isinstance(data, dict):
        raise error(f"{file} has no mapping at its top level", "Start from the file that the project ships.")
    return data
