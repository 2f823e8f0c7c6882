"""Columns and their types, as `datasets` describes them, without importing it.

The import takes two seconds, too long for the end of a short run. `Features` are a view's columns.
Files hold the same bytes that `datasets.Features` of the same names and types would write.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Value:
    """One value. `dtype`: `string`, `float64` or `bool`."""

    dtype: str

    def described(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "_type": "Value"}

    def arrow(self) -> pa.DataType:
        import pyarrow as pa

        return {"string": pa.string(), "float64": pa.float64(), "bool": pa.bool_()}[self.dtype]


@dataclass(frozen=True)
class List:
    """A list of values, or of structs: names and their types."""

    feature: Value | dict[str, Value]

    def described(self) -> dict[str, Any]:
        inner = self.feature
        if isinstance(inner, Value):
            return {"feature": inner.described(), "_type": "List"}
        fields = {name: field.described() for name, field in inner.items()}
        return {"feature": fields, "_type": "List"}

    def arrow(self) -> pa.DataType:
        import pyarrow as pa

        inner = self.feature
        if isinstance(inner, Value):
            return pa.list_(inner.arrow())
        return pa.list_(pa.struct({name: field.arrow() for name, field in inner.items()}))


class Features(dict[str, Value | List]):
    """Names of columns, in order, and their types."""

    @property
    def arrow_schema(self) -> pa.Schema:
        import pyarrow as pa

        described = {name: column.described() for name, column in self.items()}
        told = json.dumps({"info": {"features": described}})
        columns = {name: column.arrow() for name, column in self.items()}
        return pa.schema(columns, metadata={"huggingface": told})
