"""Proof: a bundle that is carried by hand installs without a network, in two ways, and altered files are refused.

    make prove-bundle      (as root: namespaces without a network; with a Docker Engine for the images)

The proof writes a bundle from this clone. It alters one byte of each file: each altered file is refused by name. Then
it installs one copy in a network namespace that has only its own loopback, and runs the whole demo there. After it
removes the images from the Engine, another copy loads them again, and `docker compose up --wait` starts the platform.
The Engine works outside the namespace, so the proof asks it what it pulled, and where its networks lead.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import prove_compose
from bench.prove_compose import OFFSET, PORTS, Check, Compose, check, tell
from bench.prove_pods import write
from bench.seen import docker
from rempart.backup.bundle import open_bundle
from rempart.ledger.keys import signer, to_pem
from rempart.settings import config

NAME = "bundle"
PROJECT = f"rempart-bundle{'-' + str(OFFSET) if OFFSET else ''}"
PORT_OFFSET = str(7950 + OFFSET)
"""Port offset; tests use whole hundreds. SeaweedFS names sockets in /tmp by port, and network namespaces share /tmp."""
ALONE = ("unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
"""Words before a command: run it in a network of its own that leads nowhere."""
PYTHON = str(Path(sys.base_prefix) / "bin" / "python3")


def why_not() -> str:
    """Return why this machine cannot run the proof; empty if it can."""
    if os.geteuid() != 0:
        return "a network namespace needs root"
    if lacking := [name for name in ("unshare", "ip") if not shutil.which(name)]:
        return f"there is no {', '.join(lacking)} on this machine"
    tried = subprocess.run([*ALONE, "true"], capture_output=True, text=True, check=False)
    return f"the kernel refuses a network namespace ({tried.stderr.strip()})" if tried.returncode else ""


def run(
    words: Sequence[str | Path], variables: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=dict(variables), cwd=cwd, capture_output=True, text=True, check=False)


def bare(machine: Path) -> dict[str, str]:
    """Return the environment of a user who has just logged in, without settings of an index or a proxy."""
    machine.mkdir(parents=True, exist_ok=True)
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(machine), "LANG": "C.UTF-8"}


def last_lines(done: subprocess.CompletedProcess[str], lines: int = 3) -> str:
    return " | ".join((done.stdout + done.stderr).strip().splitlines()[-lines:])


def flip(file: Path) -> None:
    """Flip one bit in the middle of a file; a second call restores it."""
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))


def opened(folder: Path, public: Path, machine: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the program that opens a bundle, as it was kept elsewhere, without a network."""
    return run([*ALONE, PYTHON, open_bundle.__file__, folder, "--trust", public, *words], bare(machine))


def copied(bundle: Path, machine: Path) -> Path:
    """Copy the bundle to another machine: its files, without writing their bytes again."""
    shutil.rmtree(machine, ignore_errors=True)
    shutil.copytree(bundle, machine / bundle.name, copy_function=os.link)
    return machine / bundle.name


# --- checks -----------------------------------------------------------------------------------------------------------


def refused(bundle: Path, public: Path, folder: Path, checks: list[Check]) -> None:
    """Check that an altered byte in any file, an altered index, and a foreign key are refused."""
    (index,) = (bundle / open_bundle.FOLDER).glob("*.json")
    files = sorted(file for file in bundle.rglob("*") if file.is_file() and file != index)
    names = [file.relative_to(bundle).as_posix() for file in files]
    for file in files:
        flip(file)
    done = opened(bundle, public, folder / "refused")
    for file in files:
        flip(file)
    words = done.stderr.replace(",", " ").split()
    missed = [name for name in names if name not in words and f"{name}." not in words]
    untouched = not (bundle / "rempart").exists()
    good = done.returncode == 1 and not missed and untouched
    check(checks, "an altered byte in any file is refused, by name", good, f"{len(names)} files; not named: {missed}")
    flip(index)
    done = opened(bundle, public, folder / "refused")
    flip(index)
    good = done.returncode == 1 and f"{index.name}: " in done.stdout and untouched
    check(checks, "an altered index is refused", good, last_lines(done, 1))
    other = folder / "other.pem"
    other.write_text(to_pem(signer(os.urandom(32)).public), encoding="ascii")
    done = opened(bundle, other, folder / "refused")
    good = done.returncode == 1 and "none of the given public keys signed it" in done.stdout
    check(checks, "a key that did not sign it opens nothing", good, last_lines(done, 1))


def embedded(bundle: Path, public: Path, machine: Path, checks: list[Check], figures: dict[str, Any]) -> None:
    """Install from the wheels and run the demo's whole chain, in a network that leads nowhere."""
    program = "import socket; socket.create_connection(('1.1.1.1', 443), 3)"
    away = run([*ALONE, PYTHON, "-c", program], bare(machine))
    links = run([*ALONE, "ip", "-brief", "link"], bare(machine)).stdout.split()[::4]
    alone = away.returncode != 0 and "unreachable" in away.stderr
    check(checks, "the namespace has no network", alone, last_lines(away, 1) + f"; links: {links}")
    folder, began = copied(bundle, machine), time.monotonic()
    done = opened(folder, public, machine)
    figures["seconds: install from wheels"] = round(time.monotonic() - began, 1)
    check(checks, "the wheels install with no network", done.returncode == 0, last_lines(done, 2))
    home, began = folder / "rempart", time.monotonic()
    variables = bare(machine) | {"REMPART_PORT_OFFSET": PORT_OFFSET}
    script = ".venv/bin/rempart demo; code=$?; .venv/bin/rempart down; exit $code"
    done = run([*ALONE, "bash", "-c", script], variables, home)
    figures["seconds: demo, embedded"] = round(time.monotonic() - began, 1)
    good = done.returncode == 0 and done.stdout.count("✓") > 0
    facts = f"{done.stdout.count('✓')} facts"
    check(checks, "the demo's chain, embedded, with no network", good, facts if good else last_lines(done, 6))


def in_containers(bundle: Path, public: Path, machine: Path, checks: list[Check], figures: dict[str, Any]) -> None:
    """Remove the images from the Engine, load them from the bundle, and start the platform from them, with nothing
    pulled.
    """
    (index,) = (bundle / open_bundle.FOLDER).glob("*.json")
    references = json.loads(index.read_text(encoding="utf-8"))["bundle"]["images"]
    ids = {name: image_id(name) for name in references}
    removed = run(["docker", "image", "rm", *references], os.environ)
    if removed.returncode:
        raise SystemExit(f"the images could not be removed: {removed.stderr.strip()}")
    gone = not any(map(image_id, references))
    folder, began = copied(bundle, machine), time.monotonic()
    # the Engine keeps only the last events
    listening = ["docker", "events", "--filter", "type=image", "--format", "{{.Action}}"]
    engine = subprocess.Popen(listening, stdout=subprocess.PIPE, text=True)
    done = opened(folder, public, machine, "--containers")
    figures["seconds: load images"] = round(time.monotonic() - began, 1)
    same = {name: image_id(name) for name in references} == ids
    good = gone and same and done.returncode == 0
    check(
        checks, "images that were removed come out of the bundle, the same", good, f"{len(ids)}; {last_lines(done, 2)}"
    )
    home, began = folder / "rempart", time.monotonic()
    variables = bare(machine) | PORTS
    command = [*ALONE, "docker", "compose", "--project-name", PROJECT]
    try:
        done = run([*command, "up", "--wait", "--no-build"], variables, home)
        figures["seconds: compose up"] = round(time.monotonic() - began, 1)
        up = run([*command, "ps", "--services"], variables, home).stdout.split()
        check(checks, "docker compose up --wait, of these images", done.returncode == 0, f"{len(up)} services")
        engine.terminate()
        heard = engine.communicate()[0].split()
        detail = f"the Engine tells of {heard.count('load')} loaded and {heard.count('pull')} pulled"
        check(checks, "the Engine pulled nothing", "load" in heard and "pull" not in heard, detail)
        leading = leading_out()
        proxy = {f"{PROJECT}_world": [f"{PROJECT}-egress-1"]}
        check(checks, "no network of it leads out but the proxy's, who is alone there", leading == proxy, f"{leading}")
    finally:
        engine.kill()
        run([*command, "down", "--volumes", "--remove-orphans"], variables, home)


def leading_out() -> dict[str, list[str]]:
    """Return the networks of the proof's containers from which packets leave this machine, and the containers in
    each.
    """
    networks = docker("network", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}").split()
    return {
        load["Name"]: sorted(container["Name"] for container in load["Containers"].values())
        for load in json.loads(docker("network", "inspect", *networks))
        if not load["Internal"] and load["Options"].get("com.docker.network.bridge.enable_ip_masquerade") != "false"
    }


def image_id(reference: str) -> str:
    return run(["docker", "image", "inspect", "--format", "{{.Id}}", reference], os.environ).stdout.strip()


# --- the proof --------------------------------------------------------------------------------------------------------


def written(root: Path, folder: Path, *, images: bool, figures: dict[str, Any]) -> tuple[Path, Path]:
    """Write a bundle of this clone, signed by a key of the proof's own. Return it with its public key."""
    variables = {**os.environ, **PORTS, "REMPART_VAR": str(folder / "var"), "REMPART_HOME": str(root)}
    variables |= {"REMPART_FILES": str(folder / "var" / "compose"), "BASE_IMAGE": prove_compose.base_image()}
    rempart = [sys.executable, "-m", "rempart.cli"]
    settings = folder / "compose.env"
    subprocess.run([*rempart, "stack", "init", "--settings", str(settings)], env=variables, cwd=root, check=True)
    if images:
        began = time.monotonic()
        Compose(root, settings).must("build")
        figures["seconds: build"] = round(time.monotonic() - began, 1)
    began, target = time.monotonic(), folder / "rempart"
    wheels = config.var_dir().absolute() / "bundle" / "wheels"
    command = [*rempart, "bundle", "write", str(target), "--wheels", str(wheels)]
    subprocess.run([*command, *([] if images else ["--no-images"])], env=variables, cwd=root, check=True)
    figures["seconds: write"] = round(time.monotonic() - began, 1)
    sizes = {file.relative_to(target).parts[0]: 0 for file in target.rglob("*") if file.is_file()}
    for file in target.rglob("*"):
        sizes[file.relative_to(target).parts[0]] += file.stat().st_size if file.is_file() else 0
    figures["MB"] = {name: round(size / 1e6, 1) for name, size in sorted(sizes.items())}
    return target, folder / "rempart.public.pem"


def main() -> int:
    if why := why_not():
        print(f"The proof was NOT RUN: {why}. Nothing is proved.", file=sys.stderr)
        write(NAME, [{"what": "a bundle installs offline", "ok": None, "detail": f"not run: {why}"}], 0, {})
        return 1
    root, began = config.project_root().resolve(), time.monotonic()
    folder = config.var_dir().absolute() / "bundle-proof"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    without = prove_compose.why_not()
    checks: list[Check] = []
    figures: dict[str, Any] = {}
    try:
        bundle, public = written(root, folder, images=not without, figures=figures)
        tell(f"written: {figures['MB']}")
        refused(bundle, public, folder, checks)
        if without:
            checks.append({"what": "the images of the bundle", "ok": None, "detail": f"not run: {without}"})
        else:
            in_containers(bundle, public, folder / "with-engine", checks, figures)
        embedded(bundle, public, folder / "without-engine", checks, figures)
    except (Exception, SystemExit) as error:
        check(checks, "every step could be taken", False, f"{type(error).__name__}: {error}")
    for name, value in figures.items():
        print(f"     {name}: {value}")
    good = write(NAME, checks, round(time.monotonic() - began, 1), figures)
    if good:
        shutil.rmtree(folder)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
