"""Columns that name people are recognised by their header or their values, and columns of things are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.ingestion.parsing.people import likely
from rempart.ingestion.sampling.names import proposed_name

FIRST = st.sampled_from(["Anna", "Jean-Luc", "Zoë", "Mateusz", "Özlem", "Łukasz", "Siobhán", "Dana"])
LAST = st.sampled_from(["Kovacs", "Moreau", "O'Neill", "Müller-Lüdenscheidt", "Ångström", "ROSSI", "Nowak", "Silva"])
INITIAL = st.sampled_from(["A.", "D.", "É.", "J.-P.", "M.K."])
GIVEN = FIRST | INITIAL
NAMES = st.one_of(
    st.builds("{} {}".format, GIVEN, LAST),
    st.builds("{}, {}".format, LAST, GIVEN),
    st.builds("{} {} {}".format, GIVEN, st.sampled_from(["van der", "de", "von", "A."]), LAST),
    st.builds("Dr. {} {}".format, GIVEN, LAST),
    st.builds("{} {}".format, st.sampled_from(["Frau", "Dr.", "Mme", "M."]), LAST),
)


@given(st.lists(NAMES, min_size=2, unique=True), st.lists(st.text(max_size=9), max_size=9))
def test_values_that_are_mostly_names_name_people(names: list[str], others: list[str]) -> None:
    assert likely("handled", names) == "most values look like names"
    few = set(others[: len(names) // 2]) - set(names)
    assert likely("handled", [*names, *few]), "a few others, such as `unknown`"


def test_mail_addresses_and_phone_numbers_name_people() -> None:
    addresses = ["a.rossi@town.example", "b@town.example"]
    assert likely("contact", addresses) == "most values are mail addresses or phone numbers"
    assert likely("phone", ["+49 30 1234567", "+33 (0)1 23 45 67 89"]) and not likely("change", ["+5", "+7 %"])
    assert likely("mail", [*addresses, "none"]) and not likely("mail", [*addresses, "none", "2 @ 3"])


@given(st.lists(st.from_regex(r"[a-zà-ÿ0-9_]{1,9}( [a-z0-9]{1,9}){0,4}", fullmatch=True), min_size=1, unique=True))
def test_words_in_lower_case_and_codes_are_no_names(values: list[str]) -> None:
    assert not likely("district", values) and not likely("remarks", values) and not likely("name", values)


@given(st.lists(NAMES, min_size=2, unique=True), st.randoms(use_true_random=False))
def test_the_order_of_the_values_does_not_matter(names: list[str], draw: object) -> None:
    values = [*names, "x", "y"]
    shuffled = list(values)
    draw.shuffle(shuffled)  # type: ignore[attr-defined] # a random generator
    assert likely("handled", values) == likely("handled", shuffled)


@pytest.mark.parametrize(
    "header",
    [
        *("Caseworker", "caseWorker", "Case worker", "Agent", "Driver", "assigned_agent", "Patient", "Driver name"),
        *("Customer Name", "First name", "surname", "Approved by", "Sachbearbeiter", "Sachbearbeiter/in", "Fahrerin"),
        *("Fahrername", "Kundenname", "Vorname", "Mitarbeiter:innen", "Ärztin", "Prénom", "Employé", "Médecin"),
        *("Nom de famille", "Conducteur", "user_name", "Caseworker (2)", "doctor1", "contact name"),
    ],
)
def test_a_header_says_that_a_column_names_people(header: str) -> None:
    assert likely(proposed_name(header), ["devin_rivera", "k17"]) == "its name says so"
    assert not likely(proposed_name(header), ["yes", "No"]), "it tells whether there is somebody"
    assert not likely(proposed_name(header), [])


@pytest.mark.parametrize(
    ("header", "values"),
    [
        ("district", ["Old Town", "Harbour Side", "West End"]),
        ("city", ["Frankfurt Main", "Castrop Rauxel", "Buenos Aires"]),
        ("origin", ["New York", "San Francisco", "Los Angeles"]),
        ("kind_of_work", ["New House", "Roof", "Demolition"]),
        ("tariff", ["Basic Plan", "Premium Plan", "Night"]),
        ("patient_age", ["Child", "Adult"]),
        ("user_agent", ["Firefox Mobile", "Safari"]),
        ("software", ["MS Office", "MS Teams"]),
        ("station_name", ["market_square", "library"]),
        ("product_name", ["Cordless Drill 18V", "Hammer"]),
        ("name", ["market_square", "library"]),
        ("listed_building", ["yes", "no"]),
        ("signed", ["Anna Berg"]),
    ],
)
def test_names_of_things_are_no_people(header: str, values: list[str]) -> None:
    assert not likely(header, values)


def test_an_initial_tells_people_from_places_where_the_header_does_not() -> None:
    assert likely("station", ["D. Kovacs", "A. Rossi"]) and not likely("station", ["Kovacs Ferenc", "Rossi Piazza"])
    assert likely("name", ["Kovacs", "Rossi"]) == "its name says so"
