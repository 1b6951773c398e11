"""Parts of the pages: the cache of facts, forms, the boundary that Airflow mounts, charts and figures."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from datetime import timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from rempart.web import charts
from rempart.web.details import forms
from rempart.web.facts import Unknown
from rempart.web.metrics import METRICS, exposition
from rempart.web.mount import Cockpit
from rempart.web.read_models.model_versions import model_page
from rempart.web.read_models.overview import places
from rempart.web.read_models.points import points
from rempart.web.read_models.sites import history
from rempart.web.refreshing_cache import RefreshingCache
from rempart.web.wording import Texts
from tests.cockpit import CHALLENGER, DOMAIN, NOW, Watched
from tests.unit.features.stays import stays

ENGLISH = Texts("en")


def test_requests_read_the_kept_value_while_a_slow_source_is_asked_once() -> None:
    now, asked, go = [0.0], [], threading.Event()

    def gather() -> int:
        asked.append(now[0])
        if len(asked) > 1:
            go.wait(60)
        return len(asked)

    cache = RefreshingCache(gather, 15, patience=60, monotonic=lambda: now[0])
    assert cache.get() == 1
    now[0] = 20.0
    assert [cache.get() for _ in range(5)] == [1] * 5
    assert len(asked) <= 2
    go.set()


def test_a_request_waits_where_the_kept_value_is_older_than_it_wants_and_no_longer_than_it_has_patience() -> None:
    now, found, go = [0.0], [0], threading.Event()

    def gather() -> int:
        found[0] += 1
        if found[0] > 2:
            go.wait(60)
        return found[0]

    cache = RefreshingCache(gather, 15, patience=60, monotonic=lambda: now[0])
    assert cache.get(60) == 1
    now[0] = 600.0  # nobody looked meanwhile: what was known then is no answer
    assert cache.get(60) == 2
    now[0], cache._patience = 605.0, 0.5
    assert cache.get(60) == 2 and cache.get(2) == 2  # the source hangs: the older one, with its age
    go.set()


def test_a_gathering_that_fails_leaves_the_older_value() -> None:
    found = iter([1])
    now = [0.0]
    cache = RefreshingCache(lambda: next(found), 15, patience=60, monotonic=lambda: now[0])
    assert cache.get() == 1
    now[0] = 20.0
    assert cache.get() == 1


def test_records_are_read_anew_only_when_one_came(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, asked = Watched().healthy(), list[str]()
    find = watched.ledger.find

    def counted(kind: Any, subject: str | None = None, *, limit: int = 100) -> Any:
        asked.append(kind)
        return find(kind, subject, limit=limit)

    monkeypatch.setattr(watched.ledger, "find", counted)
    first = watched.facts()
    read = len(asked)
    second = watched.facts(first)
    assert second.evidence == first.evidence and len(asked) == read
    watched.drill()
    third = watched.facts(second)
    assert len(third.of("drill")) == len(first.of("drill")) + 1
    blind = dataclasses.replace(third, evidence=Unknown("the ledger does not answer"))
    assert watched.facts(blind).evidence == third.evidence


def test_a_form_is_good_for_its_user_its_action_and_an_hour() -> None:
    made = forms.token("k", "alice", "restore-points/x/drill", 1000.0)
    assert forms.is_ours("k", "alice", "restore-points/x/drill", made, 1001.0)
    assert not forms.is_ours("k", "mallory", "restore-points/x/drill", made, 1001.0)
    assert not forms.is_ours("k", "alice", "restore-points/y/drill", made, 1001.0)
    assert not forms.is_ours("other", "alice", "restore-points/x/drill", made, 1001.0)
    assert not forms.is_ours("k", "alice", "restore-points/x/drill", made, 1000.0 + forms.LIFETIME + 1)
    for forged in ("", ".", "1000.", made[:-1], "9" * 400 + ".x", "²." + made, made.replace("1000", "2000")):
        assert not forms.is_ours("k", "alice", "restore-points/x/drill", forged, 1001.0)
    assert forms.from_elsewhere("cross-site") and not forms.from_elsewhere("same-origin")


def serve(cockpit: Cockpit) -> TestClient:
    async def dags(request: Request) -> PlainTextResponse:
        return PlainTextResponse("dags")

    airflow = Starlette(routes=[Mount("/rempart", cockpit), Route("/dags", dags)])
    return TestClient(airflow)


def broken() -> Starlette:
    raise ImportError("no such module")


async def stumble(request: Request) -> PlainTextResponse:
    raise ValueError("secret")


@pytest.mark.parametrize("load", [broken, lambda: Starlette(routes=[Route("/overview", stumble)])])
def test_a_broken_cockpit_answers_with_a_number_and_airflow_goes_on(load: object) -> None:
    client = serve(Cockpit(load))  # type: ignore[arg-type] # two kinds of callables
    answer = client.get("/rempart/overview")
    assert answer.status_code == 500 and "secret" not in answer.text
    assert client.get("/dags").text == "dags"


def test_airflow_imports_nothing_heavy_with_the_plugin() -> None:
    heavy = "('fastapi', 'jinja2', 'psycopg', 'airflow')"
    told = f"import rempart.web.mount, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


HOSTILE = "<script>alert(1)</script>\"' onload=x"


def test_charts_escape_what_comes_from_outside_and_have_no_style_or_script() -> None:
    watched = Watched().healthy()
    watched.replication(lag_seconds=4000.0)
    for version in ("1", "2"):
        watched.record("promotion", "m", {"version": version, "reasons": []}, timedelta(days=3 - int(version)))
    watched.record("retirement", "m", {"version": "1", "state": "began", "why": "unused"})
    found = watched.facts()
    lived = model_page(found, NOW).states[-1].versions
    place = dataclasses.replace(places(found, NOW)[0], name=HOSTILE, operator=HOSTILE, jurisdiction=HOSTILE)
    drawn = [
        charts.sites_diagram(HOSTILE, [place, *places(found, NOW)], [("primary", "haven", "bad")], ENGLISH),
        charts.lag_chart(HOSTILE, history(found, "primary", "haven"), 900.0, ENGLISH),
        charts.points_chart(HOSTILE, points(found, NOW).points, ENGLISH),
        charts.life_chart(HOSTILE, [dataclasses.replace(lived[0], version=HOSTILE), *lived], NOW, ENGLISH),
    ]
    for chart in drawn:
        parts = list(ElementTree.fromstring(chart).iter())  # noqa: S314 - our own
        assert not [part for part in parts if part.tag == "script" or {"style", "onload"} & set(part.keys())]
    assert drawn[3].count("<rect") == 3 and drawn[3].count('class="mark bad"') == 1, "times as champion, and an end"
    assert 'class="mark bad"' in drawn[1] and 'class="pair bad"' in drawn[0]


def samples(text: str) -> dict[str, float]:
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line and not line.startswith("#")
    }


def test_figures_for_prometheus_are_those_of_the_pages() -> None:
    watched = Watched().healthy()
    watched.record("snapshot", 'a"b', {"snapshot": "s", "site": "primary", "rows": 5, "quarantined": 2})
    watched.materialization(["stay"])
    watched.skew(["stay"])
    watched.record("promotion", "stays", {"version": "1", "previous": None, "metrics": {"mae": 22.4}, "reasons": []})
    verdict = watched.monitoring(
        "stays",
        challenger=CHALLENGER,
        domain=DOMAIN,
        intervals={"promised": 0.9, "rows": 1204, "covered": 0.88, "p": 0.4, "short": False},
    )
    watched.retraining("stays", timedelta(hours=1), verdict)
    features = stays().model_dump()["features"]
    features["stay"]["max_age"] = "3h"
    found = samples(exposition(watched.facts(pipelines={"stays": stays(features=features)}), NOW))
    assert found['rempart_replication_lag_seconds{source="primary",target="haven"}'] == 120
    assert found["rempart_restore_point_age_seconds"] == 900 and found["rempart_drill_ok"] == 1
    assert found["rempart_denials_open"] == 0 and found["rempart_places_at_risk"] == 0
    assert found['rempart_quarantined_rows{pipeline="a\\"b"}'] == 2
    assert {name.partition("{")[0] for name in found} == METRICS.keys()


def test_what_is_not_known_has_no_sample_that_looks_good() -> None:
    found = samples(exposition(Watched().facts(evidence=Unknown("no answer")), NOW + timedelta(hours=1)))
    assert found['rempart_source_up{source="ledger"}'] == 0
    assert not [name for name in found if "drill" in name or "denials" in name or "restore_point" in name]
    assert found["rempart_facts_age_seconds"] == 3600
