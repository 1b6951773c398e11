"""Certificates of a site's inner ports: kept while valid, renewed before they end; the authority's key is not kept."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from rempart.deployment.compose import containers
from rempart.deployment.setup import paths, site_certificates
from rempart.deployment.setup.site_certificates import FILES, LIFETIME, RENEWED
from rempart.settings import config

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[4]


def test_they_are_made_once_and_stay_until_a_year_before_their_end(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    assert site_certificates.ensure(folder, "haven", NOW)
    before = site_certificates.read(folder)
    assert not site_certificates.ensure(folder, "haven", NOW + LIFETIME - RENEWED - timedelta(days=1))
    assert site_certificates.read(folder) == before
    assert site_certificates.ensure(folder, "haven", NOW + LIFETIME - RENEWED)
    after = site_certificates.read(folder)
    assert set(after.values()).isdisjoint(before.values())
    modes = {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes == {0o600} and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)


def test_the_authoritys_key_is_kept_nowhere() -> None:
    made = site_certificates.make("haven", NOW)
    authority = x509.load_pem_x509_certificate(made.authority.encode())
    site = x509.load_pem_x509_certificate(made.certificate.encode())
    assert "PRIVATE" not in made.authority + made.certificate and made.key.count("PRIVATE KEY") == 2
    key = serialization.load_pem_private_key(made.key.encode(), None)
    assert key.public_key() == site.public_key() != authority.public_key()
    assert site.subject.rfc4514_string() == "CN=rempart-site-haven"
    assert not site.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("how", ["a file is missing", "another site's", "another key", "no PEM", "another authority"])
def test_what_does_not_fit_together_is_made_anew(how: str) -> None:
    good, other = site_certificates.make("haven", NOW).files(), site_certificates.make("haven", NOW).files()
    assert site_certificates.usable_or_new("haven", good, NOW) == good
    found = {
        "a file is missing": {name: good[name] for name in FILES[:2]},
        "another site's": site_certificates.make("primary", NOW).files(),
        "another key": good | {"site.key": other["site.key"]},
        "no PEM": good | {"site.pem": "nothing"},
        "another authority": good | {"ca.pem": other["ca.pem"]},
    }[how]
    made = site_certificates.usable_or_new("haven", found, NOW)
    assert site_certificates.usable("haven", made, NOW) and made["site.key"] not in (
        good["site.key"],
        other["site.key"],
    )


def test_every_service_asks_for_the_certificate_and_lets_one_name_in() -> None:
    settings = site_certificates.settings("haven", Path("/x"))
    for server in ("master", "volume", "filer", "s3"):
        assert settings[f"grpc.{server}.allowed_commonNames"] == "rempart-site-haven"
        assert settings[f"grpc.{server}.cert"] == "/x/site.pem"
    for server in ("master", "volume", "filer"):
        assert settings[f"https.{server}.ca"] == "/x/ca.pem", "without it, no client is asked for a certificate"
    variables = site_certificates.variables(settings)
    assert variables["WEED_GRPC_S3_ALLOWED_COMMONNAMES"] == "rempart-site-haven"
    assert variables["WEED_HTTPS_CLIENT_ENABLED"] == "true"
    text = site_certificates.toml(settings)
    assert '[grpc]\nca = "/x/ca.pem"\n' in text and "enabled = true\n" in text


def test_init_keeps_those_of_containers(tmp_path: Path) -> None:
    stack = paths.Stack(ROOT, tmp_path / "var", config.load(ROOT / "rempart.yaml"), python="/usr/bin/python3")
    folder = tmp_path / "var" / "compose"
    containers.initialise(stack, tmp_path / ".env", {})
    before = {site: site_certificates.read(folder, f"{site}.") for site in stack.embedded_sites}
    assert all(site_certificates.usable(site, found, datetime.now(UTC)) for site, found in before.items())
    assert before["primary"]["ca.pem"] != before["haven"]["ca.pem"]
    containers.initialise(stack, tmp_path / ".env", {})
    assert {site: site_certificates.read(folder, f"{site}.") for site in stack.embedded_sites} == before
