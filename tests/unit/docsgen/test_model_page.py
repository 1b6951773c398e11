"""The pages of rempart.yaml and the pipeline file list every key, with what it means and what holds without it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from rempart.docsgen import reference
from rempart.docsgen.model_page import Texts, duration, fragment, model_page, read_texts
from rempart.errors import ConfigError
from tests.unit.docsgen.blocks import ROOT, read

PAGES = {"configuration.md": reference.config_schema(), "pipeline-file.md": reference.pipeline_schema()}


@pytest.mark.parametrize("name", PAGES)
def test_each_top_level_key_has_a_section_with_an_example(name: str) -> None:
    text = read(f"docs/reference/{name}")
    for key in PAGES[name]["properties"]:
        section = text.partition(f"\n## {key}\n")[2].partition("\n## ")[0]
        assert "- Type: " in section and f"```yaml\n{key}:" in section, key


@pytest.mark.parametrize("name", PAGES)
def test_each_key_of_each_section_is_in_a_table(name: str) -> None:
    keys = {key for section in PAGES[name]["$defs"].values() for key in section.get("properties", {})}
    shown = {path.rpartition(".")[2] for path in re.findall(r"^\| `([^`]+)` \|", read(f"docs/reference/{name}"), re.M)}
    assert len(keys) > 20
    assert keys - shown == set()


def test_sections_of_several_kinds_have_a_heading_and_name_each_key_once() -> None:
    text = read("docs/reference/pipeline-file.md")
    for kind in ("row", "trailing"):
        section = text.partition(f"\n### features.NAME.kind: {kind}\n")[2].partition("\n#")[0]
        assert section.count("| `features.NAME.at` |") == 1 == section.count(f"| `features.NAME.kind` | `{kind}` |")


def test_a_row_says_type_default_and_meaning() -> None:
    text = read("docs/reference/configuration.md")
    assert "| `backup.keep.hourly` | whole number, at least 1 | `24` | Hours of which" in text
    assert "| `replication[].every` | duration | `5m` | Time between two runs. |" in text
    assert "| `sites.NAME.connection` | text | required |" in text
    assert "| `backup.every` | duration | `30m` |" in text


def test_a_key_that_nobody_described_is_told() -> None:
    schema = {"properties": {"colour": {"type": "string"}}, "$defs": {}}
    with pytest.raises(ConfigError, match=r"lacks x\.colour"):
        model_page("", schema, "", Texts({}, {}), "x")
    assert "## colour\n\nOf the door.\n" in model_page("", schema, "", Texts({"x.colour": "Of the door."}, {}), "x")


def test_no_text_describes_a_key_that_is_gone() -> None:
    used: set[str] = set()

    class Recorded(dict[str, str]):
        def get(self, key: str, default: object = None) -> object:  # type: ignore[override] # records what is asked
            used.add(key)
            return super().get(key, default)  # type: ignore[arg-type] # as above

    texts = read_texts(ROOT)
    recorded = Texts(Recorded(texts.keys), texts.examples)
    model_page("", PAGES["configuration.md"], "", recorded, "rempart.yaml")
    model_page("", PAGES["pipeline-file.md"], "", recorded, "a pipeline file")
    assert set(texts.keys) - used == set()


def test_the_example_of_a_key_is_its_part_of_the_file() -> None:
    text = "a: 1\n# of b\nb:\n  c: 2\n\n  # inner\n  d: 3\n# of e\ne: 4\n"
    assert fragment(text, "b") == "b:\n  c: 2\n\n  # inner\n  d: 3"
    assert fragment(text, "e") == "e: 4" and fragment(text, "z") == ""


@pytest.mark.parametrize(("days", "text"), [(14, "2w"), (7, "7d"), (365, "365d"), (1 / 24, "1h"), (1 / 86400, "1s")])
def test_a_duration_is_written_as_the_files_write_it(days: float, text: str) -> None:
    assert duration(timedelta(days=days)) == text
