"""Install a hash-locked environment: `python3 include/rempart/deployment/setup/bootstrap.py [trainer|docs|spark]`,
run by `make setup`.

Standard library only. Does nothing if the environment already matches the lock. The standard settings of pip (index
mirror, private CA, proxy) apply to the whole installation: pip's configuration is passed on to uv. `trainer` makes
.venv-trainer, where jobs that need PyTorch run; .venv never gets it. `docs` makes .venv-docs, which builds the site.
`spark` makes .venv-spark, where jobs of `engine: spark` run, with a Java of its own unless the machine has one.

At a terminal a bar shows what is downloaded, installed and compiled; elsewhere a plain line does every 5 seconds.

restic is no Python package: if PATH has none, the distribution's package is unpacked into .venv/tools, without root.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

if not __package__:  # run as a script: this folder's siblings need the standard library only
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from rempart.deployment.setup import debian, preflight
from rempart.deployment.setup.terminal import Counter
from rempart.deployment.setup.uv_output import UNKNOWN, CompiledFiles, Sync, cause, shown_line

_UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
}
"""pip's settings, and how uv calls them."""


@dataclass(frozen=True)
class Environment:
    """One environment: its folder, its lock, and `chosen`, whose builds pip picks as it is configured (no hashes).

    `replaced`: a distribution of the lock whose place one of `chosen` takes, since both have the same modules.
    `java`: whether it needs one. `builds`: whether its lock has one without a wheel, which the locked backend builds.
    """

    folder: str
    lock: str
    size: str
    chosen: str | None = None
    download: str = ""
    replaced: str = ""
    java: bool = False
    builds: bool = False

    def files(self, root: Path) -> list[Path]:
        return [root / name for name in (self.lock, self.chosen) if name]


ENVIRONMENTS = {
    "rempart": Environment(".venv", "requirements-dev.txt", "2.6 GB", download=", at most 0.7 GB to download"),
    "trainer": Environment(
        ".venv-trainer", "requirements-trainer.txt", "1.5 GB, and more for CUDA", "requirements-torch.txt"
    ),
    "docs": Environment(".venv-docs", "requirements-docs.txt", "0.2 GB"),
    "spark": Environment(
        ".venv-spark",
        "requirements-spark.txt",
        "1.3 GB",
        download=", 0.8 GB to download",
        java=True,
        builds=True,
    ),
    # of the images: without what only developers need, and a trainer without PyTorch
    "platform": Environment(".venv", "requirements.txt", "1.9 GB"),
    "job": Environment(".venv-trainer", "requirements-trainer.txt", "0.9 GB"),
    "cuda": Environment(
        ".venv-trainer", "requirements-trainer.txt", "6 GB", "requirements-cuda.txt", replaced="xgboost-cpu"
    ),
}


def fingerprint(root: Path, locks: list[Path]) -> str:
    """Return a name of this installation: the lock, the project's metadata and place.

    Another PYTHON needs `make clean`.
    """
    digest = hashlib.sha256(str(root).encode())
    for file in (*locks, root / "requirements-bootstrap.txt", root / "pyproject.toml"):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def installed_hashes(stamp: Path) -> list[str]:
    """Return the recorded fingerprints of a finished installation and its tools; empty without one."""
    return stamp.read_text(encoding="utf-8").split() if stamp.is_file() else []


def only_the_project(listed: str) -> bool:
    """Return whether `uv pip sync --dry-run` would change only this project, from its output."""
    changes = [line.split()[1].split("==")[0] for line in listed.splitlines() if line.startswith((" + ", " - ", " ~ "))]
    return set(changes) <= {"rempart"}


def uv_settings(pip_settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return uv's environment for the given pip settings; the user's own uv settings stay."""
    return {uv: pip_settings[pip] for pip, uv in _UV_NAMES.items() if pip_settings.get(pip) and not environment.get(uv)}


def uv_options(pip_settings: Mapping[str, str]) -> list[str]:
    """Return the pip setting that uv takes only as an option: to use no index."""
    off = pip_settings.get("no-index", "").lower() in ("1", "y", "yes", "t", "true", "on")
    return ["--no-index"] if off else []


def read_pip_settings(python: Path) -> dict[str, str]:
    """Return pip's settings: environment variables and configuration files, as in `pip config list`."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    settings: dict[str, str] = {}
    # versions of pip list the environment first or last; it always outranks the files
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        section, _, key = name.strip().rpartition(".")
        if section in ("global", "install", ":env:"):
            settings[key] = " ".join(value.strip().strip("'\"").replace("\\n", " ").split())
    return settings


def end(command: Sequence[str | Path], code: int, output: str) -> NoReturn:
    """End set-up in at most three lines. A failure that we cannot name is preceded by its output."""
    line, remedy = cause(output)
    if remedy == UNKNOWN:
        sys.stderr.write("\n".join(shown_line(line) for line in output.splitlines()[-30:]) + "\n")
    sys.exit(f"setup: {Path(command[0]).name} ended with {code}: {shown_line(line)}\n  What to do: {remedy}")


def _run(command: list[str | Path], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        env=environment,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        end(command, done.returncode, done.stdout)


def _sync(command: list[str | Path], environment: Mapping[str, str], venv: Path, counter: Counter) -> None:
    """Run `uv pip sync` and show its progress."""
    state, told = Sync(), Sync()
    before = _installed(venv)
    tail: list[str] = []
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as running:
        assert running.stderr  # noqa: S101 # piped above
        reader = threading.Thread(target=tail.extend, args=(running.stderr,), daemon=True)
        reader.start()
        compiled: CompiledFiles | None = None
        read = 0
        while running.poll() is None:
            reader.join(1.0 if compiled else 0.25)
            new, read = tail[read:], len(tail)
            for line in new:
                state = state.after(line.rstrip())
            if state.sizes and state.prepared and not told.prepared:
                counter.line(f"downloaded {state.total:.0f} MB")
            told = state
            if state.installed:
                compiled = compiled or CompiledFiles(*venv.glob("lib/python*/site-packages"))
                counter.update(*state.shown(0, compiled.count()))
            else:
                counter.update(*state.shown(_installed(venv) - before))
        reader.join()
    if running.returncode:
        counter.end()
        end(command, running.returncode, "".join(tail))


def _installed(venv: Path) -> int:
    """Return the number of packages in an environment."""
    return sum(1 for _ in venv.glob("lib/python*/site-packages/*.dist-info"))


def check_machine() -> None:
    """End with the remedy if this Python cannot carry the environment."""
    for finding in (preflight.check_python(sys.version_info[:3]), preflight.check_venv(ready=False)):
        if finding.outcome == "failed":
            sys.exit(f"setup: {finding.what}: {finding.detail}\n  What to do: {finding.remedy}")


def is_moved(venv: Path) -> bool:
    """Return whether the environment was made in another folder: its scripts name the interpreter there."""
    script = venv / "bin" / "rempart"
    return script.is_file() and str(venv) not in script.read_text(encoding="utf-8", errors="replace")[:400]


def _project_again(root: Path, target: Environment, python: Path, tools: Path) -> bool:
    """Install only the project if every package matches the lock. Return whether that was enough."""
    uv = tools / "bin" / "uv"
    if not (uv.is_file() and python.is_file()):
        return False
    environment = os.environ | {
        "VIRTUAL_ENV": str(python.parents[1]),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_CONFIG": "1",
    }
    look: list[str | Path] = [uv, "pip", "sync", "--dry-run", "--offline", "--require-hashes", root / target.lock]
    done = subprocess.run(look, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not only_the_project(done.stdout + done.stderr):
        return False
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    install += ["--editable", root]
    with alone(root):
        return subprocess.run(install, env=environment | {"PYTHONPATH": str(tools)}, check=False).returncode == 0


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Allow one set-up in a folder at a time: a second one waits, because each begins with an empty environment."""
    place.mkdir(exist_ok=True)
    folder = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stdout.write(f"setup: another set-up of {place.name} runs; waiting for its end\n")
            sys.stdout.flush()
            fcntl.flock(folder, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(folder)


def main(arguments: list[str]) -> int:
    root, target = Path(__file__).resolve().parents[4], ENVIRONMENTS[arguments[0] if arguments else "rempart"]
    with alone(root / target.folder):
        return set_up(root, target)


def set_up(root: Path, target: Environment) -> int:
    """Install an environment, unless it is there. Return the exit code."""
    venv, started = root / target.folder, time.monotonic()
    stamp, wanted = venv / "rempart-installed", fingerprint(root, target.files(root))
    tools_lock = hashlib.sha256((root / "requirements-bootstrap.txt").read_bytes()).hexdigest()
    before = installed_hashes(stamp)
    if before[:1] == [wanted]:
        if target is ENVIRONMENTS["rempart"]:
            debian.install_restic(venv, time.time())
        if target.java and not (venv / "jre" / "bin" / "java").is_file():  # the machine's was taken, and went
            debian.install_java(venv, os.environ)
        return 0
    python, tools = venv / "bin" / "python", venv / "tools"
    if before and not is_moved(venv) and before[1:] in ([], [tools_lock]) and not target.chosen:
        # of no lock from here on: if this is killed, a checkout of the lock before is no finished set-up either
        stamp.write_text("\n".join(["none", *before[1:]]), encoding="utf-8")
        if _project_again(root, target, python, tools):
            stamp.write_text(f"{wanted}\n{tools_lock}\n", encoding="utf-8")
            took = time.monotonic() - started
            sys.stdout.write(f"setup: the packages are those of the lock; the project, again, in {took:.0f} s\n")
            return 0
    check_machine()
    # what is in a cache or a folder of wheels installs without the index, so this only tells what may fail
    if (index := preflight.check_index(os.environ, needed=True)).outcome != "ok":
        sys.stdout.write(f"{index.line()}\n")
    sys.stdout.write(
        f"setup: installing the locked environment into {venv}: about {target.size} on disk{target.download}\n"
    )
    sys.stdout.flush()
    if target.java:
        debian.check_space(root, target.folder)
    counter = Counter(sys.stdout, os.environ)
    counter.begin()
    stamp.unlink(missing_ok=True)  # a set-up that is killed from here on starts again
    try:
        _install(root, target, venv, counter)
    finally:
        counter.end()
    if target is ENVIRONMENTS["rempart"]:
        debian.install_restic(venv, time.time())
    if target.java:
        debian.install_java(venv, os.environ)
    stamp.write_text(f"{wanted}\n{tools_lock}\n", encoding="utf-8")
    sys.stdout.write(f"setup: done in {time.monotonic() - started:.0f} s\n")
    return 0


def _install(root: Path, target: Environment, venv: Path, counter: Counter) -> None:
    """Make a new environment and install its lock and this project."""
    python, tools = venv / "bin" / "python", venv / "tools"
    counter.update("making the environment")
    _run([sys.executable, "-m", "venv", "--clear", venv])
    environment = dict(os.environ)
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    counter.update("installing the installer")
    _run([*pip, "--require-hashes", "--target", tools, "-r", root / "requirements-bootstrap.txt"])
    settings = read_pip_settings(python)
    environment |= uv_settings(settings, environment)
    environment |= {
        "VIRTUAL_ENV": str(venv),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_LINK_MODE": "copy",
        "UV_NO_CONFIG": "1",
    }
    uv = tools / "bin" / "uv"
    sync: list[str | Path] = [uv, "pip", "sync", "--require-hashes"]
    building = {"UV_COMPILE_BYTECODE": "1"} | environment  # else each first start compiles
    if target.builds:
        sync.append("--no-build-isolation")
        building["PYTHONPATH"] = str(tools)
    _sync([*sync, *uv_options(settings), root / target.lock], building, venv, counter)
    ours: list[str | Path] = [uv, "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    with alone(root):  # it writes metadata beside the code
        _run([*ours, "--editable", root], environment | {"PYTHONPATH": str(tools)})
    if target.chosen:
        counter.update("installing the packages that pip chooses")
        if target.replaced:
            _run([uv, "pip", "uninstall", "--quiet", target.replaced], environment)
        _run([*pip, "-r", root / target.chosen])
        _run([uv, "pip", "check", "--quiet"], environment)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nsetup: interrupted\n  What to do: run `make setup` again; it starts from the beginning.")
    except OSError as fault:
        sys.exit(f"setup: {fault}\n  What to do: {cause(str(fault))[1]}")
