"""Tells how far an installation by uv or pip is, and why it failed. Standard library only."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rempart.deployment.setup.terminal import printable


@dataclass(frozen=True)
class Sync:
    """What uv has told so far: packages in all, sizes in MB of those that it downloads, and those that are here."""

    packages: int = 0
    sizes: tuple[tuple[str, float], ...] = ()
    here: frozenset[str] = frozenset()
    prepared: bool = False
    installed: bool = False

    @property
    def total(self) -> float:
        return sum(size for _, size in self.sizes)

    @property
    def done(self) -> float:
        return sum(size for name, size in self.sizes if name in self.here)

    def after(self, line: str) -> Sync:
        """Return the state after one line of uv."""
        if found := re.match(r"Resolved (\d+) packages?", line):
            return replace(self, packages=int(found[1]))
        if found := re.match(r"\s*Downloading (\S+) \((\d+(?:\.\d+)?)(KiB|MiB|GiB)\)", line):
            size = float(found[2]) * {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[found[3]] / 1e6
            return replace(self, sizes=(*self.sizes, (found[1], size)))
        if found := re.match(r"\s*Downloaded (\S+)", line):
            return replace(self, here=self.here | {found[1]})
        if line.startswith("Prepared "):
            return replace(self, prepared=True)
        return replace(self, prepared=True, installed=True) if line.startswith("Installed ") else self

    def shown(self, installed: int, compiled: tuple[int, int] = (0, 0)) -> tuple[str, float, float]:
        """Return what to show: a text, and how much is done of what.

        `installed` packages came since uv began. `compiled`: how many files are compiled, of how many.
        """
        if self.installed:
            done, total = compiled
            return f"compiled {done:,} of {total:,} files", done, total
        if self.packages and (installed > 0 or self.prepared):
            return f"installed {installed} of {self.packages} packages", installed, self.packages
        if self.sizes:
            return f"downloaded {self.done:.0f} of {self.total:.0f} MB", self.done, self.total
        return "reading the package index", 0.0, 0.0


class CompiledFiles:
    """Counts the Python files below folders, and those that uv has compiled for this version of Python."""

    def __init__(self, *folders: Path) -> None:
        self._open: dict[Path, set[str]] = {}
        self._closed = 0
        for folder in folders:
            for file in folder.rglob("*.py"):
                wanted = self._open.setdefault(file.parent / "__pycache__", set())
                wanted.add(f"{file.stem}.{sys.implementation.cache_tag}.pyc")
        self.total = sum(map(len, self._open.values()))

    def count(self) -> tuple[int, int]:
        """Return how many files are compiled now, of how many. A folder that is done is not looked at again."""
        some = 0
        for cache, wanted in list(self._open.items()):
            try:
                found = sum(file.name in wanted for file in cache.iterdir())
            except OSError:  # nothing of this folder is compiled yet
                continue
            if found == len(wanted):
                del self._open[cache]
                self._closed += found
            else:
                some += found
        return self._closed + some, self.total


UNKNOWN = "Read the lines above; `make preflight` checks index, proxy and certificates."
"""The remedy where the output tells no cause that is known here."""
_CAUSES = (
    (r"No space left", "Free space on this disk (2.6 GB for .venv, and as much for uv's cache), then run it again."),
    (r"[Pp]ermission denied|Read-only file system", "Clone into a folder that you may write to, then run it again."),
    (r"[Hh]ash mismatch", "The index serves other files than the lock: set PIP_INDEX_URL to a faithful mirror."),
    (r"UnknownIssuer|certificate", "Set SSL_CERT_FILE and PIP_CERT to your organisation's CA bundle."),
    (r"[Pp]roxy", "Correct HTTPS_PROXY (http://host:port), or unset it, then run it again."),
    (
        r"dns|resolve host|connect|[Nn]etwork|timed out|error sending request|Max retries|Failed to (fetch|establish)",
        "Check the network; set HTTPS_PROXY or PIP_INDEX_URL (your mirror), or follow docs/how-to/offline.md.",
    ),
    (r"no version|not found|No matching", "The index lacks this package: set PIP_INDEX_URL or PIP_FIND_LINKS."),
)


def shown_line(line: str) -> str:
    """Return a line of uv or pip that is safe to show: no password in a URL, no control character."""
    return printable(re.sub(r"//[^/@\s]+@", "//***@", line))


def cause(output: str) -> tuple[str, str]:
    """Return the line that tells why an installation failed, and the remedy."""
    lines = [line.strip(" │├╰─▶×") for line in output.splitlines() if line.strip(" │├╰─▶×")]
    for pattern, remedy in _CAUSES:
        for line in reversed(lines):
            if re.search(pattern, line):
                return line[:300], remedy
    last = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "no output")
    return last[:300], UNKNOWN
