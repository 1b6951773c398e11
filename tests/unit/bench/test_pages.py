"""References of a page to other hosts are found, unless its policy forbids them."""

from __future__ import annotations

import pytest

from bench import pages

HOME = "http://127.0.0.1:8080/app/"


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/a.js"></script>',
        '<link rel="stylesheet" href="//cdn.example/a.css">',
        '<img srcset="own.png 1x, https://cdn.example/b.png 2x">',
        '<style>@import "https://fonts.example/f.css";</style>',
        "<div style='background: url(https://cdn.example/c.png)'></div>",
        '<script type="module">import x from "https://cdn.example/x.js"</script>',
        '<base href="https://cdn.example/"><script src="a.js"></script>',
    ],
)
def test_a_reference_to_another_host_is_found(text: str) -> None:
    (found,) = pages.external(pages.of_html(text, HOME), HOME)
    assert ".example/" in found


def test_own_files_and_inline_data_are_not_external() -> None:
    text = '<script src="./a.js"></script><img src="data:image/png;base64,xx"><a href="https://docs.example">docs</a>'
    assert pages.of_html(text, HOME) == [HOME + "a.js"]
    assert pages.external(pages.of_html(text, HOME), HOME) == []


def test_scripts_and_styles_that_load_more_are_found() -> None:
    assert pages.of_asset("a{src:url(https://f.example/a.woff2)}", "text/css") == ["https://f.example/a.woff2"]
    assert pages.of_asset('import("https://c.example/m.js")', "text/javascript") == ["https://c.example/m.js"]
    assert pages.of_asset('const help = "https://docs.example/page"', "text/javascript") == []


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("default-src 'self'", True),
        ("default-src 'self'; img-src 'self' data:; script-src 'self' 'nonce-abc'", True),
        ("default-src 'self'; font-src https://fonts.example", False),
        ("default-src *", False),
        ("default-src https:", False),
        ("script-src 'self'", False),
        ("", False),
    ],
)
def test_a_policy_confines_only_if_it_names_no_other_host(policy: str, kept: bool) -> None:
    assert pages.confined(policy) is kept
