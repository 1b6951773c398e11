"""The cockpit in a browser, inside Airflow's pages, on the running stack."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, FrameLocator, Page, StorageState, expect, sync_playwright

from rempart.airflow_api import AirflowApi
from rempart.cli.demo.demo_run import Demo
from rempart.flows.shared.platform import Platform
from rempart.ingestion.sample import deliveries
from rempart.models import registry
from rempart.settings import config, pipelines
from rempart.web.pages import collect
from tests.levels import unpaused

pytestmark = pytest.mark.stack

TABS = ("dag?dag_id=backup_platform", "run?dag_id=backup_platform&run_id=none", "dag?dag_id=ingest_hotel_bookings")
PIPELINE = "hotel_bookings"
REASON = "refused: mae 80.41 is above 25 (the limit)"
PATIENCE, RUN = 120_000, 300_000
"""Milliseconds: for a page of a busy server, and for a whole DAG run."""


@pytest.fixture(scope="module", autouse=True)
def dags() -> Iterator[None]:
    """The DAGs that a page starts run."""
    of_pipeline = ("ingest", "materialize_features", "train", "validate_model", "preview_quarantine", "roll_back_model")
    ids = (*(f"{kind}_{PIPELINE}" for kind in of_pipeline), "backup_platform", "restore_drill")
    with unpaused(AirflowApi(config.environment_connections("airflow_api")), *ids):
        yield


@pytest.fixture(scope="module")
def point(platform: Platform) -> str:
    """A restore point, and a model that was refused; after the chain of test_chain.py both are there."""
    if not platform.ledger.find("refusal", limit=1):
        platform.ledger.append("refusal", "refused_in_browser", {"version": "1", "reasons": [REASON]})
    if not (found := platform.ledger.find("restore-point", limit=1)):
        api = AirflowApi(config.environment_connections("airflow_api"))
        api.run("backup_platform", "back_up")
        found = platform.ledger.find("restore-point", limit=1)
    return found[0].subject


@pytest.fixture(scope="module")
def delivery(platform: Platform) -> str:
    """The newest delivery of which rows are in quarantine; after the chain there are some."""
    if not (found := refused_deliveries(platform)):
        name, body = next(iter(deliveries(config.project_root() / "data" / "hotel_bookings.csv.gz")))
        head, first, *rest = body.decode().splitlines()
        cells = first.split(",")
        cells[head.split(",").index("adults")] = "0"
        site, spec = platform.active_site("personal"), pipelines.named(PIPELINE)
        spoilt = "\n".join([head, ",".join(cells), *rest, ""]).encode()
        site.write(platform.config.buckets.landing, spec.source.prefix + name, spoilt)
        api = AirflowApi(config.environment_connections("airflow_api"))
        api.run(f"ingest_{PIPELINE}", "ingest")
        found = refused_deliveries(platform)
    return found[0]


def refused_deliveries(platform: Platform) -> list[str]:
    records = platform.ledger.find("deliveries", PIPELINE)
    return [
        str(arrival["sha256"]) for record in records for arrival in record.body["deliveries"] if arrival["quarantined"]
    ]


@pytest.fixture(scope="module")
def rolled(platform: Platform) -> Iterator[str]:
    """A model of which two versions were promoted, by the records alone; it is removed at the end.

    A restore point lacks a champion that the registry never had: its drill would be red in tests that come later.
    """
    for version in ("1", "2"):
        body = {"version": version, "previous": None, "metrics": {"mae": 22.0}, "baselines": {}, "reasons": ["passed"]}
        platform.ledger.append("promotion", "rolled_in_browser", body)
    yield "rolled_in_browser"
    for state in ("began", "ended"):
        platform.ledger.append("removal", "rolled_in_browser", {"id": "browser", "what": "remove", "state": state})


@pytest.fixture(scope="module")
def succession(platform: Platform) -> tuple[str, str]:
    """Two versions that the gate promoted, one after the other; after the chain the first is there."""
    demo = Demo(platform, AirflowApi(config.environment_connections("airflow_api")), lambda line: None)
    if not platform.ledger.find("promotion", PIPELINE, limit=1):
        demo.chain()
    first, since = platform.ledger.find("promotion", PIPELINE, limit=1)[0].body["version"], datetime.now(UTC)
    demo.run("train", f"train_{PIPELINE}", "train", conf={"trainer_params": {"num_iterations": 590}})
    judged = demo.run("validate", f"validate_model_{PIPELINE}", "validate", since=since)
    assert judged["promoted"], judged["reasons"]
    return str(first), str(judged["version"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        pytest.skip(
            "there is no chromium on PATH (Debian's package, or CHROMIUM=), so no browser looked at the cockpit"
        )
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def person(browser: Browser, platform: Platform) -> StorageState:
    """What a browser keeps of somebody who logged in at Airflow: the cookies, and what Airflow's page stored."""
    context = browser.new_context(base_url=address())
    context.set_default_timeout(PATIENCE)
    opened, api = context.new_page(), config.environment_connections("airflow_api")
    opened.goto("/auth/login")
    opened.get_by_label("Username").fill(api.login)
    opened.get_by_label("Password").fill(api.password)
    opened.get_by_role("button", name="Sign in").click()
    opened.wait_for_url(lambda url: "login" not in url)
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def page(browser: Browser, person: StorageState) -> Iterator[Page]:
    """A page in a browser of its own, so that no test meets the language or the theme that another one chose.

    Whatever it asks of another host fails the test.
    """
    context = browser.new_context(
        viewport={"width": 1360, "height": 900}, base_url=address(), storage_state=person, locale="en"
    )
    context.set_default_timeout(PATIENCE)
    foreign: list[str] = []
    own = (address(), f"blob:{address()}", "data:")
    context.on("request", lambda asked: None if asked.url.startswith(own) else foreign.append(asked.url))
    yield context.new_page()
    context.close()
    assert not foreign, foreign


def address() -> str:
    api = config.environment_connections("airflow_api")
    return f"http://{api.host}:{api.port}"


def cockpit(page: Page) -> FrameLocator:
    return page.frame_locator("iframe")


def test_airflow_lists_the_plugin_with_its_page(platform: Platform) -> None:
    # one entry that is not valid would hide the whole plugin without a word
    plugins = AirflowApi(config.environment_connections("airflow_api")).get("/api/v2/plugins")["plugins"]
    ours = next(plugin for plugin in plugins if plugin["name"] == "rempart")
    assert {view["destination"]: view["name"] for view in ours["external_views"]} == {
        "nav": "Sovereignty",
        "dag": "Evidence",
        "dag_run": "Evidence",
        "task_instance": "Evidence",
    }
    assert len(ours["listeners"]) == 1


def test_it_is_one_click_away_and_follows_airflows_theme(page: Page, point: str) -> None:
    for theme in ("light", "dark"):
        page.goto("/")
        page.evaluate(f"localStorage.setItem('theme', '{theme}')")
        page.goto("/")
        page.get_by_text("Sovereignty").first.click()
        frame = cockpit(page)
        expect(frame.locator("#verdict")).to_contain_text("Can we lose any one site now")
        assert frame.locator("html").get_attribute("data-theme") == theme
        ground, white = expect(frame.locator("body")), ("background-color", "rgb(255, 255, 255)")
        ground.to_have_css(*white) if theme == "light" else ground.not_to_have_css(*white)


def test_every_page_opens_in_both_languages_without_a_finding_of_axe(
    page: Page, point: str, delivery: str, rolled: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    wait_for(page, f"/rempart/data/{PIPELINE}", delivery[:12])
    wait_for(page, f"/rempart/restore-points/{point}", point)
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    for scheme, language in (("light", "en"), ("dark", "fr")):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type] # one of the two
        held = [f"data/{PIPELINE}/quarantine/{delivery}/{name}" for name in ("look", "rows", "again")]
        points = (f"restore-points/{point}", f"restore-points/{point}/drill")
        for name in (
            *(page.name for page in collect()),
            *points,
            "ledger/1",
            f"data/{PIPELINE}",
            *held,
            f"models/{rolled}/roll-back",
            *TABS,
        ):
            answer = page.goto(f"/rempart/{name}{'&' if '?' in name else '?'}lang={language}")
            assert answer and answer.ok, name
            assert page.locator("html").get_attribute("lang") == language
            found = Axe().run(page).response["violations"]
            assert not [(violation["id"], violation["nodes"][0]["html"]) for violation in found], name
    assert not refused


def test_evidence_is_filtered_and_a_record_verifies_in_its_place(page: Page, point: str) -> None:
    page.goto("/rempart/ledger")
    page.get_by_label("Kind").select_option("restore-point")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url(re.compile("kind=restore-point"))  # until it is loaded
    rows = page.locator("#records tbody tr")
    assert rows.count() and set(rows.locator("td:nth-child(3)").all_inner_texts()) == {"restore-point"}
    rows.first.get_by_role("link").click()
    expect(page.locator("#examined")).to_contain_text("This record verifies.")


def test_a_refused_model_says_why(page: Page, point: str) -> None:
    wait_for(page, "/rempart/models", "refused")
    row = page.locator("#judgements tbody tr", has_text="refused").first
    row.locator("summary").first.click()
    expect(row.locator("li").first).to_be_visible()
    expect(row.locator("li").first).to_contain_text("refused:")


@pytest.mark.full
def test_a_drill_is_started_after_its_plan_was_shown_and_is_seen_to_finish(page: Page, point: str) -> None:
    page.goto("/plugin/sovereignty")
    frame = cockpit(page)
    frame.get_by_role("link", name="Restore points").click()
    frame.get_by_role("link", name=point).click()
    frame.get_by_role("link", name="Start a drill").click()
    expect(frame.locator("ol")).to_contain_text(f"It restores {point} into a sandbox")
    frame.get_by_role("button", name="Start the drill now").click()
    expect(frame.get_by_role("status")).to_contain_text("Started: run")
    for _ in range(RUN // 2_000):
        if frame.locator("#runs tbody tr").first.get_by_text("passed", exact=True).count():
            break
        page.wait_for_timeout(2_000)
        frame.get_by_role("link", name="Restore points").click()
        frame.get_by_role("link", name=point).click()
        expect(frame.locator("#runs")).to_be_visible()
    expect(frame.locator("#runs tbody tr").first).to_contain_text("passed")


def test_a_run_shows_its_evidence_in_a_tab_and_its_task_links_to_it(page: Page, point: str) -> None:
    api = AirflowApi(config.environment_connections("airflow_api"))
    runs = api.get("/api/v2/dags/backup_platform/dagRuns?state=success&order_by=-run_after&limit=1")["dag_runs"]
    run = f"/dags/backup_platform/runs/{quote(runs[0]['dag_run_id'])}"
    page.goto(run)
    expect(page.get_by_text(re.compile("Rempart: Restore point 20")).first).to_be_visible()
    page.get_by_role("link", name="Evidence").first.click()
    frame = cockpit(page)
    expect(frame.locator("h1")).to_have_text("Ledger records of this run")
    expect(frame.locator("h2#point")).to_be_visible()
    frame.get_by_role("link", name="FR", exact=True).click()  # in another language it is still this run
    expect(frame.locator("h1")).to_have_text("Enregistrements du registre sur cette exécution")
    frame.get_by_role("link", name="EN", exact=True).click()
    expect(frame.locator("h1")).to_have_text("Ledger records of this run")
    page.goto(f"{run}/tasks/back_up/details")
    page.get_by_role("link", name="Restore point", exact=True).click()
    page.wait_for_url(re.compile(r"/rempart/restore-points/\d{8}T"))
    expect(page.locator("h1")).to_contain_text("20")


def test_a_dag_shows_the_newest_evidence_of_what_it_does_in_a_tab(page: Page, point: str) -> None:
    page.goto("/dags/backup_platform")
    page.get_by_role("link", name="Evidence").first.click()
    frame = cockpit(page)
    expect(frame.locator("h1")).to_have_text("Ledger records about this DAG")
    frame.locator("#point + div").get_by_role("link", name=point).first.click()
    expect(frame.locator("#runs")).to_be_visible()


@pytest.mark.skipif(not os.environ.get("REMPART_PICTURES"), reason="REMPART_PICTURES names no folder for pictures")
def test_pictures_for_the_documentation(page: Page, point: str) -> None:
    from docs.screenshots import cockpit_pictures, run_pictures

    folder, api = Path(os.environ["REMPART_PICTURES"]), AirflowApi(config.environment_connections("airflow_api"))
    page.set_viewport_size({"width": 1360, "height": 820})
    cockpit_pictures(page, api.url, folder)
    run_pictures(page, api, folder)
    for file in folder.glob("cockpit-*.png"):
        assert file.stat().st_size < 200_000, f"{file} is too large for the documentation"


@pytest.mark.full
def test_rows_in_quarantine_are_looked_at_with_their_reasons_and_downloaded(page: Page, delivery: str) -> None:
    wait_for(page, f"/rempart/data/{PIPELINE}", delivery[:12])  # facts are gathered every 15 seconds
    page.goto("/plugin/sovereignty")
    frame = cockpit(page)
    frame.get_by_role("link", name="Data", exact=True).click()
    frame.get_by_role("link", name=PIPELINE, exact=True).click()
    frame.locator("#quarantine tr", has_text=delivery[:12]).get_by_role("link", name="Look at the rows").click()
    expect(frame.locator("ol")).to_contain_text("encrypts them for a key that only this browser gets")
    frame.get_by_role("button", name="Read the rows now").click()
    rows = frame.locator("#rows tbody tr")
    expect(rows.first).to_be_visible(timeout=RUN)
    expect(frame.locator("#rows")).to_contain_text("a booking needs at least one adult")
    # Airflow's page has the path of the one in its frame in its own address, too
    shown = next(inner.url for inner in page.frames if "/rows?" in inner.url and inner != page.main_frame)
    kept = [cooky for cooky in page.context.cookies(shown) if cooky["name"] == "rempart_look"]
    assert kept and kept[0]["httpOnly"] and kept[0]["sameSite"] == "Strict"
    told = page.context.request.get(shown.replace("/rows?", "/rows.csv?"))
    assert told.ok and "a booking needs at least one adult" in told.text()
    stranger = page.context.browser.new_context()  # type: ignore[union-attr] # it was launched
    stranger.add_cookies([cooky for cooky in page.context.cookies() if cooky["name"] == "_token"])  # type: ignore[misc] # as given
    answer = stranger.request.get(shown)
    assert "Request again" in answer.text() and 'id="rows"' not in answer.text()
    stranger.close()


@pytest.mark.full
def test_a_delivery_is_taken_in_again_and_the_page_says_how_it_went(page: Page, delivery: str) -> None:
    wait_for(page, f"/rempart/data/{PIPELINE}", delivery[:12])
    page.goto(f"/rempart/data/{PIPELINE}/quarantine/{delivery}/again")
    expect(page.locator("ol")).to_contain_text("Rows that are refused again stay in quarantine")
    page.get_by_role("button", name="Ingest it again now").click()
    expect(page.get_by_role("status")).to_contain_text("Started: run")
    expect(page.get_by_role("status")).to_contain_text(re.compile("passed|failed"), timeout=RUN)


def test_a_rollback_shows_its_plan_and_tells_what_airflow_refused(page: Page, rolled: str) -> None:
    wait_for(page, "/rempart/models", rolled)
    page.goto("/plugin/sovereignty")
    frame = cockpit(page)
    frame.get_by_role("link", name="Models", exact=True).click()
    frame.get_by_role("link", name=f"Roll back {rolled}").click()
    plan = frame.locator("ol:not(.path)")  # Models, which goes, has lists of its own
    expect(plan).to_contain_text("from version 2 back to version 1")
    frame.get_by_role("button", name="Roll back to version 1 now").click()
    expect(frame.get_by_role("alert")).to_contain_text("Airflow did not start it")  # there is no such DAG


@pytest.mark.full
def test_a_champion_gives_its_place_back_and_the_page_says_who_has_it(
    page: Page, platform: Platform, succession: tuple[str, str]
) -> None:
    first, second = succession
    assert registry.champion(platform.tracking(), PIPELINE) == second
    wait_for(page, f"/rempart/models/{PIPELINE}/roll-back?lang=en", f"Roll back to version {first} now")
    expect(page.locator("ol")).to_contain_text(f"from version {second} back to version {first}")
    page.get_by_role("button", name=f"Roll back to version {first} now").click()
    expect(page.get_by_role("status")).to_contain_text("Started: run")
    expect(page.get_by_role("status")).to_contain_text(f"The champion is version {first}.", timeout=RUN)
    assert registry.champion(platform.tracking(), PIPELINE) == first


def wait_for(page: Page, where: str, text: str) -> None:
    """Until a page says it: facts are gathered every 15 seconds."""
    for _ in range(60):
        answer = page.goto(where)
        if answer and answer.ok and page.get_by_text(text).count():
            return
        page.wait_for_timeout(2_000)
    expect(page.locator("body")).to_contain_text(text)
