"""A job reads the same pipeline that its order was made from."""

import json

import pytest

from rempart.errors import SparkError
from rempart.settings import plain_yaml
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.settings.pipelines import load_all, parsed
from rempart.spark.definitions import _ASIDE, defined, definition

SHIPPED = {name: found for name, found in load_all().items() if isinstance(found, Pipeline)}
SHIPPED |= {
    file.stem: parsed(plain_yaml.load(file.read_text(encoding="utf-8")))
    for file in sorted((project_root() / "data" / "flights").glob("*.yaml"))
}


def _known(pipeline: Pipeline) -> dict[str, str]:
    known = {pipeline.name: definition(pipeline)}
    if isinstance(pipeline, ModelPipeline):
        known |= {view.pipeline: definition(view.source) for view in pipeline.used_views().values()}
    return known


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_each_shipped_pipeline_comes_back_as_it_was(name: str) -> None:
    pipeline = SHIPPED[name]
    back = defined(_known(pipeline), name)
    aside = {field for field in _ASIDE if field in type(pipeline).model_fields}
    assert type(back) is type(pipeline)
    assert back.model_dump(exclude=aside) == pipeline.model_dump(exclude=aside)


def test_what_a_run_replaced_reaches_the_job() -> None:
    pipeline = next(iter(SHIPPED.values()))
    below = pipeline.reading_from(f"{pipeline.source.prefix}folder/")
    assert defined(_known(below), below.name).source.prefix == below.source.prefix


def test_a_definition_without_meaning_for_the_job_makes_no_other_job() -> None:
    pipeline = next(iter(SHIPPED.values()))
    assert definition(pipeline.model_copy(update={"engine": "spark", "owner": "x"})) == definition(pipeline)


def test_an_order_without_or_with_a_wrong_definition_is_refused() -> None:
    with pytest.raises(SparkError, match="does not define pipeline 'x'"):
        defined({}, "x")
    with pytest.raises(SparkError, match="is not valid"):
        defined({"x": json.dumps({"name": "x"})}, "x")
