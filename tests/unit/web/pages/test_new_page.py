"""A page of the cockpit is one module with its entry, and its template: no other file names it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from rempart.settings import access
from rempart.web import pages

pytestmark = pytest.mark.airflow

MODULE = '''
from dataclasses import dataclass

from rempart.web.page import Page


@dataclass(frozen=True)
class Costs:
    euros: int


def read_costs(months: int = 1) -> Costs:
    """Return what the sites cost."""
    return Costs(40 * months)


TEXTS = {"en": {"costs.sum": "{euros} euros"}, "fr": {"costs.sum": "{euros} euros en tout"}}
PAGE = Page("costs", 35, {"en": "Costs", "fr": "Coûts"}, "operate", read_costs, texts=TEXTS)
'''
TEMPLATE = """{% extends "base.html" %}
{% block content %}<h1>{{ t("page.costs") }}</h1><p>{{ t("costs.sum", euros=found.euros) }}</p>{% endblock %}
"""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    from airflow.api_fastapi.core_api.security import get_user

    from rempart.web import rendering
    from rempart.web.app import build

    (tmp_path / "costs.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "costs.html").write_text(TEMPLATE, encoding="utf-8")
    monkeypatch.setattr(pages, "__path__", [*pages.__path__, str(tmp_path)])
    monkeypatch.setattr(rendering._templates().loader, "searchpath", [str(rendering.FOLDER / "templates"), tmp_path])
    monkeypatch.delitem(sys.modules, "rempart.web.pages.costs", raising=False)
    app = build(pages.collect())

    def user(role: access.RoleName = "operator") -> SimpleNamespace:
        return SimpleNamespace(perms=access.role(role).permissions)

    app.dependency_overrides[get_user] = user
    return TestClient(app, follow_redirects=False)


def test_the_entry_makes_the_page_its_tab_its_texts_its_json_and_its_place_in_the_document(client: TestClient) -> None:
    page = client.get("/costs?months=2").text
    assert "<h1>Costs</h1>" in page and "80 euros" in page
    assert "<h1>Coûts</h1><p>80 euros en tout</p>" in client.get("/costs?months=2&lang=fr").text
    assert client.get("/api/costs").json() == {"euros": 40}
    described = client.get("/api/openapi.json").json()["paths"]["/api/costs"]["get"]
    assert described["description"] == "Return what the sites cost."


def test_the_navigation_has_it_in_its_place_and_marks_it(client: TestClient) -> None:
    page = client.get("/costs?lang=en").text
    names = [link.partition('"')[0] for link in page.split('<li><a href="/')[1:]]
    assert names[:6] == ["overview", "sites", "restore-points", "costs", "models", "searches"]
    assert names[6:10] == ["features", "monitoring", "data", "ledger"]
    assert '<a href="/costs" aria-current="page">Costs</a>' in page
    assert client.get("/").headers["location"] == "/overview"


@pytest.mark.parametrize("path", ["/costs", "/api/costs"])
def test_it_opens_for_the_right_of_its_entry_alone(client: TestClient, path: str) -> None:
    assert client.get(path, params={"role": "operator"}).status_code == 200
    refused = client.get(path, params={"role": "viewer", "months": "none"})
    assert refused.status_code == 403, refused.text


def test_positions_and_names_are_each_given_once() -> None:
    found = pages.collect()
    assert len({page.position for page in found}) == len({page.name for page in found}) == len(found)


def test_the_page_of_evidence_alone_asks_for_more_than_to_read() -> None:
    assert {page.name: page.right for page in pages.collect() if page.right != "read"} == {"ledger": "read_evidence"}
