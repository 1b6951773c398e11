"""Takes the README's pictures of Airflow's UI from the running demo stack, with Chromium.

    make demo && .venv/bin/python docs/screenshots.py

The terminal's picture is made by docs/terminal_picture.py.

Needs Debian's `chromium` (or CHROMIUM=/path/to/chromium). The cockpit's are also taken by its browser test, after the
chain's test has filled a stack of its own:

    REMPART_PICTURES=docs/images .venv/bin/python -m pytest tests/e2e/test_chain.py tests/e2e/test_cockpit.py
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Browser, Page, sync_playwright

from rempart.airflow_api import AirflowApi
from rempart.flows.drill import drill_report
from rempart.flows.shared.platform import open_platform
from rempart.settings import config
from rempart.settings.config import Connection
from rempart.web.pages import collect

IMAGES = Path(__file__).parent / "images"
PIPELINE = "hotel_bookings"


def log_in(page: Page, base: str, api: Connection) -> None:
    page.goto(f"{base}/auth/login")
    page.get_by_label("Username").fill(api.login)
    page.get_by_label("Password").fill(api.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: "login" not in url)


def take(page: Page, url: str, name: str, wait_for: str) -> None:
    page.goto(url)
    page.get_by_text(wait_for).first.wait_for(timeout=60_000)
    page.wait_for_timeout(1500)  # let charts settle
    page.screenshot(path=IMAGES / f"{name}.png")
    print(f"docs/images/{name}.png")


def browser_pictures() -> None:
    api = config.environment_connections("airflow_api")
    base = f"http://{api.host}:{api.port}"
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        raise SystemExit("No chromium on PATH: install Debian's `chromium`, or set CHROMIUM.")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1360, "height": 820})
        log_in(page, base, api)
        take(page, f"{base}/dags", "dags", f"ingest_{PIPELINE}")
        take(page, f"{base}/dags/restore_drill", "drill", "restore_drill")
        take(page, f"{base}/assets", "assets", f"snapshot_{PIPELINE}")
        cockpit_pictures(page, base, IMAGES)
        run_pictures(page, AirflowApi(api), IMAGES)
        report_picture(browser)
        browser.close()


def cockpit_pictures(page: Page, base: str, folder: Path) -> None:
    """Each page of the cockpit as Airflow shows it, in both themes."""
    page.goto(base)
    for theme in ("light", "dark"):
        page.evaluate(f"localStorage.setItem('theme', '{theme}')")
        page.goto(f"{base}/plugin/sovereignty")
        frame = page.frame_locator("iframe")
        frame.get_by_role("link", name="EN", exact=True).click()
        for name in (page.name for page in collect()):
            frame.locator(f"header a[href$='/{name}']").click()
            frame.locator(f"header a[href$='/{name}'][aria-current]").wait_for()
            page.wait_for_timeout(800)  # let it be drawn
            page.screenshot(path=folder / f"cockpit-{name}-{theme}.png")
            print(folder / f"cockpit-{name}-{theme}.png")
        frame.locator("header a[href$='/data']").click()
        frame.get_by_role("link", name=PIPELINE, exact=True).click()
        frame.locator("#quarantine").wait_for()
        page.wait_for_timeout(800)
        page.screenshot(path=folder / f"cockpit-pipeline-{theme}.png")
        print(folder / f"cockpit-pipeline-{theme}.png")
    page.evaluate("localStorage.removeItem('theme')")


def run_pictures(page: Page, api: AirflowApi, folder: Path) -> None:
    """The tab on the newest run that promoted a model, as Airflow shows it, in both themes."""
    dag = f"validate_model_{PIPELINE}"
    runs = api.get(f"/api/v2/dags/{dag}/dagRuns?state=success&order_by=-run_after&limit=20")["dag_runs"]
    run = next((one for one in runs if "champion: passed" in (one["note"] or "")), runs[0])["dag_run_id"]
    for theme in ("light", "dark"):
        page.evaluate(f"localStorage.setItem('theme', '{theme}')")
        page.goto(f"{api.url}/dags/{dag}/runs/{quote(run, safe=':+')}/plugin/evidence-of-run")
        page.frame_locator("iframe").locator("#gate").wait_for(timeout=60_000)
        page.wait_for_timeout(1500)  # let Airflow draw what is around it
        page.screenshot(path=folder / f"cockpit-run-{theme}.png")
        print(folder / f"cockpit-run-{theme}.png")
    page.evaluate("localStorage.removeItem('theme')")


def report_picture(browser: Browser) -> None:
    """The newest drill's report, as `rempart backup drill-report` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        drill_report.make_again(open_platform(), "nis2", None, Path(folder))
        page = browser.new_page(viewport={"width": 1000, "height": 1160})
        page.goto(next(Path(folder).glob("*.html")).as_uri())
        page.screenshot(path=IMAGES / "drill-report.png")
    print("docs/images/drill-report.png")


if __name__ == "__main__":
    browser_pictures()
