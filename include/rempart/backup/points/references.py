"""Find references of a restore point's dumps to missing objects. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from rempart.backup.databases.not_held import PROXIED
from rempart.backup.points.erasures import standing, successors
from rempart.backup.points.points import HeldObject

BELOW = "mlflow/"
"""The artifacts destination of MLflow's server in the bucket of artifacts."""


@dataclass(frozen=True)
class Reference:
    """`what` needs an object: exactly `key`, with this SHA-256 if known, or anything below a `key` ending in /.

    `bucket` is the logical name, or None outside of the platform's buckets.
    """

    what: str
    bucket: str | None
    key: str
    sha256: str | None = None

    def __str__(self) -> str:
        where = self.key if self.bucket is None else f"{self.bucket}/{self.key}"
        return f"{self.what}: {where}"


def of_models(located: Iterable[tuple[str, str, str]], logical: Mapping[str, str]) -> Iterator[Reference]:
    """Return what the registry's versions (name, version, artifact URI) need; `logical` maps physical to logical
    buckets.
    """
    for name, version, uri in located:
        what, parts = f"model {name} version {version}", urlsplit(uri)
        path = parts.path.strip("/")
        if parts.scheme == PROXIED:
            yield Reference(what, "artifacts", f"{BELOW}{path}/")
        elif parts.scheme == "s3" and parts.netloc in logical:
            yield Reference(what, logical[parts.netloc], f"{path}/")
        else:
            yield Reference(what, None, uri)


def of_candidates(
    records: Iterable[tuple[str, Mapping[str, Any]]],
    live: Iterable[tuple[str, str]],
    logical: Mapping[str, str],
    erasures: Iterable[Mapping[str, Any]] = (),
) -> Iterator[Reference]:
    """Return training sets and outputs in the evidence of each live model version (name, version).

    The newest record of a version counts. `erasures`: evidence of rewritten training sets.
    """
    rewritten = successors(erasures)
    newest = {(name, str(body.get("version"))): body for name, body in records}
    for name, version in sorted(set(live) & newest.keys()):
        body = newest[name, version]
        dataset, what = body["dataset"], f"model {name} version {version}"
        bucket = logical.get(str(dataset["bucket"]))
        for part in (dataset, dataset["held_out"]):
            stands = standing(rewritten, str(part["bucket"]), str(part["key"]), str(part["sha256"]))
            if stands:  # every row of it may have been erased
                yield Reference(f"training set of {what}", bucket, *stands)
        for key, sha256 in sorted(body["outputs"].items()):
            yield Reference(f"job of {what}", "artifacts", str(key), str(sha256))


def dangling(references: Iterable[Reference], held_objects: Sequence[HeldObject]) -> tuple[str, ...]:
    """Return references without a held object, in words."""
    objects = {(obj.bucket, obj.key): obj.sha256 for obj in held_objects}
    folders = {(bucket, key[: end + 1]) for bucket, key in objects for end, sign in enumerate(key) if sign == "/"}
    missing = []
    for reference in references:
        if reference.key.endswith("/"):
            answered = (reference.bucket, reference.key) in folders
        else:
            found = objects.get((reference.bucket or "", reference.key))
            answered = found is not None and reference.sha256 in (None, found)
        if not answered:
            missing.append(str(reference))
    return tuple(missing)
