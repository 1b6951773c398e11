"""The proxy's list equals the policy's list: refused hosts are not on it, and no others are added."""

from __future__ import annotations

import re
from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from rempart.sovereignty.egress import Destination, EgressRules
from rempart.sovereignty.proxy import outward, squid

HOSTS = st.sampled_from(["api.example.eu", "*.s3.example.eu", "192.0.2.7", "2001:db8::7", "mlflow", "*.primary"])
DESTINATIONS = st.builds(Destination, HOSTS, st.none() | st.integers(1, 65535), st.just("hosts.x"))
DAY = date(2026, 11, 25)


def test_a_site_is_reached_with_the_buckets_below_its_name_at_its_port_alone() -> None:
    text = squid(EgressRules((Destination("*.s3.example.eu", 443, "sites.haven", ("public", "personal")),)), ())
    assert "# *.s3.example.eu:443  (sites.haven; public, personal)" in text
    assert re.findall(r"(?m)^(?!#).+", text) == [
        "acl host0 dstdomain -n .s3.example.eu",
        "acl port0 port 443",
        "http_access allow host0 port0 !to_localhost !to_linklocal",
    ]


@given(st.lists(DESTINATIONS, max_size=6))
def test_each_entry_is_allowed_by_host_and_port_and_no_container_is(destinations: list[Destination]) -> None:
    found = outward(EgressRules(tuple(destinations)), {"mlflow", "primary"})
    text = squid(EgressRules(tuple(destinations)), {"mlflow", "primary"})
    assert not re.search(r"dstdomain -n \.?(mlflow|primary)\b", text)
    assert text.count("http_access allow ") == len(found) == text.count(" dstdomain -n ")
    assert text.count(" port ") == sum(destination.port is not None for destination in found)
    assert "http_access allow all" not in text and "deny" not in re.sub(r"(?m)^#.*", "", text)


def test_what_is_no_name_cannot_become_a_rule() -> None:
    for bad in ("evil.example acl", "a\nhttp_access allow all", 'x"y', ""):
        rules = re.findall(r"(?m)^(?!#).+", squid(EgressRules((Destination(bad, 443, "hosts.x"),)), ()))
        assert rules == [], bad


def test_a_name_is_written_as_the_wire_has_it_and_an_address_as_a_client_would() -> None:
    rules = EgressRules((Destination("Bücher.example", 443, "hosts.x"), Destination("2001:DB8::7", None, "hosts.y")))
    assert re.findall(r"dstdomain -n (\S+)", squid(rules, ())) == ["xn--bcher-kva.example", "[2001:db8::7]"]
