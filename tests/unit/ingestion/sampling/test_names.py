"""Names that people gave become names that a pipeline file can have."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.ingestion.sampling.names import plain_name, proposed_name


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
    ],
)
def test_letters_with_marks_are_written_out(text: str, name: str) -> None:
    assert proposed_name(text) == name


@given(st.text(max_size=40))
def test_any_text_gives_letters_digits_and_single_marks(text: str) -> None:
    assert re.fullmatch(r"([a-z0-9]+(_[a-z0-9]+)*)?", plain_name(text))
