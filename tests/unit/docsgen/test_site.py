"""The documentation's site: every page is in the navigation, and a built page needs nothing but the folder."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from rempart.docsgen import site, site_check, site_pages
from rempart.docsgen.decisions import decisions_page
from rempart.docsgen.site_pages import NavigationEntry, Staging
from rempart.errors import ConfigError
from tests.unit.docsgen.blocks import ROOT, read

NAVIGATION = site_pages.navigation(ROOT)
NAMED = [page for entry in NAVIGATION for page in entry.pages()]
WRITTEN = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*.md"))


def test_every_page_is_in_the_navigation_once() -> None:
    assert len(NAMED) == len(set(NAMED))
    assert set(WRITTEN) - set(NAMED) == set(), "add these pages to docs/site/navigation.yaml"
    assert {page for page in NAMED if not (ROOT / page).is_file()} == set()


def test_the_sections_are_those_of_a_reader() -> None:
    titles = [entry.title for entry in NAVIGATION]
    assert titles == ["Home", "Tutorial", "How-to", "Concepts", "Runbooks", "Reference", "Decisions"]
    (how_to,) = (entry for entry in NAVIGATION if entry.title == "How-to")
    assert [entry.title for entry in how_to.entries] == ["Data", "Models", "Protect", "Govern", "Deploy"]


def test_every_decision_is_listed() -> None:
    files = {file.name for file in (ROOT / "docs" / "adr").glob("[0-9]*.md")}
    assert len(files) > 50
    assert set(re.findall(r"\]\((.*?)\)", decisions_page(ROOT))) == files
    assert all(title.partition(": ")[2] for _, title in site_pages.decisions(ROOT)), "a decision begins with a heading"


@pytest.mark.parametrize("page", [page for page in WRITTEN if not re.match(r"docs/adr/\d", page)])
def test_a_page_begins_with_who_needs_it_and_what_it_answers(page: str) -> None:
    text = re.sub(r"^<!--.*?-->\n+", "", read(page), flags=re.M | re.S)
    _, first, *_ = text.split("\n\n", 2)
    assert re.fullmatch(r"\*\*For\*\* .+\. \*\*Answers\*\* .+\.", " ".join(first.split())), first
    assert len(first.split()) <= 50


def staged(tmp_path: Path, pages: dict[str, str]) -> Path:
    for name, text in pages.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    entries = tuple(NavigationEntry(name, name) for name in pages if name.endswith(".md"))
    assert Staging(tmp_path, tmp_path / "out", entries).stage() == len(entries)
    return tmp_path / "out"


def test_links_out_of_the_documentation_lead_to_copies(tmp_path: Path) -> None:
    out = staged(
        tmp_path,
        {
            "docs/how-to/a.md": "[b](../b.md#c) [pool](../../deploy/pool/README.md) [code](../../include/x.py) "
            "[folder](../../deploy/pool) [web](https://example.eu) ![p](../images/p.svg)\n```sh\n[b](../b.md)\n```\n",
            "docs/b.md": "# B\n",
            "docs/images/p.svg": "<svg/>",
            "deploy/pool/README.md": "[back](../../docs/how-to/a.md)\n",
            "include/x.py": "x = 1\n",
        },
    )
    assert (out / "how-to/a.md").read_text() == (
        "[b](../b.md#c) [pool](../project/deploy-pool.md) [code](../files/include/x.py.txt) "
        "folder [web](https://example.eu) ![p](../images/p.svg)\n```sh\n[b](../b.md)\n```\n"
    )
    assert (out / "project/deploy-pool.md").read_text() == "[back](../how-to/a.md)\n"
    assert (out / "files/include/x.py.txt").read_text() == "x = 1\n" and (out / "images/p.svg").is_file()


def test_the_first_paragraph_is_a_box_and_notes_for_tests_are_gone(tmp_path: Path) -> None:
    text = (
        "# A\n\n**For** you. **Answers**\nall.\n\n<!-- other blocks: not run: no -->\n\nText.\n\n"
        "<!-- not run: x -->\n```sh\n<!-- in -->\n```\n"
    )
    out = staged(tmp_path, {"docs/a.md": text})
    assert (out / "a.md").read_text() == (
        "# A\n\n**For** you. **Answers**\nall.\n{: .answers }\n\nText.\n\n```sh\n<!-- in -->\n```\n"
    )


def test_lists_are_as_the_builder_reads_them() -> None:
    text = (
        "Two:\n1. a\n   more\n\n   ```sh\n   ls\n   ```\n\n2. b\n   - c\n\nEnd.\n  x\n```sh\n- no\n  d\n```\n- e\n  f\n"
    )
    assert site_pages.with_deep_lists(text) == (
        "Two:\n\n1. a\n    more\n\n    ```sh\n    ls\n    ```\n\n2. b\n    - c\n\nEnd.\n  x\n"
        "```sh\n- no\n  d\n```\n\n- e\n    f\n"
    )


def test_a_page_that_the_navigation_names_and_nobody_wrote_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"other/gone\.md, which does not exist"):
        Staging(tmp_path, tmp_path / "out", (NavigationEntry("Gone", "other/gone.md"),)).stage()


def test_what_a_browser_would_fetch_and_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<link rel="canonical" href="https://site.example"><script src="https://cdn.example/x.js"></script>'
        '<img src="gone.png"><h1 id="top">A</h1><a href="b.html#none">b</a><a href="b.html#there">b</a>'
        '<a href="c.html">c</a><a href="https://example.eu">out</a><a href="#top">top</a>'
    )
    (tmp_path / "b.html").write_text('<p id="there">')
    (tmp_path / "s.css").write_text('@font-face{src:url("https://fonts.example/f.woff2")} a{background:url(data:x)}')
    assert site_check.faults(tmp_path) == [
        "a.html: a browser would fetch https://cdn.example/x.js",
        "a.html: gone.png does not exist",
        "a.html: b.html#none leads to no heading",
        "a.html: c.html leads to no file",
        "s.css: fetches https://fonts.example/f.woff2",
    ]


def test_a_drawing_for_which_the_theme_fetches_a_library_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<pre class="mermaid"><code>graph LR</code></pre>')
    assert site_check.faults(tmp_path) == ["a.html: a browser would fetch https://unpkg.com/mermaid"]


def test_without_the_builder_the_command_that_installs_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"setup-docs"):
        site.build(tmp_path, tmp_path / "work", tmp_path / "site")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / site.BUILDER).is_file():
        pytest.skip("there is no .venv-docs: `make setup-docs` makes it")
    folder = tmp_path_factory.mktemp("built")
    assert site.build(ROOT, folder / "work", folder / "site") == len(NAMED)
    return folder / "site"


def test_the_site_is_built_without_a_warning(built: Path) -> None:
    page = (built / "how-to" / "keys.html").read_text(encoding="utf-8")
    assert 'class="answers"' in page and "assets/worker.js" in page
    index = (built / "search.js").read_text(encoding="utf-8")
    assert index.startswith("var __index") and "Rotate" in index


def test_a_browser_searches_the_site_on_a_disk_and_asks_no_other_host(built: Path) -> None:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        pytest.skip("there is no chromium")
    asked: list[str] = []
    with sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto((built / "index.html").as_uri())
        page.locator(".md-search__button").click()
        page.locator("input[type=text], input[type=search], [role=combobox]").last.fill("recipient")
        page.get_by_text(re.compile(r"^\d+ results$")).wait_for(timeout=60_000)
        browser.close()
    assert len(asked) > 5
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
