"""Part of the proof in containers: examine each container from outside and from inside, and the content of its
image.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from bench import outside as containers_outside
from rempart import private_files
from rempart.settings import config
from rempart.settings.config import parse_connection

UID = "50000"
GATE = "gate"
CONTROL = "org.opencontainers.image.base.name"
"""Text that every image contains: a search that does not find it finds nothing."""
DECLARED = ("/dev", "/proc", "/sys")
"""Folders in which every container has file systems of the kernel."""
Check = Callable[[str, bool, str], None]


class Containers(containers_outside.Containers, Protocol):
    """The calls that this module needs of the proof's containers."""

    def containers(self) -> dict[str, dict[str, Any]]: ...
    def running(self) -> dict[str, dict[str, Any]]: ...


def docker(*words: str) -> str:
    """Return the Engine's answer to a command."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout


def users(containers: dict[str, dict[str, Any]]) -> dict[str, set[str]]:
    """Return the users of each container's processes, as this machine sees them."""
    found = {}
    for name, container in containers.items():
        table = docker("top", container["Id"], "-eo", "pid,uid").split()[3::2]
        found[name] = set(table)
    return found


def secrets(folder: Path) -> dict[str, str]:
    """Return every secret of the platform by its holder: passwords and keys, without user names."""
    found = {}
    for name, text in config.read_env_file(folder / "secrets.env").items():
        found[name] = parse_connection(name, text).password if text.startswith("{") else text
    return {name: value for name, value in found.items() if len(value) > 12}


def shown(wanted: dict[str, str], texts: dict[str, str]) -> list[str]:
    """Return the secrets in each text."""
    return [f"{name} in {where}" for where, text in texts.items() for name, value in wanted.items() if value in text]


def in_layers(wanted: dict[str, str], images: Sequence[str], folder: Path) -> list[str]:
    """Return the secrets in any layer of the images. Raises if the control text was not found."""
    names = {value: name for name, value in wanted.items()} | {CONTROL: CONTROL}
    needles = folder / "needles"
    private_files.write(needles, "".join(f"{value}\n" for value in names))  # a command line could be read by others
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saved:
            search = ["grep", "--text", "--only-matching", "--fixed-strings", f"--file={needles}"]
            done = subprocess.run(
                search,
                stdin=saved.stdout,
                capture_output=True,
                text=True,
                errors="replace",
                env=environment,
                check=False,
            )
    finally:
        needles.unlink()
    found = {names[line] for line in done.stdout.splitlines() if line in names}
    if saved.returncode or done.returncode > 1 or CONTROL not in found:
        raise SystemExit(f"the layers could not be searched (docker save {saved.returncode}, grep {done.returncode})")
    return sorted(found - {CONTROL})


def writable(compose: Containers, service: str, declared: Sequence[str]) -> list[str]:
    """Return places where the container's user may write, beyond those that the compose file declares."""
    skipped = " -o ".join(f"-path {place}" for place in (*DECLARED, *declared))
    _, told = compose.inside(service, f"find / \\( {skipped} \\) -prune -o -writable -not -type l -print 2>/dev/null")
    return told.split()


def declared(container: dict[str, Any]) -> list[str]:
    """Return places where a container may write: its volumes and its tmpfs."""
    volumes = [mount["Destination"] for mount in container["Mounts"] if mount["RW"]]
    return [*volumes, *(container["HostConfig"].get("Tmpfs") or {})]


def own_address() -> str:
    """Return an address of this machine that no container has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: it returns the address that this machine would use
        return str(probe.getsockname()[0])


@contextmanager
def outside(port: int = 0) -> Iterator[tuple[str, int]]:
    """Run a server of this machine that stands for the outside world."""
    address = own_address()
    with socket.create_server((address, port)) as server:
        yield address, server.getsockname()[1]


def escapes(compose: Containers, services: Sequence[str]) -> tuple[list[str], str]:
    """Return services that reached the outside world, and the answers to the others; from here it can be reached."""
    with outside() as (address, port):
        with socket.create_connection((address, port), timeout=5):
            pass
        found = {
            name: compose.inside(name, f"timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/{port}'") for name in services
        }
    reached = [name for name, (code, _) in found.items() if code == 0]
    told = sorted({text.rpartition(": ")[2] for code, text in found.values() if code})
    return reached, ", ".join(told)


def look(
    compose: Containers, folder: Path, ports: Mapping[str, str], outward: str, permitted: int, check: Check
) -> int:
    """Examine every container from outside and from inside. Return the number of secrets that were searched for.

    `ports`: those that the gate publishes. `outward`: the network with a route outside. `permitted`: the port of this
    machine that the policy allows.
    """
    containers, running = compose.containers(), compose.running()
    roots = {name: uids for name, uids in users(running).items() if uids != {UID}}
    check("every process runs as one user, who is not root", not roots, f"uid {UID}; others: {roots or 'none'}")
    extra = {
        name: told for name, container in running.items() if (told := writable(compose, name, declared(container)))
    }
    check("nothing is writable but volumes and tmpfs", not extra, str(extra) if extra else f"{len(running)} looked")
    published = {name: bound for name, container in running.items() if (bound := bound_ports(container))}
    wanted = {GATE: sorted(f"127.0.0.1:{port}" for port in ports.values())}
    check("only the gate has ports, on 127.0.0.1", published == wanted, str(published))
    closed = [name for name in running if name not in (GATE, containers_outside.EGRESS)]
    reached, refusal = escapes(compose, closed)
    what = "no container but the gate and the proxy reaches this machine's own address"
    check(what, not reached, refusal or str(reached))
    outward_services = [
        name for name, container in running.items() if outward in container["NetworkSettings"]["Networks"]
    ]
    with outside() as (address, port), outside(permitted):
        containers_outside.look(
            compose, list(running), outward_services, f"{address}:{port}", f"{address}:{permitted}", check
        )

    values = secrets(folder)
    images = sorted({container["Config"]["Image"] for container in containers.values()})
    texts = {f"docker inspect {name}": json.dumps(container) for name, container in containers.items()}
    texts |= {f"docker history {image}": docker("history", "--no-trunc", image) for image in images}
    texts |= {f"log of {name}": compose.must("logs", "--no-log-prefix", name) for name in containers}
    found = shown(values, texts)
    looked = f"{len(values)} secrets in {len(texts)} texts{found or ''}"
    check("no secret in docker inspect, history or logs", not found, looked)
    in_images = in_layers(values, images, folder)
    looked = f"{len(values)} secrets, {len(images)} images{in_images or ''}"
    check("no secret in any layer", not in_images, looked)
    return len(values)


def bound_ports(container: Mapping[str, Any]) -> list[str]:
    """Return the addresses of this machine at which a container is reachable."""
    bindings = [bound for found in container["NetworkSettings"]["Ports"].values() for bound in found or []]
    return sorted({f"{bound['HostIp']}:{bound['HostPort']}" for bound in bindings})
