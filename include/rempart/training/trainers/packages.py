"""Trainers of other packages: entry points of the group `rempart.trainers`.

An entry point's name is the trainer's name, its value a module. `fit(inputs, target, params, seed)` of the module is
called as a function under include/ is, with what it asks for by name: `run`, `group`, `features`, `task`, `classes`.
`schema(task)` returns the JSON Schema of its parameters by name. `check(params, task)`, if there is one, raises
TrainingError for a wrong parameter; without it, only unknown names are refused.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, PackagePath
from pathlib import Path
from typing import Any

from rempart.errors import RempartError, TrainingError

GROUP = "rempart.trainers"
_NOT_HASHED = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
"""Files that an installer writes about the installation."""


@dataclass(frozen=True)
class Package:
    """A trainer of an installed distribution, and its module's functions."""

    use: str
    distribution: Distribution
    fit: Callable[..., Any]
    schema: Callable[[str], dict[str, Any]]
    check: Callable[[Mapping[str, Any], str], None]

    @property
    def told(self) -> str:
        """Return name and version of the distribution."""
        return f"{self.distribution.name} {self.distribution.version}"


def offers() -> dict[str, tuple[EntryPoint, ...]]:
    """Return the entry points by the trainer's name; more than one where packages offer the same name."""
    return _offers(tuple(sys.path))


@lru_cache(maxsize=4)
def _offers(_: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        found[point.name] = (*found.get(point.name, ()), point)
    return found


def check_names(built_in: Mapping[str, object], use: str) -> None:
    """Raises TrainingError if packages offer the name of a built-in trainer, or `use` more than once."""
    points = offers().get(use, ())
    if points and use in built_in:
        raise TrainingError(
            f"trainer.use: trainer '{use}' is built in, but {_distributions(points)} offers the same name",
            "Uninstall the package, or give its trainer another name in its entry points.",
        )
    if len(points) > 1:
        raise TrainingError(
            f"trainer.use: {len(points)} packages offer a trainer '{use}': {_distributions(points)}",
            "Uninstall all of these packages but one, or give the trainers different names in their entry points.",
        )


def load(use: str) -> Package | None:
    """Return the trainer of that name, or None if no package offers it.

    Raises TrainingError if several do, the module cannot be imported, or lacks a function.
    """
    if not (points := offers().get(use, ())):
        return None
    check_names({}, use)
    (point,) = points
    assert point.dist is not None  # noqa: S101 - it came from a distribution
    told = f"trainer '{use}' of package {point.dist.name} {point.dist.version}"
    try:
        module = importlib.import_module(point.module)
    except ImportError as cause:
        missing = f": no module '{cause.name}'" if cause.name else f": {type(cause).__name__}"
        raise TrainingError(
            f"{told} cannot be imported{missing}",
            "Install the package with its requirements, here and in the trainer's environment or image.",
        ) from cause
    except Exception as cause:  # a stranger's code may raise anything
        raise TrainingError(
            f"{told} cannot be imported: it raised {type(cause).__name__}", "Correct the package, or uninstall it."
        ) from None
    if absent := [name for name in ("fit", "schema") if not callable(getattr(module, name, None))]:
        raise TrainingError(
            f"{told}: module {point.module} has no function '{absent[0]}'",
            "Define fit(inputs, target, params, seed) and schema(task) in it (docs/how-to/add-a-trainer-package.md).",
        )
    return Package(use, point.dist, module.fit, module.schema, getattr(module, "check", _known_names(use, module)))


def _known_names(use: str, module: Any) -> Callable[[Mapping[str, Any], str], None]:
    def check(params: Mapping[str, Any], task: str) -> None:
        known = module.schema(task)
        if unknown := [name for name in params if name not in known]:
            raise TrainingError(
                f"{use} has no parameter '{unknown[0]}' for a {task}",
                f"Use a known parameter: {', '.join(sorted(known))}, leave_out.",
            )

    return check


def checked(package: Package, params: Mapping[str, Any], task: str) -> None:
    """Check parameters by the package. Raises TrainingError, also if its check fails with another error."""
    try:
        package.check(params, task)
    except RempartError:
        raise
    except Exception as cause:
        raise TrainingError(
            f"trainer '{package.use}' of package {package.told}: its check raised {type(cause).__name__}",
            "Correct trainer.params, or the package.",
        ) from None


def digest(package: Package) -> str:
    """Return a hash of the distribution's files, and of the versions of its requirements.

    Raises TrainingError if its code is not among its files, such as of an editable installation, or something that it
    names is not installed.
    """
    files = sorted(package.distribution.files or (), key=str)
    module = Path(sys.modules[package.fit.__module__].__file__ or "").resolve()
    if module not in [Path(str(file.locate())).resolve() for file in files]:
        raise TrainingError(
            f"trainer '{package.use}': the code of package {package.told} is not among its installed files",
            "Install the package as a wheel, not as editable: a job's identity holds a hash of its files.",
        )
    made = hashlib.sha256(f"{package.told}\n".encode())
    for file in files:
        if file.name in _NOT_HASHED or file.suffix == ".pyc" or ".." in file.parts:
            continue
        made.update(str(file).encode() + b"\0" + _digest_of(package, file))
    for name in sorted(_requirements(package.distribution)):
        made.update(f"{name}=={_version(package, name)}\n".encode())
    return made.hexdigest()


def _digest_of(package: Package, file: PackagePath) -> bytes:
    """Return the SHA-256 of a file of a distribution, which may be large. Raises TrainingError if it is gone."""
    try:
        with Path(str(file.locate())).open("rb") as body:
            return hashlib.file_digest(body, "sha256").digest()
    except OSError as cause:
        raise TrainingError(
            f"trainer '{package.use}': package {package.told} lacks its file {file} ({type(cause).__name__})",
            "Install the package again.",
        ) from cause


def _version(package: Package, requirement: str) -> str:
    try:
        return importlib.metadata.version(requirement)
    except importlib.metadata.PackageNotFoundError:
        raise TrainingError(
            f"trainer '{package.use}': package {package.told} requires {requirement}, which is not installed",
            "Install the package with its requirements, here and in the trainer's environment or image.",
        ) from None


def _requirements(distribution: Distribution) -> set[str]:
    """Return the names of the installed distributions that one requires itself, without its extras."""
    from packaging.requirements import Requirement

    told = [Requirement(text) for text in distribution.requires or ()]
    return {each.name for each in told if each.marker is None or each.marker.evaluate({"extra": ""})}


def _distributions(points: tuple[EntryPoint, ...]) -> str:
    return " and ".join(sorted(f"{point.dist.name} {point.dist.version}" for point in points if point.dist))
