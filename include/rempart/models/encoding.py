"""Encode a table's feature columns as the model's matrix, from the feature declarations alone.

Nothing is fitted: numbers and booleans are float32 with null as NaN; a category is one column of 0 and 1 per declared
value, in the declared order, all 0 when it is null. So the same table always gives the same matrix, and a model carries
no value of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rempart.counts import counted
from rempart.errors import TrainingError
from rempart.models import definitions
from rempart.settings.columns import Column
from rempart.settings.pipeline import ModelPipeline

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_EXACT = 1 << 53
"""Integers up to it are exact in float64."""
FeatureType = Literal["number", "boolean", "category"]


@dataclass(frozen=True)
class Feature:
    """One model input: a column of the training set and its type; `values` is a category's closed list.

    `definition`: digest of what its value is made of; "" of a target.
    """

    name: str
    type: FeatureType
    values: tuple[str, ...] = ()
    definition: str = ""

    def __post_init__(self) -> None:
        if self.type not in ("number", "boolean", "category") or (self.type == "category") != bool(self.values):
            raise TrainingError(
                f"Feature '{self.name}' is declared as {self.type} with {len(self.values)} values",
                "Declare a number, a boolean, or a category with its closed list of values.",
            )

    def columns(self) -> tuple[str, ...]:
        """Return the names of its matrix columns; for a category `name=value`."""
        return tuple(f"{self.name}={value}" for value in self.values) or (self.name,)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type,
            "values": list(self.values),
            "definition": self.definition,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Feature:
        return cls(str(data["name"]), data["type"], tuple(data.get("values") or ()), str(data["definition"]))


def features_of(pipeline: ModelPipeline) -> tuple[Feature, ...]:
    """Return the pipeline's model inputs with their types and definitions."""
    digests = definitions.of_pipeline(pipeline)
    return tuple(_feature(reference, column, digests[reference]) for reference, column in pipeline.inputs().items())


def of_own_row(pipeline: ModelPipeline, features: Sequence[Feature]) -> tuple[Feature, ...]:
    """Return the features but for those of trailing views, which are made of earlier rows alone."""
    views = {name for name, view in pipeline.features.items() if view.kind == "trailing"}
    return tuple(feature for feature in features if feature.name.partition("__")[0] not in views)


def _feature(reference: str, column: Column, definition: str) -> Feature:
    match column.type:
        case "category":
            return Feature(reference, "category", tuple(column.values or ()), definition)
        case "boolean":
            return Feature(reference, "boolean", (), definition)
    return Feature(reference, "number", (), definition)


def matrix_columns(features: Sequence[Feature]) -> list[str]:
    """Return the names of the matrix's columns, in order."""
    return [column for feature in features for column in feature.columns()]


def encode(features: Sequence[Feature], table: pa.Table) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the matrix [rows, matrix columns], float32.

    Raises TrainingError with the feature (never a value) if a column is missing, has another type, or holds a value
    outside its closed list.
    """
    import numpy as np

    matrix = np.empty((table.num_rows, len(matrix_columns(features))), np.float32)
    encode_into(matrix, features, table)
    return matrix


def encode_into(matrix: np.ndarray[Any, np.dtype[np.float32]], features: Sequence[Feature], table: pa.Table) -> None:
    """Write what `encode` returns into a matrix of that shape. A category may be encoded as a dictionary."""
    import numpy as np

    at = 0
    for feature in features:
        block = matrix[:, at : at + len(feature.columns())]
        if feature.type == "category":
            found = places(feature, table)
            (rows,) = np.nonzero(found >= 0)
            block[:] = 0
            block[rows, found[rows]] = 1
        else:
            block[:, 0] = _numeric(feature, table)
        at += block.shape[1]


def _column(feature: Feature, table: pa.Table) -> pa.Array:
    if feature.name not in table.column_names:
        raise TrainingError(
            f"encode the table: it lacks column '{feature.name}', which the model reads",
            "Build the table with the pipeline's features, or train a model on the table's features.",
        )
    return table.column(feature.name).combine_chunks()


def _numeric(feature: Feature, table: pa.Table) -> Any:
    """Return a number or boolean of each row as float32, NaN for an empty cell."""
    import pyarrow as pa

    column = _column(feature, table)
    if not any(is_(column.type) for is_ in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)):
        raise TrainingError(
            f"encode feature '{feature.name}': it is declared as {feature.type}, but the table's column is "
            f"{column.type}",
            "Correct the column's type in the pipeline's schema.",
        )
    return column.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)


def places(feature: Feature, table: pa.Table) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return a category as the places of its values in the declared order, -1 for an empty cell.

    Raises TrainingError if the column is missing or holds a value outside its closed list.
    """
    import numpy as np

    positions, outside = _positions(feature, table)
    if rows := outside.true_count:
        raise TrainingError(
            f"encode feature '{feature.name}': a value in {counted(rows, 'row')} is not declared",
            "Add the value to the column's `values` in the pipeline file, or correct the data.",
        )
    return np.asarray(positions.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def unknown(features: Sequence[Feature], table: pa.Table) -> dict[str, pa.BooleanArray]:
    """Return the categories with values outside their closed lists, and for each which rows have such a value."""
    found = {feature.name: _positions(feature, table)[1] for feature in features if feature.type == "category"}
    return {name: outside for name, outside in found.items() if outside.true_count}


def _positions(feature: Feature, table: pa.Table) -> tuple[Any, pa.BooleanArray]:
    """Return the place of each value in the declared order, null if it has none, and which values have none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _column(feature, table)
    texts = column.dictionary if pa.types.is_dictionary(column.type) else column
    positions = pc.index_in(texts.cast(pa.string()), value_set=pa.array(feature.values, pa.string()))
    if texts is not column:
        positions = positions.take(column.indices)
    return positions, pc.and_(positions.is_null(), column.is_valid())


class RowEncoder:
    """Makes the matrix of `encode` for rows of Python values, in the order of the features: faster for a few rows."""

    def __init__(self, features: Sequence[Feature]) -> None:
        widths = [len(feature.values) or 1 for feature in features]
        starts = [sum(widths[:position]) for position in range(len(features))]
        self._width = sum(widths)
        self._numbers = [position for position, feature in enumerate(features) if feature.type != "category"]
        self._places = [starts[position] for position in self._numbers]
        self._categories = [
            (position, feature.name, {None: -1} | {value: start + i for i, value in enumerate(feature.values)})
            for position, (feature, start) in enumerate(zip(features, starts, strict=True))
            if feature.type == "category"
        ]

    def matrix(self, rows: Sequence[Sequence[Any]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the matrix [rows, matrix columns]. Raises TrainingError with the feature at fault, never a value."""
        import numpy as np

        matrix = np.zeros((len(rows), self._width), np.float32)
        columns = list(zip(*rows, strict=True))
        if rows and self._numbers:
            with np.errstate(over="ignore"):
                matrix[:, self._places] = _numbers([columns[position] for position in self._numbers]).T
        ones = list[int]()
        for position, name, places in self._categories:
            try:
                found = [places[value] for value in columns[position]] if rows else []
            except KeyError:
                raise TrainingError(
                    f"encode feature '{name}': a row holds a value that is not declared",
                    "Add the value to the column's `values` in the pipeline file, or correct the data.",
                ) from None
            ones += [row * self._width + place for row, place in enumerate(found) if place >= 0]
        matrix.reshape(-1)[ones] = 1
        return matrix


def _numbers(columns: Sequence[Sequence[Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return columns as float64 that float32 rounds as Arrow does: a large integer does not pass through float64."""
    import numpy as np

    cells = [[np.nan if cell is None else cell for cell in column] for column in columns]
    made = np.array(cells, np.float64)
    for column, row in zip(*np.nonzero(np.abs(made) >= _EXACT), strict=True):
        if type(cell := cells[column][row]) is int:
            made[column, row] = np.float32(np.int64(cell))
    return made
