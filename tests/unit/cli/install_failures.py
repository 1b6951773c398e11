"""First mistakes before and during set-up. Listed with the others in first_failures.py."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, redirect_stdout
from email.utils import formatdate
from pathlib import Path
from unittest.mock import patch

from tests.unit.cli.provoked import ROOT, Place, as_script, closed_port, mistake, server

INSTALL = "Before and during `make setup`"


def setup_with(**patched: object) -> str:
    """Run the check at the beginning of set-up, with a Python that is changed so."""
    from rempart.deployment.setup import bootstrap

    with ExitStack() as changed:
        for name, value in patched.items():
            changed.enter_context(patch.object(sys, name, value))
        try:
            bootstrap.check_machine()
        except SystemExit as ended:
            return str(ended.code)
    return "no error"


@mistake(INSTALL, "The Python is too old or too new", "3.11 to 3.13", "make PYTHON=python3.12 demo")
def wrong_python(project: Place) -> str:
    return setup_with(version_info=(3, 9, 2, "final", 0))


@mistake(INSTALL, "There is no such Python", "python9", "PYTHON=")
def no_python(project: Place) -> str:
    done = subprocess.run(["make", "-s", "-C", ROOT, "PYTHON=python9", "setup"], capture_output=True, text=True)
    return "\n".join(line for line in (done.stdout + done.stderr).splitlines() if "make" not in line.split(":")[0])


@mistake(INSTALL, "Debian's Python has no venv module", "apt-get install python3-venv")
def no_venv(project: Place) -> str:
    with patch.dict(sys.modules, {"ensurepip": None}):
        return setup_with()


@mistake(INSTALL, "The disk is too small", "4 needed", "REMPART_VAR")
def no_disk(project: Place) -> str:
    from rempart.deployment.setup import preflight

    small = shutil._ntuple_diskusage(10 << 30, 9 << 30, 1 << 30)  # type: ignore[attr-defined] # what disk_usage returns
    with patch("shutil.disk_usage", return_value=small):
        found = preflight.inspect(project.folder, project.var, {}, os.environ | {"PIP_NO_INDEX": "1"})
    needed = preflight.check_amount("disk", 1.0, preflight.DISK_GIB, preflight.DISK_WARN_GIB, "")
    disk = next(finding for finding in found if finding.what == "disk")
    assert disk.outcome != "ok"
    return as_script(needed).splitlines()[0] + "\n" + as_script(disk).splitlines()[-1]


@mistake(INSTALL, "The disk is full in the middle of set-up", "No space left", "Free space")
def full_disk(project: Place) -> str:
    return installation(
        "error: Failed to extract archive: pyarrow\n  Caused by: No space left on device (os error 28)\n"
    )


@mistake(INSTALL, "A proxy is set that does not answer", "HTTPS_PROXY", "unset")
def wrong_proxy(project: Place) -> str:
    from rempart.deployment.setup import preflight

    own = {"PIP_INDEX_URL": "https://mirror.example/simple", "HTTPS_PROXY": "http://me:hush@127.0.0.1:9"}
    with patch.dict(os.environ, own):
        return as_script(preflight.check_index(os.environ, needed=True))


@mistake(INSTALL, "The network needs a proxy or a mirror, and none is set", "HTTPS_PROXY", "PIP_INDEX_URL")
def needs_proxy(project: Place) -> str:
    from rempart.deployment.setup import preflight

    url = f"http://127.0.0.1:{(port := closed_port())}/simple"
    with patch.dict(os.environ, {"PIP_INDEX_URL": url}):
        told = as_script(preflight.check_index(os.environ, needed=True))
    return told.replace(f"127.0.0.1:{port}", "mirror.example").replace("http://", "https://")


@mistake(INSTALL, "The organisation's certificates are not where SSL_CERT_FILE says", "SSL_CERT_FILE", "PIP_CERT")
def no_certificates(project: Place) -> str:
    from rempart.deployment.setup import preflight

    return as_script(preflight.check_certificates({"SSL_CERT_FILE": str(project.folder / "ca.pem")}))


@mistake(INSTALL, "There is no network, and not every package is here", "PIP_FIND_LINKS")
def offline(project: Place) -> str:
    uv = ROOT / ".venv" / "tools" / "bin" / "uv"
    command = [uv, "pip", "install", "--dry-run", "--no-index", "--python", sys.executable, "apache-airflow==1.0"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    done = subprocess.run(command, env=kept | {"UV_NO_CONFIG": "1", "COLUMNS": "300"}, capture_output=True, text=True)
    return installation(done.stderr)


def installation(output: str) -> str:
    """Return how set-up ends when uv writes this."""
    from rempart.deployment.setup import bootstrap

    try:
        bootstrap.end(["uv"], 1, output)
    except SystemExit as ended:
        return str(ended.code)


@mistake(INSTALL, "`make setup` was interrupted, or the folder was moved since: run it again", "setup: done")
def half_an_environment(project: Place) -> str:
    from rempart.deployment.setup import bootstrap

    venv = project.folder / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "rempart").write_text("#!/elsewhere/.venv/bin/python\n")
    here = bootstrap.Environment(str(venv), "requirements-dev.txt", "2.6 GB", download=", at most 0.7 GB to download")
    told = io.StringIO()
    with (
        patch.dict(bootstrap.ENVIRONMENTS, rempart=here),
        patch.object(bootstrap, "_install"),
        patch.object(bootstrap.debian, "install_restic"),
        patch.dict(os.environ, PIP_NO_INDEX="1"),
        redirect_stdout(told),
    ):
        bootstrap.main([])
    return told.getvalue()


@mistake(INSTALL, "The folder is on a file system that starts no programs", "noexec", "remount,exec")
def noexec(project: Place) -> str:
    from rempart.deployment.setup.findings import check_folder

    with patch.object(Path, "is_mount", lambda path: path == Path("/")):
        return as_script(check_folder("folder", project.folder, os.ST_NOEXEC, writable=True))


@mistake(INSTALL, "The clock is wrong", "120 minutes behind", "timedatectl")
def wrong_clock(project: Place) -> str:
    from rempart.deployment.setup import preflight

    with server(200, date=formatdate(time.time() + 7200, usegmt=True)) as port:
        return as_script(preflight.check_index({"PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple"}, needed=True))


@mistake(INSTALL, "A VPN or /etc/hosts gives `localhost` another address", "127.0.0.1 localhost", "/etc/hosts")
def localhost_elsewhere(project: Place) -> str:
    from rempart.deployment.setup.findings import check_loopback

    return as_script(check_loopback(["10.8.0.7"], listens=True))


@mistake(INSTALL, "Too few files may be open", "ulimit -n 4096")
def few_open_files(project: Place) -> str:
    from rempart.deployment.setup.findings import check_open_files

    return as_script(check_open_files(128))


@mistake(INSTALL, "There is too little memory", "4 needed", "add memory")
def little_memory(project: Place) -> str:
    from rempart.deployment.setup import preflight

    with patch.object(preflight, "available_memory_gib", return_value=2.5):
        found = preflight.inspect(project.folder, project.var, {}, os.environ | {"PIP_NO_INDEX": "1"})
    return as_script(next(finding for finding in found if finding.what == "memory"))
