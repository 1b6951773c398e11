"""Build the documentation's site into var/docs-site: `make docs-site`.

Everything that a browser needs is in the folder, so the site opens from a disk and its search works there. A warning of
the builder, a dead link and an address on another host fail the build.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rempart.docsgen import site_check, site_pages
from rempart.errors import ConfigError
from rempart.settings.config import project_root

BUILDER = Path(".venv-docs", "bin", "zensical")


def stage(root: Path, work: Path) -> int:
    """Write the builder's input to `work`: pages, files, theme, configuration. Return the number of pages."""
    shutil.rmtree(work, ignore_errors=True)
    entries = site_pages.navigation(root)
    count = site_pages.Staging(root, work / "pages", entries).stage()
    shutil.copytree(root / "docs" / "site" / "theme", work / "theme")
    settings = (root / "docs" / "site" / "zensical.toml").read_text(encoding="utf-8")
    lines = ["[project]", 'docs_dir = "pages"', 'site_dir = "site"', f"nav = {site_pages.toml_navigation(entries)}", ""]
    (work / "zensical.toml").write_text(settings.replace("[project]\n", "\n".join(lines), 1), encoding="utf-8")
    return count


def build(root: Path, work: Path, site: Path) -> int:
    """Build the site. Return the number of its pages. Raises ConfigError, with the builder's words, if that fails."""
    builder = root / BUILDER
    if not builder.is_file():
        raise ConfigError(f"build the site: there is no {BUILDER}", "Run `make setup-docs`, then try again.")
    count = stage(root, work)
    command: list[str | Path] = [builder, "build", "--strict", "--clean", "--config-file", work / "zensical.toml"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False, env={"NO_COLOR": "1"})
    if done.returncode:
        plain, *_ = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr).partition("Traceback")
        raise ConfigError(
            f"build the site: the builder ended with {done.returncode}\n{plain.rstrip()}",
            "Correct the pages that the lines above name.",
        )
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(work / "site", site)
    (site / "404.html").unlink()  # it works only at the root of a server
    if faults := site_check.faults(site):
        raise ConfigError("build the site:\n" + "\n".join(faults), "Correct these links in docs/.")
    return count


def main() -> int:
    """Build the site below var/ and print where it is."""
    root, began = project_root(), time.monotonic()
    site = root / "var" / "docs-site"
    try:
        count = build(root, root / "var" / "docs-site-input", site)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    seconds = time.monotonic() - began
    sys.stdout.write(f"{count} pages ({size / 1e6:.0f} MB) in {seconds:.0f} s: open {site / 'index.html'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
