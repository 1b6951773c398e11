"""Deliveries of three rows and a bad one, and the lake that ingests them."""

from __future__ import annotations

from datetime import date

from hypothesis import strategies as st

from rempart.flows.shared.platform import Platform

A, B, C = "m1,2026-01-01,1,,base,", "m2,2026-01-01,2,3,night,x", "m3,2026-02-01,3,1,base,"
BAD = "m4,2026-02-01,900,1,base,"


def lake(platform: Platform) -> dict[str, bytes]:
    site = platform.sites["primary"]
    return {info.key: site.read("lake", info.key) for info in site.list("lake")}


rows = st.lists(
    st.tuples(
        st.integers(0, 200),
        st.dates(min_value=date(2025, 11, 1), max_value=date(2026, 3, 1)),
        st.integers(0, 99),
        st.sampled_from(["base", "night"]),
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda r: (r[0], r[1]),
)
