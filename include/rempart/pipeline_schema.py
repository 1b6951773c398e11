"""The JSON Schema of a pipeline file, from the model that reads it: `python -m rempart.pipeline_schema [--check]`.

Editors use it to complete and check a file as it is written; what spans several keys (a leak from the future, an
unknown column) only `rempart config check` says.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rempart.config import project_root
from rempart.pipeline import Pipeline

FILE = Path("docs/reference/pipeline.schema.json")


def pipeline_schema() -> dict[str, Any]:
    """The schema, draft 2020-12."""
    schema: dict[str, Any] = _durations(Pipeline.model_json_schema(by_alias=True))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Rempart pipeline",
        "description": "One file of include/pipelines: source, schema, expectations, features, trainer and gate.",
    }


def _durations(node: Any) -> Any:
    """Durations are written as 90d or 15m, not in the ISO 8601 form that pydantic assumes."""
    if isinstance(node, list):
        return [_durations(one) for one in node]
    if not isinstance(node, dict):
        return node
    plain = {name: _durations(value) for name, value in node.items()}
    if plain.get("format") == "duration":
        del plain["format"]
        plain["pattern"] = r"^\d+\s*[smhdw]$"
    return plain


def text() -> str:
    """The schema as the file holds it."""
    return json.dumps(pipeline_schema(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the file, or with `--check` say whether it is up to date (1 if not)."""
    file = project_root() / FILE
    if "--check" in arguments:
        if file.is_file() and file.read_text(encoding="utf-8") == text():
            return 0
        sys.stderr.write(f"{FILE} is stale: run `python -m rempart.pipeline_schema`\n")
        return 1
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{FILE} written\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
