"""Read, validate and compare the pipeline files of this project."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from rempart.errors import PipelineError
from rempart.settings import plain_yaml
from rempart.settings.config import project_root
from rempart.settings.expressions import across
from rempart.settings.pipeline import MODEL_KEYS, ModelPipeline, Pipeline, UsedView
from rempart.settings.schema import explain, keys_at_fault, read_yaml
from rempart.settings.sections import Classification


def pipelines_dir() -> Path:
    """Return the folder of the pipeline files."""
    return project_root() / "include" / "pipelines"


Stamp = tuple[int, ...] | None
"""Tells whether a file changed: inode, size and moment of the last change; None if there is no regular file."""


def _stamp(file: Path) -> Stamp:
    try:
        status = file.stat()
    except OSError:  # such as a symbolic link to itself
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _files(folder: Path) -> dict[Path, Stamp]:
    """Return the pipeline files of a folder by name. Editors keep hidden files beside a file that is being edited."""
    return {file: _stamp(file) for file in sorted(folder.glob("*.yaml")) if not file.name.startswith(".")}


def load(file: Path) -> Pipeline:
    """Return one validated pipeline. The file is read again only after it changed.

    Pipelines whose feature views it uses are read from the same folder. Raises PipelineError naming the file, the path
    in it and the remedy.
    """
    return _with_sources(_pipeline(file, _stamp(file)), file.parent)


def parsed(content: Any) -> Pipeline:
    """Return the pipeline of a file's content: a ModelPipeline if it has a key of the model's part.

    Views of other pipelines lack their source. Raises pydantic.ValidationError.
    """
    learns = isinstance(content, Mapping) and not MODEL_KEYS.isdisjoint(content)
    return (ModelPipeline if learns else Pipeline).model_validate(content)


def _pipeline_hint(file: Path) -> str:
    """Return the remedy for a pipeline file that is missing: one with a similar name, or how to make it."""
    known = sorted(path.stem for path in file.parent.glob("*.yaml") if path.is_file())
    if close := get_close_matches(file.stem, known, n=1):
        return f"Did you mean {close[0]}? Else create it: `rempart pipeline new {file.stem}.csv`."
    return f"Pass one of: {', '.join(known[:10]) or '(there is none yet)'}; or `rempart pipeline new {file.stem}.csv`."


@lru_cache(maxsize=1024)
def _pipeline(file: Path, stamp: Stamp) -> Pipeline:
    if stamp is None:
        raise PipelineError(f"{file} does not exist, or is no regular file", _pipeline_hint(file))
    try:
        pipeline = parsed(read_yaml(file, PipelineError))
    except ValidationError as cause:
        anchors = ", ".join(f"#{key}" for key in keys_at_fault(cause, ModelPipeline))
        raise PipelineError(
            f"The pipeline file is not valid:\n{explain(cause, file, ModelPipeline)}",
            f"Correct each line above, then run `rempart pipeline check {file.stem}`. Each key has a line in "
            f"docs/reference/pipeline-file.md{anchors and ' '}{anchors}.",
        ) from cause
    except PipelineError:
        raise
    except Exception as cause:  # a fault of one file must not hide the other pipelines
        raise PipelineError(f"{file} cannot be read: {type(cause).__name__}", _pipeline_hint(file)) from cause
    if pipeline.name != file.stem:
        raise PipelineError(
            f"{file}: name: '{pipeline.name}' differs from the name of the file",
            f"Set `name: {file.stem}`, or rename the file to {pipeline.name}.yaml.",
        )
    return pipeline


def _with_sources(pipeline: Pipeline, folder: Path) -> Pipeline:
    """Return a pipeline whose used views have their source. Raises PipelineError with every fault of these."""
    if not isinstance(pipeline, ModelPipeline) or not (used := pipeline.used_views()):
        return pipeline
    views, faults = dict(pipeline.features), list[str]()
    for name, view in used.items():
        source = _source(pipeline.name, view, folder)
        if isinstance(source, str):
            faults.append(f"features.{name}.from: {source}")
        else:
            faults += (f"features.{name}.{fault}" for fault in _used_faults(pipeline, view, source))
            views[name] = view.of_source(source)
    found = pipeline.model_copy(update={"features": views})
    if faults := faults or [*across.faults(found.expressions, views, found.columns)]:
        file = folder / f"{pipeline.name}.yaml"
        raise PipelineError(
            "The pipeline file is not valid:\n" + "\n".join(f"{file}: {fault}" for fault in faults),
            f"Correct each line above, then run `rempart pipeline check {pipeline.name}`.",
        )
    return found


def _source(user: str, view: UsedView, folder: Path) -> ModelPipeline | str:
    """Return the pipeline whose view is used, or why it cannot be."""
    name, files = view.pipeline, _files(folder)
    if folder / f"{name}.yaml" not in files:
        known = [file.stem for file in files if file.stem != user]
        return f"there is no pipeline '{name}'{_meant(name, known)}; `rempart feature list` shows every view"
    try:
        source = _pipeline(folder / f"{name}.yaml", files[folder / f"{name}.yaml"])
    except PipelineError as error:
        return f"pipeline '{name}' is not valid: {error.what}"
    if not isinstance(source, ModelPipeline):
        return f"pipeline '{name}' has no feature view, since it ends at its snapshot"
    if view.view not in source.features:
        return f"pipeline '{name}' has no view '{view.view}'{_meant(view.view, source.features)}"
    if isinstance(of := source.features[view.view], UsedView):
        return f"'{view.from_}' is itself a view of another pipeline; write `from: {of.from_}`"
    if back := _way_back(user, source, folder):
        return (
            f"'{user}' and '{name}' would wait for each other's features: {' uses '.join([user, *back])}; compute one "
            "of these views in the pipeline that reads it"
        )
    return source


def _way_back(user: str, source: ModelPipeline, folder: Path) -> list[str]:
    """Return the pipelines by which a source uses views of `user`, from the source to it; empty if it does not."""
    ways, seen = [[source.name]], set[str]()
    while ways:
        way = ways.pop()
        if way[-1] == user:
            return way
        if way[-1] not in seen:
            seen.add(way[-1])
            with suppress(PipelineError):  # told where that file is loaded
                found = _pipeline(file := folder / f"{way[-1]}.yaml", _stamp(file))
                if isinstance(found, ModelPipeline):
                    ways += ([*way, view.pipeline] for view in found.used_views().values())
    return []


def _used_faults(pipeline: ModelPipeline, view: UsedView, source: ModelPipeline) -> Iterator[str]:
    """Yield why the rows of a pipeline do not find their values in a view, or need less protection than these."""
    of = source.features[view.view]
    entity = of.by if of.kind == "trailing" else source.key
    for column in entity:
        if column not in view.key:
            yield (
                f"key: it lacks '{column}' of '{source.name}'; write `{column}:` with the column of this pipeline that "
                "holds its value"
            )
    for theirs, own in view.key.items():
        if theirs not in entity:
            yield f"key: '{theirs}' is not in the key of '{view.from_}', {', '.join(entity)}{_meant(theirs, entity)}"
        elif (other := _kind(source, theirs)) != (kind := _kind(pipeline, own)):
            yield f"key.{theirs}: it is {other} in '{source.name}', but '{own}' is {kind}"
    order = get_args(Classification)
    if order.index(pipeline.classification) < order.index(source.classification):
        yield (
            f"from: '{source.name}' is {source.classification}, which is more than {pipeline.classification}; write "
            f"`classification: {source.classification}` in this file, since training sets and models have its values"
        )


def _kind(pipeline: Pipeline, column: str) -> str:
    """Return the type of a column by which values are compared."""
    return {"category": "string"}.get(kind := pipeline.columns[column].type, kind)


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def load_all(
    folder: Path | None = None, *, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, Pipeline | PipelineError]:
    """Return every pipeline, or the `wanted` ones, by file name. The value of an invalid pipeline is its error.

    All pipelines whose prefixes overlap are invalid, because a file would belong to two classifications.
    """
    loaded: dict[str, Pipeline | PipelineError] = {}
    files = _files(folder or pipelines_dir())
    prefixes = _prefixes(files)
    overlapping = overlaps(prefixes)
    for file, stamp in files.items():
        if not wanted(file.stem):
            continue
        try:
            loaded[file.stem] = _with_sources(_pipeline(file, stamp), file.parent)
            check_prefix(file, prefixes, overlapping)
        except PipelineError as error:
            loaded[file.stem] = error
    return loaded


def _prefixes(files: Mapping[Path, Stamp]) -> dict[str, str]:
    """Return the prefix of each pipeline file by its stem, even if the rest of the file is invalid."""
    found = {file.stem: _prefix(file, stamp) for file, stamp in files.items() if stamp}
    return {name: prefix for name, prefix in found.items() if prefix is not None}


@lru_cache(maxsize=1024)
def _prefix(file: Path, stamp: Stamp) -> str | None:
    try:
        return plain_yaml.text_at(file.read_text(encoding="utf-8"), "source", "prefix")
    except (OSError, UnicodeDecodeError, yaml.YAMLError):  # told where that file is loaded
        return None


def overlaps(prefixes: Mapping[str, str]) -> dict[str, set[str]]:
    """Return for each pipeline the others whose prefix equals, contains or lies inside its own; without the rest."""
    overlapping: dict[str, set[str]] = {}
    ordered = sorted(prefixes, key=lambda name: prefixes[name])  # what lies inside a prefix follows it at once
    for position, name in enumerate(ordered):
        for other in ordered[position + 1 :]:
            if not prefixes[other].startswith(prefixes[name]):
                break
            overlapping.setdefault(name, set()).add(other)
            overlapping.setdefault(other, set()).add(name)
    return overlapping


def check_prefix(file: Path, prefixes: Mapping[str, str], overlapping: Mapping[str, set[str]]) -> None:
    """Raise PipelineError if another pipeline shares, contains or lies inside this prefix."""
    if others := overlapping.get(file.stem):
        clash = ", ".join(f"'{prefixes[name]}' of pipeline '{name}'" for name in sorted(others)[:5])
        raise PipelineError(
            f"{file}: source.prefix: '{prefixes[file.stem]}' overlaps with {clash}: a delivery would belong to both",
            "Give each pipeline its own prefix, not inside another pipeline's prefix. Until then none of these "
            "pipelines runs.",
        )


def names() -> list[str]:
    """Return the names of all pipeline files, valid or not."""
    return [file.stem for file in _files(pipelines_dir())]


def text_of(name: str) -> str:
    """Return the text of a pipeline file that `named` accepts."""
    return (pipelines_dir() / f"{name}.yaml").read_text(encoding="utf-8")


def named(name: str) -> Pipeline:
    """Return the pipeline of that name. Raises PipelineError."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise PipelineError(
            f"'{name[:60]}' is not a valid name for a pipeline", "Use lower case letters, digits and _."
        )
    file = pipelines_dir() / f"{name}.yaml"
    pipeline = load(file)
    prefixes = _prefixes(_files(pipelines_dir()))
    check_prefix(file, prefixes, overlaps(prefixes))
    return pipeline


def with_model(pipeline: Pipeline) -> ModelPipeline:
    """Return the pipeline as one with a model. Raises PipelineError if it ends at its snapshot."""
    if isinstance(pipeline, ModelPipeline):
        return pipeline
    raise PipelineError(
        f"Pipeline '{pipeline.name}' has no model: it ends at its snapshot",
        f"Declare features, prediction, holdout and gate in include/pipelines/{pipeline.name}.yaml, or name a "
        "pipeline that has them.",
    )


def removed_dir() -> Path:
    """Return the folder of the files of removed pipelines: erasures in their backups still need key and schema."""
    return pipelines_dir() / "removed"


def named_or_removed(name: str) -> Pipeline:
    """Return the pipeline of that name, also if it was removed; then its used views lack their source.

    Raises PipelineError.
    """
    file = removed_dir() / f"{name}.yaml"
    if re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) and file.is_file() and name not in names():
        return _pipeline(file, _stamp(file))
    return named(name)


def labelled_by(loaded: Mapping[str, Pipeline | PipelineError]) -> dict[str, str]:
    """Return the pipeline that delivers the labels of each pipeline that takes them from another."""
    models = (found for found in loaded.values() if isinstance(found, ModelPipeline))
    return {model.name: model.prediction.from_.pipeline for model in models if model.prediction.from_}


def sources_of(pipeline: Pipeline) -> list[str]:
    """Return the names of the pipelines whose feature views a pipeline uses, in order."""
    used = pipeline.used_views().values() if isinstance(pipeline, ModelPipeline) else ()
    return sorted({view.pipeline for view in used})


def changed_at() -> datetime:
    """Return when a file of which Airflow makes the pipelines' DAGs was changed last, by this machine's clock (UTC)."""
    root, newest = project_root(), 0.0
    for file in (root / "rempart.yaml", *(root / "dags").rglob("*"), *(root / "include").rglob("*")):
        if "__pycache__" not in file.parts:
            with suppress(OSError):  # such as a file that is deleted meanwhile
                newest = max(newest, file.lstat().st_ctime)
    return datetime.fromtimestamp(newest, UTC)


def watched() -> list[str]:
    """Return the valid pipelines that start when a file lands."""
    return [name for name, found in load_all().items() if isinstance(found, Pipeline) and found.schedules.on_delivery]
