"""Datasets of the Hugging Face Hub, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from factory.core.errors import SourceError
from factory.sources.formats.base import Row

HUB_TIMEOUT = 20.0
"""Seconds to wait for the Hub's first answer."""


class HubDataset:
    """One dataset, at the commit that its revision (by default the newest) had when it was opened."""

    def __init__(
        self, name: str, subset: str | None, split: str, revision: str | None = None
    ) -> None:
        self._name, self._split = name, split
        self.files: list[Path] = []
        with self._reachable():
            import datasets
            from huggingface_hub import HfApi

            self.version = (
                HfApi().dataset_info(name, revision=revision, timeout=HUB_TIMEOUT).sha or ""
            )
            self._data = datasets.load_dataset(
                name, subset, split=split, streaming=True, revision=self.version or None
            )
            self.columns: list[str] = self._data.column_names or []
        self.has_schema = bool(self.columns)

    def count(self, limit: int | None) -> int | None:
        splits = self._data.info.splits or {}
        return splits[self._split].num_examples if self._split in splits else None

    def rows(self, start: int, columns: list[str]) -> Iterator[Row]:
        with self._reachable():
            wanted = [name for name in self.columns if name in columns]
            data = self._data.select_columns(wanted) if wanted else self._data
            for fields in data.skip(start) if start else data:
                yield Row(None, fields)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the errors of the Hub's libraries share no base class
            message = " ".join(str(error).split())[:300] or type(error).__name__
            raise SourceError(
                f"Hub dataset {self._name!r}, split {self._split!r}: {message}; check the name, "
                "source.subset, source.split and the network, or name a local file"
            ) from error
