"""Keys and quotas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import AccessError
from rempart.flows.governance import clients as issued
from rempart.ledger.memory import MemoryLedger
from rempart.serving.scorer.clients import Allowance, Client, Clients, digest, new_key
from rempart.serving.scorer.refusals import Refused

KEY = new_key()


def clients(per_minute: int = 60) -> Clients:
    known = Clients()
    known.replace([Client("other", digest(new_key()), ("a",), 60), Client("shop", digest(KEY), ("a",), per_minute)])
    return known


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer é", f"Bearer {new_key()}"],
    ids=["none", "empty", "no key", "another scheme", "longer", "shorter", "no ASCII", "another key"],
)
def test_a_request_without_a_known_key_is_refused(header: str | None) -> None:
    with pytest.raises(Refused) as caught:
        clients().of(header)
    assert caught.value.status == 401 and KEY not in str(caught.value)


def test_a_key_opens_its_pipelines_within_its_quota() -> None:
    known = clients(per_minute=2)
    shop = known.of(f"bearer {KEY}")
    assert shop.name == "shop"
    with pytest.raises(Refused) as caught:
        known.allowed(shop, "b", 0.0)
    assert caught.value.status == 403
    known.allowed(shop, "a", 0.0)
    known.allowed(shop, "a", 0.0)
    with pytest.raises(Refused) as caught:
        known.allowed(shop, "a", 1.0)
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "29")
    known.allowed(shop, "a", 31.0)
    known.replace([])
    with pytest.raises(Refused):
        known.of(f"Bearer {KEY}")


@given(st.integers(1, 1000), st.lists(st.floats(0, 100), max_size=60))
def test_no_minute_has_more_than_twice_the_quota(per_minute: int, waits: list[float]) -> None:
    """A full bucket and what fills it within the minute."""
    now, allowance, granted = 0.0, Allowance(per_minute, float(per_minute), 0.0), list[float]()
    for wait in waits:
        now += wait
        if not allowance.take(now):
            granted.append(now)
    assert all(sum(begin <= at <= begin + 60 for at in granted) <= 2 * per_minute for begin in granted)


def test_keys_are_evidence_and_the_newest_counts() -> None:
    ledger = MemoryLedger()
    ledger.append("access", "user 3", {"change": "added", "role": "viewer"})
    first = issued.issue(ledger, "shop", ["a"], 600, ["a", "b"])
    second = issued.issue(ledger, "shop", ["a", "b"], 60, ["a", "b"])
    issued.issue(ledger, "till", ["b"], 60, ["a", "b"])
    shop, till = issued.clients_on(ledger)
    assert (shop.pipelines, shop.per_minute, till.name) == (("a", "b"), 60, "till")
    assert digest(first) != digest(second) == shop.sha256
    assert not any(key in entry.text for entry in ledger.chain for key in (first, second))
    issued.issue(ledger, "watch", [], 60, ["a", "b"], metrics=True)
    assert [client.metrics for client in issued.clients_on(ledger)] == [False, False, True]
    assert all(Client.from_json(client.as_json()) == client for client in issued.clients_on(ledger))
    issued.revoke(ledger, "watch")
    issued.revoke(ledger, "shop")
    assert [client.name for client in issued.clients_on(ledger)] == ["till"]
    for fault in (
        lambda: issued.revoke(ledger, "shop"),
        lambda: issued.issue(ledger, "Shop", ["a"], 60, ["a"]),
        lambda: issued.issue(ledger, "shop", ["c"], 60, ["a"]),
        lambda: issued.issue(ledger, "shop", [], 60, ["a"]),
        lambda: issued.issue(ledger, "shop", ["a"], 0, ["a"]),
        lambda: issued.issue(ledger, "shop", [], 0, ["a"], metrics=True),
    ):
        with pytest.raises(AccessError):
            fault()
