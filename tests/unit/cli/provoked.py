"""What provokes a first mistake: a project of its own, a port that is taken, another user, a server that refuses."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

from rempart.errors import RempartError

ROOT = Path(__file__).resolve().parents[3]
OFFSET = 7215
"""Below the ports of outgoing connections. No offset in whole hundreds gives another stack one of these ports."""
HOME = "/home/you/rempart"
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "no_proxy", "NO_PROXY")


@dataclass(frozen=True)
class Place:
    """A project of its own in a temporary folder; its state is in `var`."""

    folder: Path

    @property
    def var(self) -> Path:
        return self.folder / "var"

    def normal(self, text: str) -> str:
        """Return an answer without what differs between two machines."""
        for path in (self.folder, self.folder.resolve(), ROOT):
            text = text.replace(str(path), HOME)
        text = re.sub(r"process \d+ \([^\n]*python[^\n]*\)", "process 4711 (nginx)", text)
        text = re.sub(r"process \d+", "process 4711", text)
        text = re.sub(r"to user \w+, and you are \w+", "to user root, and you are anna", text)
        text = re.sub(r"done in \d+ s", "done in 144 s", text)
        text = text.replace(str(15432 + OFFSET), "15432").replace(str(18080 + OFFSET), "18080")
        return re.sub(r"REMPART_PORT_OFFSET=\d+", "REMPART_PORT_OFFSET=100", text).strip()


@contextmanager
def place() -> Iterator[Place]:
    """Make a project that everybody on the machine may read, and name it to this process."""
    folder = Path(tempfile.mkdtemp(prefix="rempart-first-"))
    folder.chmod(0o755)
    try:
        for name in ("include/operators", "include/pipelines"):
            shutil.copytree(ROOT / name, folder / name)
        shutil.copy(ROOT / "rempart.yaml", folder)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "REMPART_"))}
        own = {
            "REMPART_HOME": str(folder),
            "REMPART_VAR": str(folder / "var"),
            "REMPART_PORT_OFFSET": str(OFFSET),
        }
        with patch.dict(os.environ, {name: kept[name] for name in kept if name not in _PROXIES} | own, clear=True):
            yield Place(folder)
    finally:
        shutil.rmtree(folder)


def rempart(*arguments: str) -> str:
    """Run the command line in this process. Return what it printed."""
    from rempart.cli import main

    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(told), patch.object(sys, "argv", ["rempart", *arguments]):
        try:
            main()
        except SystemExit:
            pass
        except BaseException:
            told.write(traceback.format_exc())
    return told.getvalue()


def error_of(act: Callable[[], object]) -> str:
    """Return an error of the library as the command line prints it."""
    try:
        act()
    except RempartError as error:
        return f"error: {error}"
    return "no error"


@contextmanager
def server(status: int, body: bytes = b"{}", date: str = "") -> Iterator[int]:
    """A web server that answers every request so. Its port."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response_only(status)
            self.send_header("Date", date or formatdate(time.time(), usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 # the name of the library's interface

        def log_message(self, *arguments: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        try:
            yield running.server_address[1]
        finally:
            running.shutdown()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Provoke = Callable[[Place], str]


@dataclass(frozen=True)
class Mistake:
    """One mistake: what somebody did, what provokes it, and the words that its answer must hold."""

    group: str
    what: str
    provoke: Provoke
    holds: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.provoke.__name__


MISTAKES: list[Mistake] = []


def mistake(group: str, what: str, *holds: str) -> Callable[[Provoke], Provoke]:
    def listed(provoke: Provoke) -> Provoke:
        MISTAKES.append(Mistake(group, what, provoke, holds))
        return provoke

    return listed


def unable(*arguments: object, **options: object) -> object:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@contextmanager
def another_user() -> Iterator[None]:
    """Be a user without rights for a while, if this one is root; else the folders of root are forbidden anyway."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def holder(folder: Path, marker: str = "") -> subprocess.Popen[str]:
    """Return a process that listens on PostgreSQL's port."""
    program = (
        "import socket, sys; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        f"s.bind(('127.0.0.1', {15432 + OFFSET})); s.listen(); print('.', flush=True); sys.stdin.read()"
    )
    own = {"REMPART_SERVICE": marker, "REMPART_VAR": str(folder)} if marker else {}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REMPART_")}
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=kept | own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline()
    return process


def as_script(finding: object) -> str:
    """Return a finding of preflight as it prints it."""
    return str(finding.line())  # type: ignore[attr-defined] # its class is not imported before it is needed
