"""Write a pipeline into an order, and read it there: a job has no pipeline files. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import yaml
from pydantic import ValidationError

from rempart.errors import SparkError
from rempart.settings import plain_yaml
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.pipelines import parsed

_ASIDE = frozenset({"description", "owner", "engine", "spark", "schedules"})
"""Keys of a pipeline file that change nothing in the objects of a job."""


def definition(pipeline: Pipeline) -> str:
    """Return the definition of a pipeline for a job, as YAML: the keys of its file, or their replacements in a run."""
    given = pipeline.model_dump(mode="python", by_alias=True, exclude_unset=True)
    plain = _plain({name: value for name, value in given.items() if name not in _ASIDE})
    return yaml.safe_dump(plain, sort_keys=False)  # the order of moments counts, and a rule may name a day


def defined(definitions: Mapping[str, str], name: str) -> Pipeline:
    """Return a pipeline of an order; its views of other pipelines have their source. Raises SparkError."""
    try:
        pipeline = parsed(plain_yaml.load(definitions[name]))
    except KeyError:
        raise SparkError(f"read the order: it does not define pipeline '{name}'", _HINT) from None
    except (ValidationError, ValueError, yaml.YAMLError):  # it quotes the file
        raise SparkError(f"read the order: its definition of pipeline '{name}' is not valid", _HINT) from None
    if not isinstance(pipeline, ModelPipeline) or not (used := pipeline.used_views()):
        return pipeline
    views = dict(pipeline.features)
    for view_name, view in used.items():
        source = defined(definitions, view.pipeline)
        if isinstance(source, ModelPipeline):
            views[view_name] = view.of_source(source)
    return pipeline.model_copy(update={"features": views})


_HINT = "Order the job by the version of Rempart that runs it: `make setup`, then `make setup-spark`."


def _plain(value: Any) -> Any:
    """Return a value as a pipeline file writes it."""
    match value:
        case Mapping():
            return {str(name): _plain(each) for name, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(each) for each in value]
        case timedelta():
            return f"{int(value.total_seconds())}s"
        case _:
            return value
