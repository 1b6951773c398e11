"""The bytes of a version's model, by the SHA-256 in its evidence: from the disk, else from a site.

Neither Airflow nor MLflow is asked. A training job stores model.onnx at the active site before MLflow has it, and
replication brings it to the other sites.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from rempart import private_files
from rempart.errors import ModelRefused, PlacementDenied, ServingError, SiteError
from rempart.models.onnx_format import MODEL_FILE
from rempart.sites.port import Site

logger = logging.getLogger(__name__)


def body_of(record: Mapping[str, Any], sites: Iterable[Callable[[], Site]], bucket: str, folder: Path) -> bytes:
    """Return model.onnx of a `candidate` evidence body, and keep it in `folder`. The sites are tried in order.

    Raises ModelRefused if no site has the recorded bytes, SiteError or PlacementDenied of the last site that failed.
    """
    digest = str(record["files"][MODEL_FILE])
    if (kept := _kept(folder, digest)) is not None:
        return kept
    where = f"read {MODEL_FILE} of model {record['name']} version {record['version']}"
    keys = [key for key, recorded in record["outputs"].items() if recorded == digest and key.endswith(f"/{MODEL_FILE}")]
    if not keys:
        raise ModelRefused(
            f"{where}: its evidence names no object with the recorded SHA-256", "Train and validate another candidate."
        )
    failed: SiteError | PlacementDenied | None = None
    for opened in sites:
        try:
            body = opened().read(bucket, keys[0], sha256=digest)
        except (SiteError, PlacementDenied) as error:
            logger.warning("%s: %s", where, error.what)
            failed = error
            continue
        write_private(folder / f"{digest}.onnx", body)
        return body
    raise failed or ModelRefused(f"{where}: no site is configured", "Declare a site in rempart.yaml.")


def _kept(folder: Path, digest: str) -> bytes | None:
    try:
        body = (folder / f"{digest}.onnx").read_bytes()
    except OSError:
        return None
    return body if hashlib.sha256(body).hexdigest() == digest else None


def forget_others(folder: Path, digests: Collection[str]) -> None:
    """Delete the models of other versions from the disk."""
    for file in folder.glob("*.onnx"):
        if file.stem not in digests:
            file.unlink(missing_ok=True)


def write_private(file: Path, body: bytes) -> None:
    """Write a file that only this user may read; it appears when it is complete. Raises ServingError."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_files.write(file, body)
    except OSError as cause:
        raise ServingError(
            f"write {file}: {cause.strerror or type(cause).__name__}", "Make space on the disk, or correct its rights."
        ) from cause
