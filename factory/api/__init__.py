"""What `import factory` offers: the commands as functions, for scripts and notebooks.

    import factory

    made = factory.run("pipelines/quickstart.yaml", overrides={"source.limit": 20})
    pairs = made.dataset("preference")
    factory.train("dpo", data=made.folder / "datasets" / "preference", model="...", out="runs/model")

They say on stderr how far they are, as the commands do. Where an event loop runs already, as in a
notebook, they work in a thread. A script needs no `if __name__ == "__main__"`.

They raise `factory.core.errors.FactoryError`; `RecipeError`, one of its kind, for what the user wrote.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from datasets import Dataset

    from factory.core.records import Failure, Sample
    from factory.pipeline.manifest import Manifest
    from factory.pipeline.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """A run that is made."""

    folder: Path
    manifest: Manifest
    """Counts, tokens, and a report on each dataset: what manifest.json holds."""

    def dataset(self, view: str) -> Dataset:
        """A view's rows, by its name (or its kind, where it has none), memory-mapped."""
        from datasets import load_from_disk

        return load_from_disk(str(self.folder / "datasets" / view))

    def traces(self) -> Iterator[Sample]:
        """`load_traces` of it."""
        return load_traces(self.folder)


def _where_a_loop_may_run(function: Callable[..., T]) -> Callable[..., T]:
    """In a thread, if an event loop runs in this one: ours would not start beside it."""

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> T:
        import asyncio

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return function(*args, **options)
        return _in_a_thread(functools.partial(function, *args, **options))

    return wrapped


def _in_a_thread(work: Callable[[], T]) -> T:
    import ctypes
    import threading

    ended: list[T] = []
    failures: list[BaseException] = []
    # Not `join`: interrupted, it takes a thread that works for one that ended.
    is_over = threading.Event()

    def target() -> None:
        try:
            ended.append(work())
        except BaseException as error:
            failures.append(error)
        finally:
            is_over.set()

    thread = threading.Thread(target=target, name="factory")
    steps: Iterator[Callable[[], object]] = itertools.chain(
        [thread.start], itertools.repeat(is_over.wait)
    )
    while not is_over.is_set():
        try:
            for step in steps:
                step()
                if is_over.is_set():
                    break
        except KeyboardInterrupt:  # it is the main thread that gets it: tell the one that works
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt)
            )
    if failures:
        raise failures[0]
    return ended[0]


@_where_a_loop_may_run
def run(
    recipe: str | Path,
    out: str | Path | None = None,
    *,
    limit: int | None = None,
    ledger: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Run:
    """`factory run`: make what a recipe asks for, or what is missing of it.

    `out`: the run's folder (None: runs/<recipe's name>). `limit`: at most so many rows of the source.
    `ledger`: a file to remember calls in, which runs may share (None: the run's own). `overrides`:
    fields of the recipe, as `{"stages.0.n": 4}`. `quiet`: no progress on stderr.
    """
    from factory.pipeline.trainings import run_with_trainings

    loaded = _load(recipe, overrides, limit)
    folder = Path(out) if out is not None else Path("runs") / loaded.name
    shared = Path(ledger) if ledger is not None else None
    manifest = run_with_trainings(loaded, folder, ledger=shared, progress=_progress(quiet))
    return Run(folder, manifest)


@_where_a_loop_may_run
def preview(
    recipe: str | Path,
    samples: int = 3,
    *,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> list[Sample | Failure]:
    """`factory preview`: the first samples, made for real; a `Failure` for each row that has none.
    Their calls are remembered in `out`, for the run."""
    from factory.pipeline.preview import answer_some
    from factory.pipeline.trainings import as_far_as_trained

    loaded = _load(recipe, overrides, samples)
    folder = Path(out) if out is not None else Path("runs") / loaded.name
    return answer_some(as_far_as_trained(loaded, folder), folder, progress=_progress(quiet))


@_where_a_loop_may_run
def train(
    kind: str,
    *,
    data: str | Path,
    model: str | Path,
    out: str | Path,
    config: Mapping[str, Any] | None = None,
    lora: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """`factory train`: sft, dpo, kto, reward, prm, grpo, rloo or ppo on a dataset.

    `data`: a folder or file (`datasets`, JSONL, Parquet) or a Hub id. `config`: fields of TRL's config
    of that trainer. `lora`: peft's `LoraConfig` fields. `resume`: from the last checkpoint in `out`.
    Returns what training.json holds: steps, seconds, metrics, versions.
    """
    from factory.training import listed

    return listed(kind).train(
        data, model, Path(out), lora=lora, config=dict(config or {}), resume=resume
    )


def load_traces(run: str | Path) -> Iterator[Sample]:
    """Every sample of a run in source order, with its candidates, critiques, verdicts and scores
    (`factory.core.records`); of a run that is going, those of the parts that are whole. One batch is in
    memory at a time.

    Raises `RecipeError` if the folder holds no run.
    """
    from factory.pipeline.manifest import of_run
    from factory.pipeline.traces import read_samples

    of_run(Path(run))
    return read_samples(Path(run))


def _load(recipe: str | Path, overrides: Mapping[str, Any] | None, limit: int | None) -> Any:
    from factory.recipe.load import load

    texts = [f"{field}={json.dumps(value)}" for field, value in (overrides or {}).items()]
    return load(Path(recipe), texts, limit=limit)


def _progress(quiet: bool) -> Progress:
    from factory.pipeline.progress import Progress

    return Progress(is_quiet=quiet)
