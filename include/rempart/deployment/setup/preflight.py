"""Check what this machine must offer, in seconds: as a script before installation, then as `rempart stack preflight`.

Standard library only, and no import of Rempart's other rooms: `make` runs this file with the system's Python.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

if not __package__:  # run as a script: its siblings need the standard library only
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from rempart.deployment.setup.findings import (
    PreflightFinding,
    available_memory_gib,
    check_amount,
    check_clock,
    check_folder,
    check_host,
    check_lasting,
    check_loopback,
    check_open_files,
    check_restic,
    check_user,
    given_ports,
    localhost,
    one_for_each_remedy,
    outgoing_ports,
    request_of,
    reserved_ports,
)

__all__ = ["PreflightFinding", "check_amount", "check_host", "check_user"]
DEFAULT_PORTS = {
    "postgresql": 15432, "primary": 18333, "haven": 18433, "mlflow": 15000, "airflow": 18080, "scorer": 18090,
}  # fmt: skip
OPTIONAL_PORTS = {"broker": 16379, "monitoring": 19090}
"""Ports of optional compose profiles; the embedded stack has neither."""
CONTAINERS = {"postgresql": "postgres", "airflow": "api-server"}
"""Names of containers that differ from their service's name."""
SITE_INTERNALS = (
    "master",
    "master-grpc",
    "volume",
    "volume-grpc",
    "filer",
    "filer-grpc",
    "s3-grpc",
)
"""Ports of an embedded site in addition to S3: the following ports, in this order."""

PYTHONS = ((3, 11), (3, 14))
DISK_GIB, DISK_WARN_GIB = 4, 8
MEMORY_GIB, MEMORY_WARN_GIB = 4, 7


def stack_id(var: Path) -> str:
    """Return an id of one stack on this machine, derived from the place of its state."""
    return hashlib.sha256(str(var.resolve()).encode()).hexdigest()[:10]


def site_ports(name: str, port: int) -> dict[str, int]:
    """Return every port of one embedded site."""
    return {name: port, **{f"{name} {part}": port + 1 + i for i, part in enumerate(SITE_INTERNALS)}}


def default_ports(offset: int) -> dict[str, int]:
    """Return every port of the shipped stack, moved by `offset`."""
    ports: dict[str, int] = {}
    for name, port in DEFAULT_PORTS.items():
        ports |= site_ports(name, port + offset) if name in ("primary", "haven") else {name: port + offset}
    return ports


def port_offset(environment: Mapping[str, str]) -> int:
    """Return REMPART_PORT_OFFSET as a number. Raises ValueError with a message for people."""
    text = environment.get("REMPART_PORT_OFFSET") or "0"
    if not (text.isdecimal() and int(text) < 40000):
        raise ValueError(f"REMPART_PORT_OFFSET is '{text}': set it to a number from 0 to 39999")
    return int(text)


def port_is_free(port: int) -> bool:
    """Return whether 127.0.0.1:port is free to listen on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _open_files(process: Path) -> Iterator[str]:
    for handle in (process / "fd").iterdir():
        try:
            yield str(handle.readlink())
        except FileNotFoundError:  # closed since
            continue


def port_holder(port: int) -> tuple[int, str, str] | None:
    """Return process id, command and REMPART_SERVICE marker of the port's listener; None if not visible."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = [row.split() for row in Path(table).read_text(encoding="ascii").splitlines()[1:]]
        except FileNotFoundError:  # not Linux, or no IPv6
            continue
        inodes |= {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if not inodes.isdisjoint(_open_files(process)):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                variables = (process / "environ").read_bytes().split(b"\0")
                marker = next((v[16:].decode() for v in variables if v.startswith(b"REMPART_SERVICE=")), "")
                return int(process.name), command[:100], marker
        except OSError:  # another user's, or gone
            continue
    return None


def check_port(name: str, port: int, stack: str) -> PreflightFinding | None:
    """Return a finding if another program holds the port; None if it is free or this stack's own."""
    if port_is_free(port):
        return None
    holder = port_holder(port)
    if holder and holder[2].startswith(f"{stack}:"):
        return None
    move = f"move every port with REMPART_PORT_OFFSET={free_offset(os.environ)}"
    if holder and holder[2]:
        by = f"another Rempart stack{_folder_of(holder[0])} (process {holder[0]})"
        remedy = f"Stop that stack with `rempart down` in its folder, or {move}."
    else:
        unseen = "a process that this user may not see"
        if not holder and port in (outgoing := outgoing_ports()):
            unseen += f", or an outgoing connection: the system gives these the ports {outgoing[0]} to {outgoing[-1]}"
        by = f"process {holder[0]} ({holder[1]})" if holder else unseen
        remedy = f"Stop that process, or {move}, or set services.{name.split(' ')[0]}.port in rempart.yaml."
    return PreflightFinding(f"port {port}", "failed", f"wanted for {name}, held by {by}", remedy)


def _folder_of(process: int) -> str:
    """Return where the state of a service's stack is; empty if it cannot be seen."""
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace").split("\0")
        named = next((text.partition("=")[2] for text in variables if text.startswith("REMPART_VAR=")), "")
        return f" in {named or Path(f'/proc/{process}/cwd').readlink()}"
    except OSError:
        return ""


def free_offset(environment: Mapping[str, str]) -> int:
    """Return an offset, in steps of 100, with which every port of the shipped stack is free: the next one, if there is
    one without ports that the system gives to outgoing connections, which may take such a port at any time.
    """
    try:
        begin = port_offset(environment)
    except ValueError:
        begin = 0
    offsets = [*range(begin + 100, min(begin + 3000, 40000), 100), *range(100, begin, 100)]
    outgoing = outgoing_ports()
    lasting = sorted(offsets, key=lambda n: any(port in outgoing for port in default_ports(n).values()))
    return next((n for n in lasting if all(map(port_is_free, default_ports(n).values()))), begin + 100)


def lasting_offset() -> int:
    """Return an offset that leaves the shipped stack no port that an outgoing connection may take; 0 if none does."""
    given, offset = given_ports(), free_offset(os.environ)
    return 0 if any(port in given for port in default_ports(offset).values()) else offset


def check_ports(ports: Mapping[str, int], stack: str) -> list[PreflightFinding]:
    """Return a finding per taken port, and one for all that have one remedy; or one on all: ok, or the hint that an
    outgoing connection may take one.
    """
    found = one_for_each_remedy(finding for name, port in ports.items() if (finding := check_port(name, port, stack)))
    return found or [check_lasting(ports, given_ports(), lasting_offset, reserved_ports())]


def check_python(version: tuple[int, ...]) -> PreflightFinding:
    low, high = PYTHONS
    installed = ".".join(map(str, version[:3]))
    if low <= version[:2] < high:
        return PreflightFinding("python", "ok", installed)
    return PreflightFinding(
        "python",
        "failed",
        f"{installed}, but {low[0]}.{low[1]} to {high[0]}.{high[1] - 1} is needed",
        "Name a suitable interpreter: make PYTHON=python3.12 demo",
    )


def check_venv(ready: bool) -> PreflightFinding:
    if ready:
        return PreflightFinding("environment", "ok", ".venv is installed")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return PreflightFinding(
            "environment",
            "failed",
            "this Python cannot make virtual environments (no ensurepip)",
            "Install its venv package; on Debian and Ubuntu: apt-get install python3-venv",
        )
    return PreflightFinding("environment", "ok", "will be installed into .venv")


def existing_parent(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def pip_setting(name: str, environment: Mapping[str, str]) -> str:
    """Return one of pip's settings: PIP_<NAME>, else its configuration files. Empty if unset or without pip."""
    if value := environment.get("PIP_" + name.upper().replace("-", "_")):
        return value
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", f"global.{name}"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() if asked.returncode == 0 else ""


def package_index(environment: Mapping[str, str]) -> str:
    """Return the package index in force, from the standard settings of pip and uv."""
    return (
        environment.get("UV_DEFAULT_INDEX")
        or environment.get("UV_INDEX_URL")
        or pip_setting("index-url", environment)
        or _default_index()
    ).rstrip("/")


def _default_index() -> str:
    """Return pip's default index; empty if this Python has no pip."""
    try:
        return str(importlib.import_module("pip._internal.models.index").PyPI.simple_url)
    except ImportError:
        return ""


def certificate_file(environment: Mapping[str, str]) -> str:
    """Return the private CA in force: PIP_CERT, SSL_CERT_FILE or REQUESTS_CA_BUNDLE."""
    return next((environment[n] for n in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE") if environment.get(n)), "")


def without_secret(url: str) -> str:
    """Return a URL without user and password."""
    head, at, tail = url.rpartition("@")
    scheme = f"{head.split('://')[0]}://" if "://" in head else ""
    return f"{scheme}***@{tail}" if at else url


def check_certificates(environment: Mapping[str, str]) -> PreflightFinding:
    file = certificate_file(environment)
    if not file:
        return PreflightFinding("private CA", "ok", "none set: the system's certificates are used")
    try:
        context = ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as fault:
        return PreflightFinding(
            "private CA",
            "failed",
            f"{file} cannot be read as PEM certificates ({type(fault).__name__})",
            "Point SSL_CERT_FILE (and PIP_CERT) to your organisation's CA bundle.",
        )
    return PreflightFinding("private CA", "ok", f"{file} ({context.cert_store_stats()['x509_ca']} authorities)")


def check_proxy(environment: Mapping[str, str]) -> PreflightFinding:
    proxies = {n: v for n, v in urllib.request.getproxies().items() if n in ("http", "https", "all")}
    if not proxies:
        return PreflightFinding("proxy", "ok", "none set")
    shown = ", ".join(f"{n}={without_secret(v)}" for n, v in proxies.items())
    return PreflightFinding("proxy", "ok", f"{shown} (the stack's own traffic to 127.0.0.1 never uses it)")


def check_index(environment: Mapping[str, str], needed: bool) -> PreflightFinding:
    """Check that the package index answers. Skipped if everything is installed, because nothing is downloaded then."""
    if not needed:
        return PreflightFinding("package index", "ok", "not asked: everything is installed")
    index = package_index(environment)
    if environment.get("PIP_NO_INDEX") or environment.get("UV_NO_INDEX"):
        return PreflightFinding("package index", "ok", "none wanted (PIP_NO_INDEX)")
    if not index:
        detail = "not checked: no PIP_INDEX_URL, and this Python has no pip"
        return PreflightFinding(
            "package index", "warning", detail, "If setup cannot download, set PIP_INDEX_URL to your mirror."
        )
    try:
        context = ssl.create_default_context(cafile=certificate_file(environment) or None)
        with urllib.request.urlopen(request_of(f"{index}/uv/"), timeout=5, context=context) as answer:  # noqa: S310
            if (clock := check_clock(answer.headers.get("Date") or "", time.time())).outcome != "ok":
                return clock
            return PreflightFinding("package index", "ok", f"{without_secret(index)} answers {answer.status}")
    except (OSError, ValueError) as fault:
        parts = urllib.parse.urlsplit(index)
        proxy, name = urllib.request.getproxies().get(parts.scheme), f"{parts.scheme}_proxy"
        if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
            return PreflightFinding(
                "package index",
                "failed",
                f"{without_secret(index)} by proxy {without_secret(proxy)}: {getattr(fault, 'reason', None) or fault}",
                f"Correct {name.upper()} (http://host:port), or unset it: unset {name} {name.upper()}",
            )
        return PreflightFinding(
            "package index",
            "failed",
            f"{without_secret(index)}: {getattr(fault, 'reason', None) or fault}",
            "Check the network; set HTTPS_PROXY, SSL_CERT_FILE and PIP_INDEX_URL (your mirror) as your "
            "network needs them.",
        )


def _folders(root: Path, var: Path) -> list[PreflightFinding]:
    """Return the findings on the folders of the project and of the state."""
    folders = {"folder": root} if var.is_relative_to(root) else {"folder": root, "state": existing_parent(var)}
    return [
        check_folder(what, folder, os.statvfs(folder).f_flag, writable=os.access(folder, os.W_OK))
        for what, folder in folders.items()
    ]


def inspect(root: Path, var: Path, ports: Mapping[str, int], environment: Mapping[str, str]) -> list[PreflightFinding]:
    """Run every check on this machine, within ten seconds."""
    ready = (root / ".venv" / "rempart-installed").is_file() or sys.prefix != sys.base_prefix
    disk = shutil.disk_usage(existing_parent(var)).free / 2**30
    running = [finding for finding in check_ports(ports, stack_id(var)) if finding.outcome != "ok"]
    ours_runs = not running and any(not port_is_free(port) for port in list(ports.values())[:1])
    return [
        check_host(platform.system(), platform.machine()),
        check_python(sys.version_info[:3]),
        check_venv(ready),
        check_user(os.getuid(), environment),
        *_folders(root, var),
        check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        check_loopback(localhost(), listens=port_is_free(0)),
        check_amount(
            "disk",
            disk,
            1 if ready else DISK_GIB,
            DISK_WARN_GIB,
            f"Free space under {existing_parent(var)}, or put the state elsewhere with REMPART_VAR.",
        ),
        PreflightFinding("memory", "ok", "in use by this stack, which runs")
        if ours_runs
        else check_amount(
            "memory", available_memory_gib(), MEMORY_GIB, MEMORY_WARN_GIB, "Close other programs or add memory."
        ),
        *check_ports(ports, stack_id(var)),
        check_proxy(environment),
        check_certificates(environment),
        check_index(environment, needed=not ready),
        check_restic(environment, root / ".venv" / "tools" / "bin" / "restic"),
    ]


def failures(findings: Iterable[PreflightFinding]) -> list[PreflightFinding]:
    return [finding for finding in findings if finding.outcome == "failed"]


def main() -> int:
    root = Path(__file__).resolve().parents[4]
    var = Path(os.environ.get("REMPART_VAR") or root / "var")
    started = time.monotonic()
    try:
        ports = default_ports(port_offset(os.environ))
    except ValueError as fault:
        sys.stdout.write(f"FAIL  {fault}\n")
        return 1
    findings = inspect(root, var, ports, os.environ)
    sys.stdout.write("".join(finding.line() + "\n" for finding in findings))
    failed = failures(findings)
    verdict = f"{len(failed)} checks failed" if failed else "this machine is ready"
    sys.stdout.write(f"preflight: {verdict} ({time.monotonic() - started:.1f} s)\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
