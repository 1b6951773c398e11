"""What a pipeline file may already declare although this version does not run it: such a file is refused by name.

Without this list a declared rule would silently not hold. Whoever builds one of these removes its line.
"""

from __future__ import annotations

from collections.abc import Iterator

from rempart.settings.pipeline import Pipeline


def not_yet(pipeline: Pipeline) -> Iterator[str]:
    """Yield the key and reason of each declaration that this version does not run."""
    source = pipeline.source
    if source.kind == "derived":
        yield "source.kind: this version does not run `derived` pipelines yet; deliver files instead"
