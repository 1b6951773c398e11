"""Store checkpoints of a job at its site, delete old ones, and find the checkpoint to continue from.

Bodies are numpy archives (npz) of plain arrays, never pickle, named by step and content under `checkpoint/`. The
manifest `checkpoint.json` commits them: it names the newest and the previous checkpoint with their SHA-256. A body
without an entry does not count, and the next attempt deletes it.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rempart import canonical_json
from rempart.errors import IntegrityError, ObjectMissing, SiteError, TrainingError
from rempart.sites.port import Site
from rempart.training.job import JobSpec

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]

MANIFEST, FOLDER = "checkpoint.json", "checkpoint/"
KEEP = 2
"""Number of kept checkpoints: the newest, and one to fall back to."""
MOST_VERSIONS = 10
"""A body is written once, or again by an attempt that came to the same step with the same arrays."""


@dataclass(frozen=True)
class StoredCheckpoint:
    """One committed checkpoint: the trainer's step, and the SHA-256 of its body."""

    step: int
    sha256: str

    @property
    def name(self) -> str:
        return f"{FOLDER}{self.step}-{self.sha256[:12]}.npz"


@dataclass(frozen=True)
class Manifest:
    """Committed checkpoints, newest first; `done`: steps computed by all attempts up to the newest."""

    job_id: str
    done: int = 0
    kept: tuple[StoredCheckpoint, ...] = ()

    def to_json(self) -> bytes:
        return canonical_json.encode({"version": 1, **asdict(self)})


def is_checkpoint(key: str) -> bool:
    """Return whether an object is part of a checkpoint of some job."""
    return re.search(r"(^|/)jobs/[0-9a-f]{16}/checkpoint(/|\.json$)", key) is not None


def committed(manifest: Manifest, newest: StoredCheckpoint, done: int) -> Manifest:
    """Return the manifest after `newest` is stored. The same step replaces its former checkpoint."""
    older = [checkpoint for checkpoint in manifest.kept if checkpoint != newest]
    return Manifest(manifest.job_id, done, (newest, *older)[:KEEP])


def without(manifest: Manifest, unusable: StoredCheckpoint) -> Manifest:
    """Return the manifest without a corrupt or missing checkpoint."""
    return Manifest(
        manifest.job_id, manifest.done, tuple(checkpoint for checkpoint in manifest.kept if checkpoint != unusable)
    )


def superfluous(manifest: Manifest, present: Iterable[str]) -> list[str]:
    """Return the objects under `checkpoint/` that the manifest does not name."""
    named = {checkpoint.name for checkpoint in manifest.kept}
    return sorted(name for name in present if name not in named)


def parse_manifest(body: bytes, job_id: str) -> Manifest | None:
    """Return a manifest from JSON, or None if malformed. Raises TrainingError if it belongs to another job."""
    try:
        data = canonical_json.read(body)
        kept = tuple(
            StoredCheckpoint(int(checkpoint["step"]), str(checkpoint["sha256"])) for checkpoint in data["kept"]
        )
        manifest = Manifest(str(data["job_id"]), int(data["done"]), kept)
    except (ValueError, KeyError, TypeError):
        return None
    if manifest.job_id != job_id:
        raise TrainingError(
            f"read the checkpoint of job {job_id}: it belongs to job {manifest.job_id[:40]}",
            f"Delete the job's {MANIFEST} and run the training again, from the start.",
        )
    # a name is made from it: nothing but a hash may stand there
    well = all(checkpoint.step >= 0 and re.fullmatch(r"[0-9a-f]{64}", checkpoint.sha256) for checkpoint in kept)
    return manifest if well and data.get("version") == 1 and manifest.done >= 0 else None


def pack(arrays: Arrays) -> bytes:
    """Pack arrays as npz: equal arrays give equal bytes. Raises TrainingError for an array that needs pickle."""
    import numpy as np

    buffer = io.BytesIO()
    # as np.savez does, which takes no array named `file`, and would pickle
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            plain = np.asarray(array)
            if plain.dtype.hasobject:
                raise TrainingError(
                    f"store a checkpoint: its array '{name}' contains Python objects",
                    "Pass arrays of numbers, and text as bytes (uint8).",
                )
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, plain, allow_pickle=False)
    return buffer.getvalue()


def unpack(body: bytes) -> dict[str, np.ndarray[Any, Any]] | None:
    """Return the arrays of an npz, or None if it is invalid or needs pickle."""
    import numpy as np

    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile):
        return None


class Checkpoints:
    """Checkpoints of one job. Every call is idempotent. Raises the site's errors, and TrainingError."""

    def __init__(self, site: Site, spec: JobSpec, progress: Callable[..., None]) -> None:
        self._site, self._spec, self._progress = site, spec, progress
        self._bucket = spec.output.bucket
        self.manifest = Manifest(spec.job_id)

    def newest(self) -> tuple[int, dict[str, np.ndarray[Any, Any]]] | None:
        """Return step and arrays of the newest usable checkpoint, or None. Report unusable ones."""
        try:
            found = self._site.read(self._bucket, self._spec.key(MANIFEST))
        except ObjectMissing:
            found = None
        if found is not None:
            read = parse_manifest(found, self._spec.job_id)
            if read is None:
                self._progress("checkpoint not usable", name=MANIFEST)
            self.manifest = read or self.manifest
        for name in superfluous(self.manifest, self._present()):
            self._delete(name)
        for kept in self.manifest.kept:
            arrays = None
            with suppress(ObjectMissing, IntegrityError):
                arrays = unpack(self._site.read(self._bucket, self._spec.key(kept.name), sha256=kept.sha256))
            if arrays is not None:
                return kept.step, arrays
            self._progress("checkpoint not usable", name=kept.name, step=kept.step)
            self.manifest = without(self.manifest, kept)
        return None

    def save(self, step: int, arrays: Arrays, done: int) -> None:
        """Store the body, commit it, then delete superseded checkpoints."""
        body = pack(arrays)
        kept = StoredCheckpoint(step, hashlib.sha256(body).hexdigest())
        self._site.write(self._bucket, self._spec.key(kept.name), body)
        before, manifest = self.manifest, committed(self.manifest, kept, done)
        self._site.write(self._bucket, self._spec.key(MANIFEST), manifest.to_json(), content_type="application/json")
        self.manifest = manifest
        for name in superfluous(manifest, [checkpoint.name for checkpoint in before.kept]):
            self._delete(name)

    def clear(self) -> None:
        """Delete every checkpoint: the job has its result."""
        with self._told(MANIFEST), suppress(ObjectMissing):
            self._site.head(self._bucket, self._spec.key(MANIFEST))  # else a marker would be left for nothing
            self._site.delete(self._bucket, self._spec.key(MANIFEST))
        for name in self._present():
            self._delete(name)

    def _present(self) -> list[str]:
        prefix = self._spec.key("")
        return [info.key.removeprefix(prefix) for info in self._site.list(self._bucket, self._spec.key(FOLDER))]

    def _delete(self, name: str) -> None:
        """Delete every version if the bucket keeps them: learnt personal data must not stay."""
        key = self._spec.key(name)
        with self._told(name), suppress(ObjectMissing):
            for _ in range(MOST_VERSIONS):
                version = self._site.head(self._bucket, key).version_id
                self._site.delete(self._bucket, key, version_id=version)

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Report what cannot be deleted; training continues, and the next attempt tries again."""
        try:
            yield
        except SiteError as error:
            self._progress("old checkpoint not deleted", name=name, error=error.what)
