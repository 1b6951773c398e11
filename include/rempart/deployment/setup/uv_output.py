"""Reads the output of uv and pip: how far an installation is, and why it failed. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

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

    def shown(self, installed: int) -> tuple[str, float, float]:
        """Return what to show: a text, and how much is done of what. `installed` packages came since uv began."""
        if self.installed:
            return "compiling the modules, about 20 s on 2 cores", 0.0, 0.0
        if self.packages and (installed > 0 or self.prepared):
            return f"installed {installed} of {self.packages} packages", installed, self.packages
        if self.sizes:
            return f"downloaded {self.done:.0f} of {self.total:.0f} MB", self.done, self.total
        return "reading the package index", 0.0, 0.0


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
