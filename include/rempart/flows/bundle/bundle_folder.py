"""Write a bundle to a folder that is carried by hand: the bundle of the backup site with images, SBOMs and the sample.

The same program opens it and verifies the same signature. No server needs to run: only the key is taken from the
platform, so the ledger has no evidence of it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from rempart.backup.bundle import bundle, open_bundle
from rempart.backup.bundle.bundle import Index
from rempart.backup.databases import restic
from rempart.counts import counted, size
from rempart.deployment.compose import images as engine
from rempart.errors import BackupError, ConnectionMissing
from rempart.flows.bundle import bundle_contents
from rempart.flows.bundle.bundle import ARCHIVE, PROGRAM, contents_of
from rempart.flows.governance.audit import bill_of_lock
from rempart.flows.shared.platform import Platform
from rempart.ledger import keys
from rempart.ledger.keys import Signer, to_pem
from rempart.settings import config as configuration

logger = logging.getLogger(__name__)

SAMPLE = ("data/README.md", "data/hotel_bookings.csv.gz")
"""Public data that the demo reads: the only part of `data` in the bundle."""
OPENER = Path(open_bundle.__file__).name


def write(platform: Platform, folder: Path, *, wheels: Path | None = None, images: bool = True) -> Index:
    """Write the running release to a folder, signed. The index comes last, so an interrupted bundle is invalid.

    New wheels are fetched into `wheels`. `images` adds every built image of docker-compose.yml. The public key goes
    next to the folder, not into it. Raises BackupError, StackError, ConnectionMissing.
    """
    root = configuration.project_root().resolve()
    files = bundle_contents.project_files(root) | {name: root / name for name in SAMPLE if (root / name).is_file()}
    in_containers = configuration.read_env_file(configuration.var_dir() / "compose" / "secrets.env")
    signer = _signer(platform.signer, in_containers)
    for secrets in (bundle_contents.variables(), in_containers):
        bundle_contents.refuse_secrets(files, secrets)
    program = restic.find_program()
    contents = contents_of(root, files, program)
    _empty(folder)
    references = engine.references(root) if images else ()
    bundle_contents.archive(files, folder / ARCHIVE)
    shutil.copy(program, folder / PROGRAM)
    shutil.copy(open_bundle.__file__, folder / OPENER)
    fetched = bundle_contents.wheels(root, wheels or configuration.var_dir() / "bundle" / "wheels")
    for name, file in fetched.items():
        shutil.copy(file, folder / "wheels" / name)
    (folder / "sbom" / "rempart.cdx.json").write_text(bill_of_lock(root), encoding="utf-8")
    if references:
        for reference in references:
            name = reference.rpartition("/")[2].partition(":")[0]
            (folder / "sbom" / f"{name}.cdx.json").write_text(engine.bill(reference), encoding="utf-8")
        logger.info("packing %d images", len(references))
        engine.save(references, folder / open_bundle.IMAGES)
    held = {
        file.relative_to(folder).as_posix(): bundle_contents.held(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    index = Index(platform.clock(), contents, held, bundle_contents.ENTRY, signer.id, references)
    body = bundle.encode(index, signer)
    (folder / bundle.key_of(index, body)).write_bytes(body)
    _public_key(folder).write_text(to_pem(signer.public), encoding="ascii")
    return index


def lines(folder: Path, index: Index) -> list[str]:
    """Summary of a written folder, for a person."""
    return [
        f"{folder}: {counted(len(index.files), 'file')}, {size(index.bytes)}, signed by key {index.key}",
        f"{_public_key(folder)}: bring it by another way; {OPENER} has SHA-256 {index.files[OPENER].sha256}",
    ]


def _public_key(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.public.pem")


def _signer(own: Callable[[], Signer], in_containers: Mapping[str, str]) -> Signer:
    """Return the ledger's key: that of the running platform, else the one that `rempart stack init` prepared."""
    try:
        return own()
    except ConnectionMissing:
        variable = f"AIRFLOW_CONN_{keys.CONNECTION.upper()}"
        if variable not in in_containers:
            raise
        return keys.from_connection(configuration.parse_connection(keys.CONNECTION, in_containers[variable]))


def _empty(folder: Path) -> None:
    """Return an empty folder after removing an earlier bundle. Raises BackupError if it holds anything else."""
    if folder.exists() and not (folder / OPENER).is_file() and any(folder.iterdir()):
        raise BackupError(
            f"{folder} holds files that are no bundle", "Choose a folder that is empty or does not exist."
        )
    shutil.rmtree(folder, ignore_errors=True)
    for inside in (folder / "wheels", folder / "sbom", folder / open_bundle.FOLDER):
        inside.mkdir(parents=True)
