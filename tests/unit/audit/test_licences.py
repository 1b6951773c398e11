"""Only known and permitted licences pass; the shipped lock passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.audit import licences
from rempart.audit.licences import Bundled, Licence, Metadata, Review, Reviewed, declared, permitted
from rempart.audit.lock import Locked
from rempart.audit.packages.distributions import Distributions
from rempart.errors import ConfigError
from rempart.settings import config

SHIPPED = Distributions(config.project_root())
BSD3 = "Redistribution and use in source and binary forms ... Neither the name of X nor the names of its contributors"
BSD2 = "Redistribution and use in source and binary forms, with or without modification"

names = st.sampled_from(["MIT", "Apache-2.0", "GPL-3.0-only", "LGPL-3.0-only"])
expressions = st.recursive(
    names,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} OR {pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"{pair[0]} AND {pair[1]}"),
    ),
)


@given(expressions, st.sets(names), names)
def test_a_longer_list_never_permits_less(expression: str, allowed: set[str], more: str) -> None:
    assert permitted(expression, allowed | {more}) >= permitted(expression, allowed)


@given(expressions, expressions, st.sets(names))
def test_or_needs_one_side_and_and_needs_both(left: str, right: str, allowed: set[str]) -> None:
    sides = permitted(left, allowed), permitted(right, allowed)
    assert permitted(f"({left}) OR ({right})", allowed) == any(sides)
    assert permitted(f"({left}) AND ({right})", allowed) == all(sides)


def test_an_exception_is_permitted_as_a_whole() -> None:
    expression = "MIT AND GPL-3.0-or-later WITH GCC-exception-3.1"
    assert permitted(expression, ["mit", "GPL-3.0-or-later WITH GCC-exception-3.1"])
    assert not permitted(expression, ["MIT", "GPL-3.0-or-later"])
    assert not permitted("GPL-3.0-or-later", ["GPL-3.0-or-later WITH GCC-exception-3.1"])


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (Metadata("1", expression="MIT OR Apache-2.0"), "MIT OR Apache-2.0"),
        (Metadata("1", expression="My own licence"), None),
        (Metadata("1", field="Apache License 2.0"), "Apache-2.0"),
        (Metadata("1", field="BSD"), None),
        (Metadata("1", field="BSD", texts=(BSD3,)), "BSD-3-Clause"),
        (Metadata("1", classifiers=("OSI Approved :: BSD License",), texts=(BSD2,)), "BSD-2-Clause"),
        (Metadata("1", classifiers=("OSI Approved :: BSD License",), texts=(BSD2, BSD3)), "BSD-3-Clause"),
        (Metadata("1", classifiers=("OSI Approved :: BSD License",)), None),
        (Metadata("1", classifiers=("OSI Approved :: MIT License",), field="Copyright\nlong text"), "MIT"),
        (Metadata("1", classifiers=("OSI Approved :: MIT License", "OSI Approved :: Apache Software License")), None),
        (
            Metadata(
                "1",
                classifiers=("OSI Approved :: MIT License", "OSI Approved :: Apache Software License"),
                field="MIT",
            ),
            None,
        ),
        (Metadata("1", classifiers=("Other/Proprietary License",)), None),
        (Metadata("1"), None),
    ],
)
def test_metadata_counts_only_where_it_is_clear(metadata: Metadata, expected: str | None) -> None:
    assert declared(metadata)[0] == expected


def test_a_reading_holds_for_its_versions_alone() -> None:
    locked, installed = Locked("alpha", "2.0"), {"alpha": Metadata("2.0", expression="GPL-3.0-only")}
    read = Reviewed(licence="MIT", versions=">=1,<3", source="LICENSE")
    assert licences.licence_of(locked, installed, Review(reviewed={"alpha": read})).expression == "MIT"
    outside = replace(locked, version="3.0")
    assert licences.licence_of(outside, installed, Review(reviewed={"alpha": read})).expression is None
    assert licences.licence_of(outside, installed, Review()).expression is None  # installed is another version


def test_unknown_and_forbidden_licences_are_findings_and_so_are_those_inside() -> None:
    found = [
        Licence(Locked("alpha", "1"), None, "it says nothing"),
        Licence(Locked("beta", "1"), "GPL-3.0-only", "License"),
        Licence(Locked("gamma", "1"), "MIT", "License"),
    ]
    inside = [
        Bundled(name="Prog", version="9", licence="AGPL-3.0-only", versions="==1", source="NOTICE", file="prog"),
        Bundled(name="Old", version="8", licence="MIT", versions="==0.9", source="NOTICE", file="prog"),
    ]
    result = licences.check(found, Review(bundled={"gamma": inside, "absent": inside}), ["MIT"])
    assert {finding.id: finding.severity for finding in result.findings} == {
        "licences/alpha": "high",
        "licences/beta": "high",
        "licences/gamma-prog": "high",
        "licences/gamma-bundled": "high",
    }


def test_every_licence_of_the_shipped_lock_is_known_and_permitted() -> None:
    allowed = config.load().audit.licences
    assert allowed
    assert licences.check(SHIPPED.licences, SHIPPED.review, allowed).findings == ()


def test_every_reading_is_of_something_locked_and_for_its_version() -> None:
    locked = {locked.name for locked in SHIPPED.locked}
    assert set(SHIPPED.review.reviewed) | set(SHIPPED.review.bundled) <= locked


def test_an_empty_list_permits_nothing() -> None:
    result = licences.check(SHIPPED.licences, SHIPPED.review, [])
    assert len(result.findings) >= len(SHIPPED.locked)


def test_a_wrong_review_names_the_line(tmp_path) -> None:  # type: ignore[no-untyped-def] # pytest's fixture
    file = tmp_path / "licences.yaml"
    file.write_text("reviewed: {alpha: {licence: Free to use, versions: '>1', source: x}}")
    with pytest.raises(ConfigError, match=r"reviewed\.alpha\.licence"):
        licences.read_review(file)
