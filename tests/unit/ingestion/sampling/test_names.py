"""Names that people gave become names that a pipeline file can have."""

from __future__ import annotations

import re
import unicodedata

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rempart.ingestion.sampling.names import columns_of, header_entries, plain_name, proposed_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Größe der Straße", "groesse_der_strasse"),
        ("ÄRZTE ÖFFNEN ÜBER", "aerzte_oeffnen_ueber"),
        ("GROẞ", "gross"),
        (unicodedata.normalize("NFD", "Müll"), "muell"),
        ("Énergie (kWh)", "energie_kwh"),
        ("Cœur, Ærø, Łódź", "coeur_aero_lodz"),
        ("2. Straße", "strasse"),
        ("hoursSinceService", "hours_since_service"),
        ("customerID", "customer_id"),
        ("kWh", "kwh"),
        ("Sensor 03", "sensor_03"),
        ("Volumen (cm³)", "volumen_cm3"),
        ("x" * 49 + " 7", "x" * 49),
    ],
)
def test_letters_with_marks_are_written_out(text: str, name: str) -> None:
    assert proposed_name(text) == name


@given(st.text(max_size=40))
def test_any_text_gives_letters_digits_and_single_marks(text: str) -> None:
    assert re.fullmatch(r"([a-z0-9]+(_[a-z0-9]+)*)?", plain_name(text))


@given(
    st.lists(
        st.text(max_size=60) | st.sampled_from(["a b", "A B", "a_b", "a_b_2", "", "x" * 60, "X" * 60]), unique=True
    )
)
def test_names_of_a_header_become_columns_that_differ_and_the_map_is_yaml(names: list[str]) -> None:
    columns = columns_of(names)
    assert list(columns) == names and len(set(columns.values())) == len(names)
    for name, column in columns.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]{0,49}", column)
        assert column == name or not re.fullmatch(r"[a-z][a-z0-9_]{0,49}", name)
    entries = "\n".join(header_entries(columns))
    assert (yaml.safe_load(entries) or {}) == {name: column for name, column in columns.items() if name != column}
