"""Use restic repositories at a site. Each has its own password, and the command `restic` can read it.

No secret appears on a command line: restic gets the password and the site's keys by its environment, which contains no
other secret of the platform.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

from rempart.backup.databases.processes import Messages, ProcessResult, Watch, ending, pour, start
from rempart.backup.databases.restic_answers import (
    Content,
    ResticSnapshot,
    bytes_done,
    command_failed,
    error_of,
    plain_error,
    read_snapshots,
    read_summary,
    version,
)
from rempart.errors import BackupError, RempartError, SiteUnavailable
from rempart.settings.config import Connection
from rempart.sites.spool import spool_folder

OLDEST = (0, 17, 1)
"""Oldest supported restic: its exit status distinguishes a missing (10), locked (11) or differently keyed (12)
repository.
"""
HOST = "rempart"
"""Stands in each snapshot in place of the machine's name: restic is then the same on whichever machine it runs."""
STALL_SECONDS = 300.0
"""Seconds without a moved byte after which a dump or a restore is ended."""
PATIENCE_SECONDS = 2 * 3600.0
"""Seconds after which a command without progress (check, forget, prune) is ended."""
ANSWER_SECONDS = 180.0
"""Seconds after which a command on a few small objects is ended: restic itself would retry for 15 minutes."""
MAX_ANSWER = 64 << 20
"""Bytes of an answer at most: some 80,000 snapshots."""
_LOCK_WAIT = "2m"
_MESSAGES_ASIDE = ("/bin/sh", "-c", 'exec "$@" 2> "$0"')
"""Shell command that redirects a command's messages to a file, the first argument. restic drops the messages that it
has not read when the command ends.
"""
_INHERITED = ("PATH", "LANG", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@cache
def _version_of(program: Path, modified: float) -> tuple[int, ...]:
    with ending(start([program, "version"], {"PATH": os.environ.get("PATH", "")})) as process:
        lines = Messages(process.stdout).end()
    return version(lines[0] if lines else "")


def find_program(path: str | None = None, directory: Path | None = None) -> Path:
    """Return restic from PATH, else the one that `make setup` unpacked, if recent enough. Raises BackupError."""
    tried = []
    for name in (shutil.which("restic", path=path), (directory or Path(sys.prefix)) / "tools" / "bin" / "restic"):
        if name is None or not (program := Path(name)).is_file():
            continue
        if (found := _version_of(program, program.stat().st_mtime)) >= OLDEST:
            return program
        tried.append(f"{program} has version {'.'.join(map(str, found)) or 'unknown'}")
    wanted = ".".join(map(str, OLDEST))
    raise BackupError(
        f"find restic {wanted} or later: {'; '.join(tried) or 'it is not on PATH, and setup unpacked none'}",
        "On Debian 13 and later run `apt-get install restic`, or `make setup`. Elsewhere put restic's own "
        "release on PATH.",
    )


@dataclass(frozen=True)
class Repository:
    """One restic repository at a site. The caller has the policy's permission for the site.

    `site` is its name for messages. Restic's cache is of one call, and removed with it. Errors of every method:
    SiteUnavailable, SiteError, BackupError, and its subclasses RepositoryMissing, RepositoryRefused (another password)
    and RepositoryBusy.
    """

    site: str
    connection: Connection
    region: str
    bucket: str
    prefix: str
    password: str = field(repr=False)
    program: Path = field(default_factory=find_program)

    @property
    def where(self) -> str:
        return f"restic repository {self.bucket}/{self.prefix} at site '{self.site}'"

    def environment(self, scratch: Path, ours: Mapping[str, str]) -> dict[str, str]:
        """Return restic's complete environment. Never log it. `ours` is this process's environment."""
        extra = self.connection.extra
        settings = {name: ours[name] for name in (*_INHERITED, *_CERTIFICATES) if name in ours}
        settings |= {
            "HOME": str(scratch),
            "TMPDIR": str(scratch),
            "TZ": "UTC",
            "RESTIC_CACHE_DIR": str(scratch / "cache"),
            "RESTIC_PROGRESS_FPS": "1",
            "RESTIC_REPOSITORY": f"s3:{str(extra.get('endpoint_url', '')).rstrip('/')}/{self.bucket}/{self.prefix}",
            "RESTIC_PASSWORD": self.password,
            "AWS_ACCESS_KEY_ID": self.connection.login,
            "AWS_SECRET_ACCESS_KEY": self.connection.password,
            "AWS_DEFAULT_REGION": str(extra.get("region_name", self.region)),
        }
        if token := extra.get("aws_session_token"):
            settings["AWS_SESSION_TOKEN"] = str(token)
        if authority := extra.get("ca_bundle") or ours.get("AWS_CA_BUNDLE"):
            settings["RESTIC_CACERT"] = str(authority)
        return settings

    def _command(self, arguments: Sequence[str]) -> list[str]:
        style = "path" if self.connection.extra.get("addressing_style", "path") == "path" else "dns"
        common = ["--json", f"--retry-lock={_LOCK_WAIT}", f"--option=s3.bucket-lookup={style}"]
        return [str(self.program), *common, "--stuck-request-timeout=1m", *arguments]

    def _run(
        self,
        arguments: Sequence[str],
        *,
        seconds: float = PATIENCE_SECONDS,
        progress: Callable[[str], int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> ProcessResult:
        """Run restic to its end. `progress` parses a line; without it `seconds` limits the whole run."""
        with (
            spool_folder() as scratch,
            ending(
                start(self._command(arguments), {**(environment or {}), **self.environment(scratch, os.environ)})
            ) as process,
            Watch(process, seconds).watching() as watch,
        ):
            furthest = 0

            def heed(line: str) -> None:
                nonlocal furthest
                if progress and (reached := progress(line)) > furthest:
                    furthest = reached
                    watch.progress()

            stderr, told = Messages(process.stderr), Messages(process.stdout, heed, longest=MAX_ANSWER, answer=True)
            lines, messages = told.end(), "\n".join(stderr.end())
            status = process.wait()
        self._judge_stall(watch, arguments[0], messages)
        if told.too_long:
            raise BackupError(
                f"restic {arguments[0]}, {self.where}: the answer is longer than {MAX_ANSWER >> 20} MiB",
                "Run `restic snapshots` there and find out who made so many snapshots. Forget those that no "
                "restore point needs.",
            )
        return ProcessResult(status, lines, messages)

    def _judge_stall(self, watch: Watch, doing: str, messages: str) -> None:
        if watch.stalled:
            raise SiteUnavailable(
                f"restic {doing}, {self.where}: it was ended because it made no progress for too long "
                f"({plain_error(messages)})",
                "Check that the site and PostgreSQL answer (`rempart status`), then run again.",
            )

    def _need(self, arguments: Sequence[str], seconds: float = PATIENCE_SECONDS) -> ProcessResult:
        ended = self._run(arguments, seconds=seconds)
        if ended.status != 0:
            raise error_of(arguments[0], self.where, ended)
        return ended

    def init_if_missing(self) -> bool:
        """Make the repository unless it exists and opens. Return whether this call made it.

        Removes locks of dead runs, which would stop the next backup.
        """
        known = self._run(["cat", "config"], seconds=ANSWER_SECONDS)
        if known.status == 0:
            self.unlock()
            return False
        if known.status != 10:
            raise error_of("cat config", self.where, known)
        made = self._run(["init", "--repository-version=2"], seconds=ANSWER_SECONDS)
        if made.status != 0 and self._run(["cat", "config"], seconds=ANSWER_SECONDS).status != 0:
            raise error_of("init", self.where, made)  # else another run made it in between
        return made.status == 0

    def backup_command(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        *,
        tags: Sequence[str] = (),
        failed: Callable[[str], RempartError] | None = None,
    ) -> ResticSnapshot:
        """Store a command's output as the file `name`. restic runs the command. A failed command leaves no snapshot.

        The command gets `environment` and restic's. `failed` makes the error of a failed command from its messages.
        """
        arguments = ["backup", f"--host={HOST}", "--no-scan", "--stdin-from-command", f"--stdin-filename={name}"]
        arguments += [f"--tag={tag}" for tag in tags]
        with spool_folder() as scratch:
            message_file = scratch / "messages"
            ended = self._run(
                [*arguments, "--", *_MESSAGES_ASIDE, str(message_file), *map(str, command)],
                seconds=STALL_SECONDS,
                progress=bytes_done,
                environment=environment,
            )
            messages = message_file.read_text("utf-8", errors="replace") if message_file.exists() else ""
        if ended.status != 0:
            if ended.status == 3:  # it made a snapshot, of less than there should be
                self.forget([read_summary(ended.lines).id], prune=False)
            if failed and command_failed(ended.messages):
                raise failed(messages)
            raise error_of("backup", self.where, ended)
        return read_summary(ended.lines)

    def snapshots(self, *, tags: Sequence[str] = ()) -> tuple[ResticSnapshot, ...]:
        """Return all snapshots with each of the tags, oldest first."""
        wanted = [f"--tag={','.join(tags)}"] if tags else []
        return read_snapshots("\n".join(self._need(["snapshots", *wanted], ANSWER_SECONDS).lines))

    def dump(self, snapshot: str, name: str, sink: Callable[[bytes], object]) -> Content:
        """Give a stored file to `sink`, in chunks. What `sink` raises, ends it."""
        digest, size = hashlib.sha256(), 0
        with self.reading(snapshot, name) as (stream, watch):

            def take(chunk: bytes) -> None:
                nonlocal size
                digest.update(chunk)
                size += len(chunk)
                sink(chunk)

            pour(stream, take, watch)
        return Content(digest.hexdigest(), size)

    @contextmanager
    def reading(self, snapshot: str, name: str) -> Iterator[tuple[IO[bytes], Watch]]:
        """Open a stored file as a stream to read to its end, with its watch."""
        with (
            spool_folder() as scratch,
            ending(
                start(self._command(["dump", snapshot, f"/{name}"]), self.environment(scratch, os.environ))
            ) as process,
            Watch(process, STALL_SECONDS).watching() as watch,
        ):
            stderr = Messages(process.stderr)
            assert process.stdout is not None  # noqa: S101 - it was started with a pipe
            with process.stdout as stream:
                yield stream, watch
            messages = "\n".join(stderr.end())
            status = process.wait()
        self._judge_stall(watch, "dump", messages)
        if status != 0:
            raise error_of("dump", self.where, ProcessResult(status, (), messages))

    def dump_file(self, snapshot: str, name: str, file: Path) -> Content:
        """Write a stored file to disk."""
        try:
            with file.open("wb") as out:
                return self.dump(snapshot, name, out.write)
        except OSError as cause:
            raise BackupError(
                f"restic dump, {self.where}: write {file}: {cause.strerror}",
                "Free space on that disk, or restore without a file in between.",
            ) from cause

    def check(self, read_data: float = 0.0) -> None:
        """Prove the structure, and so large a share of the data (0 to 1), chosen by chance. Raises IntegrityError."""
        share = [f"--read-data-subset={read_data * 100:g}%"] if read_data else []
        self._need(["check", *share])

    def forget(self, ids: Sequence[str], *, prune: bool = True) -> None:
        """Remove snapshots; with `prune`, also unreferenced data. Unknown ids are ignored."""
        if ids:
            self.unlock()
            self._need(["forget", *(["--prune"] if prune else []), *ids])

    def prune(self) -> None:
        """Remove data that no snapshot needs, such as what a killed backup left."""
        self.unlock()
        self._need(["prune"])

    def unlock(self) -> None:
        """Remove locks of runs that are dead: of this machine, or not renewed for 30 minutes (restic's own rule)."""
        self._need(["unlock"], ANSWER_SECONDS)
