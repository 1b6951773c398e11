"""How the tutorial's test reads a page, and compares an output with what the page shows."""

from __future__ import annotations

import pytest

from tests.tutorial_pages import Block, blocks, unlike

PAGE = """
```sh
one
```

<!-- fails -->
```sh
two
```

```text
it ... here
...
end
```

<!-- not run: it needs a person -->
```sh
three
```
"""


def test_a_page_gives_its_blocks_with_their_marks_and_outputs() -> None:
    assert list(blocks(PAGE)) == [
        Block("sh", "one\n", "", None),
        Block("sh", "two\n", "fails", "it ... here\n...\nend\n"),
        Block("sh", "three\n", "not run: it needs a person", None),
    ]


@pytest.mark.parametrize(
    "output",
    ["it is here\nend\n", "it was  here\nmore\nand more\nend\n"],
)
def test_an_output_may_have_other_parts_where_the_page_shows_dots(output: str) -> None:
    assert unlike(output, "it ... here\n...\nend\n") is None


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("it is gone\nend\n", "it ... here"),
        ("it is here\nmore\n", "end"),
        ("end\nit is here\n", "it ... here"),
        ("it is here\nmore\n\nend of it\n", "end"),
    ],
)
def test_an_output_without_a_shown_line_is_unlike_the_page(output: str, line: str) -> None:
    assert unlike(output, "it ... here\n...\nend\n") == line


def test_without_dots_no_line_may_stand_between() -> None:
    assert unlike("a\nb\nc\n", "a\nc\n") == "c"
    assert unlike("a\nb\nc\n", "a\nb\nc\n") is None
    assert unlike("before\na\n", "a\n") == "a"
