"""Takes pictures of the documentation's site as `make docs-site` builds it, opened from the disk, light and dark.

    make docs-site && .venv/bin/python docs/site_screenshots.py FOLDER

Fails if the browser asks for anything but files, or if the search finds nothing. Needs Debian's `chromium` (or
CHROMIUM=/path/to/chromium).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, sync_playwright

SITE = Path(__file__).resolve().parents[1] / "var" / "docs-site"
PAGES = {
    "home": "index.html",
    "tutorial": "tutorial/first-pipeline.html",
    "how-to": "how-to/add-a-pipeline.html",
    "reference": "reference/configuration.html",
}
QUERY = "restore point"


def search(page: Page) -> int:
    """Type the query into the search and return how many results it finds."""
    page.goto((SITE / "index.html").as_uri())
    page.locator(".md-search__button").click()
    page.wait_for_timeout(500)
    page.keyboard.type(QUERY, delay=20)
    counted = page.get_by_text(re.compile(r"^\d+ results$"))
    counted.wait_for(timeout=20_000)
    return int(counted.inner_text().split()[0])


def pictures(context: BrowserContext, folder: Path, scheme: str) -> None:
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name, path in PAGES.items():
        page.goto((SITE / path).as_uri())
        page.screenshot(path=folder / f"site-{name}-{scheme}.png")
    found = search(page)
    page.wait_for_timeout(500)
    page.screenshot(path=folder / f"site-search-{scheme}.png")
    outside = [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))]
    if outside:
        raise SystemExit(f"the site asked for {outside}")
    print(f"{scheme}: {len(PAGES) + 1} pictures, {len(asked)} files read, {found} results")
    page.close()


def main(folder: Path) -> None:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        raise SystemExit("No chromium on PATH: install Debian's `chromium`, or set CHROMIUM.")
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=chromium, args=arguments)
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": 1360, "height": 860}, color_scheme="dark" if scheme == "dark" else "light"
            )
            pictures(context, folder, scheme)
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("Name the folder of the pictures: docs/site_screenshots.py FOLDER")
    main(Path(sys.argv[1]))
