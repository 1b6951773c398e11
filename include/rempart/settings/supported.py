"""What a pipeline file may already declare although this version does not run it: such a file is refused by name.

Without this list a declared rule would silently not hold. Whoever builds one of these removes its line.
"""

from __future__ import annotations

from collections.abc import Iterator

from rempart.settings.pipeline import Pipeline


def not_yet(pipeline: Pipeline) -> Iterator[str]:
    """Yield the key and reason of each declaration that this version does not run."""
    if pipeline.source.kind == "derived":
        return  # a derived delivery stands for the whole, so no row of it meets an earlier one
    if pipeline.conflict_rule != "refuse":
        yield (
            f"on_conflict: this version refuses changed rows; `{pipeline.conflict_rule}` is not built yet. Write "
            "`on_conflict: refuse`: a row that changed after it was accepted then goes to quarantine"
        )
