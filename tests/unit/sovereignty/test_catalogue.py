"""The shipped catalogue: every entry loads, every fact has a source and a date, and every reference exists."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from functools import cache
from urllib.parse import urlsplit

import pytest
import yaml

from rempart.settings.config import operators_dir, project_root
from rempart.settings.operators import Operator, Sourced, merge, read_catalogue
from rempart.sovereignty.facts import facts_of
from rempart.sovereignty.jurisdictions import EU
from rempart.sovereignty.policy import endpoint_hosts

TODAY = datetime.now(UTC).date()
FOLDER = operators_dir(project_root() / "rempart.yaml")
RAW = read_catalogue(FOLDER)
# ISO 3166 codes that an entry may use; a new one is added here by hand, so that a typing error never becomes a country
COUNTRIES = EU | {"AU", "CA", "CH", "CN", "GB", "IN", "JP", "MX", "NO", "SA", "SG", "US"}
EXPECTED = {
    *("numspot", "outscale", "ovhcloud", "scaleway", "cloud-temple", "exoscale", "infomaniak", "ionos", "hetzner"),
    *("upcloud", "stackit", "open-telekom-cloud", "clever-cloud", "s3ns", "bleu"),
    *("aws", "azure", "google-cloud", "oracle-cloud"),
}


@cache
def entry(key: str) -> Operator:
    return Operator.model_validate(RAW[key])


def facts(key: str) -> list[tuple[str, Sourced]]:
    """Every fact of an entry, by its path in the catalogue."""
    return [(f"{key}.{path}".rstrip("."), fact) for path, fact in facts_of(entry(key))]


every_entry = pytest.mark.parametrize("key", sorted(RAW))


def test_the_operators_that_the_page_promises_are_there() -> None:
    assert set(RAW) >= EXPECTED


@every_entry
def test_every_fact_has_its_own_source_and_date(key: str) -> None:
    found = facts(key)
    assert len(found) > 5, "the walk found the entry's facts"
    for path, fact in found:
        assert fact.source and urlsplit(fact.source).scheme == "https", f"{path}: state source"
        assert fact.as_of and date(2016, 1, 1) < fact.as_of <= TODAY, f"{path}: state as_of, a past day"


@every_entry
def test_what_is_not_certain_says_why(key: str) -> None:
    for path, fact in facts(key):
        assert fact.certain or len(fact.note) > 15, f"{path}: certain is false; say in note what is not certain"


@every_entry
def test_an_entry_names_its_company_its_regions_and_its_services(key: str) -> None:
    operator = entry(key)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key)
    assert operator.name and operator.legal_entity and operator.owner
    assert operator.regions and operator.services
    assert all(region.name for region in operator.regions.values())
    assert all(service.name for service in operator.services.values())


@every_entry
def test_countries_are_iso_codes(key: str) -> None:
    operator = entry(key)
    named = [operator.jurisdiction.value, operator.owner_jurisdiction.value]
    named += [region.country for region in operator.regions.values()]
    for service in operator.services.values():
        named += [technology.origin for technology in service.technology if technology.origin != "open"]
        named += [subprocessor.jurisdiction for subprocessor in service.subprocessors or ()]
    assert set(named) <= COUNTRIES, set(named) - COUNTRIES


@every_entry
def test_services_run_on_known_operators_in_known_regions(key: str) -> None:
    operator = entry(key)
    for name, service in operator.services.items():
        assert service.runs_on, f"{key}.{name}: say whose infrastructure it runs on"
        assert set(service.runs_on) <= set(RAW), f"{key}.{name}.runs_on"
        assert set(service.regions) <= set(operator.regions), f"{key}.{name}.regions"
        for qualification in service.qualifications:
            assert set(qualification.regions) <= set(service.regions or operator.regions), (
                f"{key}.{name}: {qualification}"
            )


@every_entry
def test_endpoints_are_https_and_lead_to_a_host_in_each_region(key: str) -> None:
    operator = entry(key)
    for name, service in operator.services.items():
        for endpoint in service.endpoints:
            assert endpoint.startswith("https://") and urlsplit(endpoint).path == "", f"{key}.{name}: {endpoint}"
            assert set(re.findall(r"\{(.*?)\}", endpoint)) <= {"region"}, f"{key}.{name}: {endpoint}"
        for region in service.regions or operator.regions:
            hosts = endpoint_hosts(service, region)
            assert all(re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", host) for host in hosts), hosts


def test_no_two_operators_answer_at_the_same_host() -> None:
    """A host that two of them claim would let a connection lead to an operator other than the declared one."""
    owners: dict[str, str] = {}
    for key in RAW:
        for service in entry(key).services.values():
            for region in service.regions or entry(key).regions:
                for host in endpoint_hosts(service, region):
                    assert owners.setdefault(host, key) == key, f"{host}: {owners[host]} and {key}"


@every_entry
def test_qualifications_state_their_scope_and_hold_for_a_time_that_can_be(key: str) -> None:
    for name, service in entry(key).services.items():
        for qualification in service.qualifications:
            assert qualification.scope and qualification.source, f"{key}.{name}: {qualification}"
            assert qualification.name in {"SecNumCloud", "ISO-27001", "HDS", "C5"}, (
                f"{key}.{name}: a policy must find it by name"
            )
            assert (
                qualification.valid_until is None
                or qualification.valid_from is None
                or qualification.valid_from < qualification.valid_until
            )


def test_the_truths_that_a_policy_must_tell_apart() -> None:
    assert entry("numspot").services["object-storage"].runs_on == ["outscale"]
    assert entry("exoscale").owner_jurisdiction.value == "MX" and entry("exoscale").jurisdiction.value == "CH"
    assert {technology.origin for technology in entry("open-telekom-cloud").services["object-storage"].technology} == {
        "CN"
    }
    assert entry("s3ns").services["object-storage"].technology[0].origin == "US"
    assert entry("s3ns").owner_jurisdiction.value == "FR"
    assert {region.country for region in entry("ovhcloud").regions.values()} >= {"FR", "CA", "GB", "SG"}
    assert "SecNumCloud" not in {
        qualification.name for qualification in entry("ovhcloud").services["object-storage"].qualifications
    }
    assert entry("aws-eusc").jurisdiction.value == "DE" and entry("aws-eusc").owner_jurisdiction.value == "US"
    assert entry("numspot").services["object-storage"].qualifications == []


def test_the_examples_of_the_how_to_are_valid_and_do_what_it_says() -> None:
    page = (project_root() / "docs" / "how-to" / "choose-operators.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    overrides = [block["operators"] for block in blocks if "operators" in block]
    assert len(overrides) == 3
    merged = [{key: Operator.model_validate(merge(RAW, override)[key]) for key in override} for override in overrides]
    assert merged[0]["outscale"].owner_jurisdiction.as_of == date(2026, 11, 20)
    assert merged[0]["outscale"].owner_jurisdiction.value == "FR"
    assert not entry("upcloud").owner_jurisdiction.certain and merged[1]["upcloud"].owner_jurisdiction.certain
    assert merged[2]["acme-cloud"].services["object-storage"].qualifications[0].regions == ["lyon"]
    for name, site in next(block["sites"] for block in blocks if "sites" in block).items():
        assert site["region"] in entry(site["operator"]).regions, name
        assert site["service"] in entry(site["operator"]).services, name
