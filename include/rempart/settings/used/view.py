"""A feature view that takes the values of another pipeline's view."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from rempart.errors import PipelineError
from rempart.settings.columns import Column
from rempart.settings.schema import Strict

_VIEW = r"^[a-z][a-z0-9_]{0,39}\.[a-z][a-z0-9_]{0,39}$"


class UsedView(Strict):
    """A view of another pipeline: its values as they were known there at the moment of this pipeline's prediction."""

    kind: Literal["used"]
    from_: str = Field(alias="from", pattern=_VIEW, description="The view that is used, as `PIPELINE.VIEW`.")
    key: dict[str, str] = Field(
        min_length=1,
        description="For each column of that view's key, the column of this pipeline's schema that holds its value.",
    )
    description: str = Field(default="", description="What the view tells, for the catalogue. Default: as it says.")
    _source: Any = PrivateAttr(default=None)

    @property
    def pipeline(self) -> str:
        """Return the name of the pipeline whose view is used."""
        return self.from_.partition(".")[0]

    @property
    def view(self) -> str:
        """Return the name that the view has in its own pipeline."""
        return self.from_.partition(".")[2]

    def of_source(self, source: Any) -> UsedView:
        """Return the view with the pipeline (a ModelPipeline) that makes its values."""
        found = self.model_copy()
        found._source = source
        return found

    @property
    def source(self) -> Any:
        """Return the pipeline that makes the values, a ModelPipeline. Raises PipelineError without `of_source`."""
        if self._source is None:
            raise PipelineError(
                f"read the view '{self.from_}' of another pipeline: its file was not read",
                "Read the pipeline by `rempart.settings.pipelines`, which reads the files that it names as well.",
            )
        return self._source

    @property
    def of(self) -> Any:
        """Return the view that is used, a RowView or a TrailingView. Raises PipelineError."""
        return self.source.features[self.view]

    def features(self) -> list[str]:
        """Return the names of the features. Raises PipelineError."""
        return [*self.of.features()]

    def types(self, columns: dict[str, Column]) -> dict[str, Column]:
        """Return each feature as a column of its type, whatever the `columns` of this pipeline."""
        return dict(self.of.types(self.source.columns))

    def faults(self, pipeline: str, target: str) -> Iterator[str]:
        """Yield what is wrong with the view as far as the file of this pipeline tells."""
        if self.pipeline == pipeline:
            yield f"from: it names this pipeline; its view '{self.view}' is in every training set already"
        if target in self.key.values():
            yield f"key: the target '{target}' cannot tell which value is used; name a column that is known before"
