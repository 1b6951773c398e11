"""The page of errors has a section for each class, and messages lead to it where their hint leads nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from rempart import errors
from rempart.airflow_api import AirflowApiError
from rempart.docsgen.error_page import TEXTS, classes, errors_page
from rempart.errors import ConfigError, KeyWrong, RempartError, SiteUnavailable
from tests.unit.docsgen.blocks import ROOT
from tests.unit.docsgen.test_links import dead


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_each_class_has_a_section_to_which_its_messages_lead(kind: type[RempartError]) -> None:
    error = kind("open the door", "Use the key.")
    assert dead("README.md", error.page) == ""
    text = errors_page(ROOT).partition(f"\n## {kind.__name__}\n")[2].partition("\n## ")[0]
    assert ("Transient: yes" in text) == kind.transient and "Do first: " in text


def test_every_class_is_on_the_page() -> None:
    assert {kind.__name__ for kind in classes()} == set(errors.__all__)


def test_a_message_names_its_section_unless_its_hint_names_a_page_or_the_message_says_it_all() -> None:
    error = KeyWrong("open the key", "Take another file.")
    assert str(error).splitlines() == [
        "open the key",
        "  What to do: Take another file.",
        "  More: docs/reference/errors.md#keywrong",
    ]
    assert "More:" not in str(KeyWrong("open the key", "Follow docs/how-to/keys.md."))
    assert "More:" not in str(ConfigError("read rempart.yaml: line 3", "Correct it."))
    assert "More:" in str(SiteUnavailable("list bucket lake", "Wait."))
    assert {kind.__name__ for kind in classes()} > errors.SAY_IT_ALL


def test_a_class_of_another_module_leads_to_its_bases_section() -> None:
    class Bent(KeyWrong):
        pass

    assert Bent("open the key", "Take another.").page == "docs/reference/errors.md#keywrong"
    assert "More:" not in str(AirflowApiError("start a run", "Unpause the DAG."))


def test_a_class_without_a_text_and_a_text_without_a_class_are_told(tmp_path: Path) -> None:
    (tmp_path / TEXTS).parent.mkdir(parents=True)
    text = (ROOT / TEXTS).read_text(encoding="utf-8")
    (tmp_path / TEXTS).write_text(text.replace("\nKeyWrong:", "\nKeyBent:"), encoding="utf-8")
    with pytest.raises(ConfigError, match="KeyBent, KeyWrong"):
        errors_page(tmp_path)
