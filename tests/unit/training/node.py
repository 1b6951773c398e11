"""Runs in .venv-trainer: one node of a job, on a site in a folder; MLflow is not asked.

.venv-trainer/bin/python node.py FOLDER --spec FILE

Variables: DISTURBED_NODE, DISTURBED_AT and DISTURBED_BY send the process of one rank a signal after a step;
OF_PARENT sends it to the process that started those of its node;
CORRUPT_NODE reads a training set that is not the one on record.
"""

import hashlib
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from rempart.errors import IntegrityError, ObjectMissing
from rempart.sites.port import ObjectInfo
from rempart.training import entrypoint, experiment
from rempart.training.attempts import process_group, progress

RANK = os.environ.get("PET_NODE_RANK", "0")


class FolderSite:
    """What a job needs of a site, as files that several processes see."""

    def __init__(self, folder: Path) -> None:
        self.name, self._folder = "primary", folder

    def _info(self, bucket, file):
        key = file.relative_to(self._folder / bucket).as_posix()
        return ObjectInfo(key, file.stat().st_size, datetime.now(UTC))

    def list(self, bucket, prefix=""):
        files = sorted(file for file in (self._folder / bucket).rglob("*") if file.is_file())
        return iter([info for info in (self._info(bucket, file) for file in files) if info.key.startswith(prefix)])

    def head(self, bucket, key):
        if not (file := self._folder / bucket / key).is_file():
            raise ObjectMissing(f"{key}: not there", "-")
        return self._info(bucket, file)

    def read(self, bucket, key, *, version_id=None, sha256=None):
        self.head(bucket, key)
        body = (self._folder / bucket / key).read_bytes()
        if os.environ.get("CORRUPT_NODE") == RANK and key.endswith(".parquet"):
            body = b"something else"
        if sha256 and hashlib.sha256(body).hexdigest() != sha256:
            raise IntegrityError(f"{key}: SHA-256 differs", "-")
        return body

    def write(self, bucket, key, body, *, metadata=None, content_type=""):
        assert RANK == "0", "only the first node writes"
        file = self._folder / bucket / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_name(f"{file.name}.new").write_bytes(body)
        file.with_name(f"{file.name}.new").replace(file)
        return self._info(bucket, file)

    def delete(self, bucket, key, *, version_id=None):
        assert RANK == "0", "only the first node deletes"
        (self._folder / bucket / key).unlink(missing_ok=True)


def log(tracking, spec, features, metrics, files):
    return experiment.Logged("run", "m-1", {name: hashlib.sha256(body).hexdigest() for name, body in files.items()})


def disturb(run: type[progress.TrainingRun]) -> None:
    at, number = int(os.environ["DISTURBED_AT"]), int(os.environ["DISTURBED_BY"])
    undisturbed = run.checkpoint

    def checkpoint(self, step, arrays):
        if step == at:
            os.kill(os.getppid() if "OF_PARENT" in os.environ else os.getpid(), number)
        undisturbed(self, step, arrays)

    run.checkpoint = checkpoint


if __name__ == "__main__":
    site = FolderSite(Path(sys.argv.pop(1)))
    entrypoint._site_of = lambda spec, connections: lambda place: site
    experiment.log = log
    process_group.PEER_SECONDS = float(os.environ.get("PEER_SECONDS", 60))
    process_group.RENDEZVOUS_SECONDS = float(os.environ.get("RENDEZVOUS_SECONDS", 120))
    if os.environ.get("DISTURBED_NODE") == RANK:
        disturb(progress.TrainingRun)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    sys.exit(entrypoint.main())
