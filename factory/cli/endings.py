"""The last lines of a command: the next commands to copy, with the paths of its results."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.paths import near
from factory.training import TRAINERS, trainer_of

if TYPE_CHECKING:
    from factory.align.loop import Alignment
    from factory.evaluation.score import Record
    from factory.pipeline.manifest import Manifest
    from factory.recipe.recipe import Recipe


def command(*words: object) -> str:
    """A command line to copy, quoted for the shell: `.venv/bin/factory run 'my recipe.yaml'`."""
    return " ".join([_program(), *(shlex.quote(str(word)) for word in words)])


def _program() -> str:
    """This program as the user typed it: `factory`, a path, or `python -m factory`."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py" or started.suffix == ".py" or not started.name:
        python = shutil.which("python") == sys.executable
        return "python -m factory" if python else f"{shlex.quote(near(sys.executable))} -m factory"
    found = shutil.which(started.name)
    if found is not None and Path(found).resolve() == started.resolve():
        return started.name
    return shlex.quote(near(started))


def print_commands(*commands: tuple[str, str]) -> None:
    """Print the next commands. `commands`: (purpose, command line)."""
    if not commands:
        return
    print("\nnext:")
    for what, text in commands:
        print(f"  # {what}")
        print(f"  {text}")


def after_init(folder: Path) -> None:
    print(f"edit the principles in {folder / 'constitutions' / 'one-sentence.yaml'}")
    after_validate(folder / "pipelines" / "quickstart.yaml")


def after_validate(recipe: Path) -> None:
    print_commands(
        ("make three samples and read them", command("preview", recipe)),
        ("make the data", command("run", recipe)),
    )


def after_preview(recipe: Path, out: Path | None, set_: Sequence[str]) -> None:
    """The run reuses the preview's calls: they are in its folder."""
    where = [] if out is None else ["--out", out]
    options = [word for text in set_ for word in ("--set", text)]
    print_commands(
        (
            "make the data; calls of the preview are not made again",
            command("run", recipe, *where, *options),
        )
    )


def after_show(run: Path, manifest: Manifest) -> None:
    """Suggest samples to look at: changed verdicts, and the most frequent drop."""
    commands = []
    drops = sum((Counter(view["drops"]) for view in manifest.views), Counter[str]())
    if any(judge["flips"] for view in manifest.views for judge in view.get("judges", {}).values()):
        what = "verdicts that changed with the order of the answers"
        commands.append((what, command("show", run, "--flipped")))
    for reason, count in drops.most_common(1):
        what = f"the most frequent reason for drops: '{reason}', {count:,} times"
        commands.append((what, command("show", run, "--dropped", reason)))
    print_commands(*commands)


def after_run(folder: Path, manifest: Manifest, recipe: Recipe | None = None) -> None:
    """Suggest a training on the datasets that have rows: the recipe's, where one is given."""
    rows = {view["view"]: view["rows"] for view in manifest.views}
    commands: list[tuple[str, str]] = []

    def suggest(what: str, kind: str, view: str, result: str, base: str, *options: str) -> None:
        data, out = folder / "datasets" / view, folder / "models" / result
        words = ["train", kind, "--data", data, "--model", base, "--out", out]
        commands.append((what, command(*words, *options)))

    for training in recipe.training if recipe else ():
        if training.model is not None and recipe is not None and rows.get(training.view):
            what, base = f"train {training.result} as the recipe says", training.model
            options = [f"--set={name}={_value(value)}" for name, value in training.config.items()]
            its = (training.kind, training.view, training.result, recipe.absolute_model(base))
            suggest(what, *its, *options)
            break
    if not commands:
        for view in manifest.views:
            kind = trainer_of(view.get("kind", ""))
            if view["rows"] and kind is not None and kind != "grpo":  # it needs rewards
                base = next((model["model"] for model in manifest.models.values()), "MODEL")
                suggest("train a model on it", kind, view["view"], kind, base)
                break
    if recipe is not None and recipe.evaluation is not None and recipe.training:
        what = "or in one command: make data, train on it, compare on held-out prompts"
        commands.append((what, command("align", near(recipe.path))))
    print_commands(*commands)


def _value(value: Any) -> str:
    import msgspec

    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def after_review(run: Path) -> None:
    print_commands(
        ("make the datasets of pairs with the decisions", command("export", run, "--reviewed")),
    )


def after_score(out: Path, record: Record) -> None:
    name = next(
        (c.removeprefix("chosen_") for c in record.columns if c.startswith("chosen_")), None
    )
    if name is not None:
        what = "how often the chosen answer scores higher"
        print_commands((what, command("eval", "reward", "--data", out, "--score", name)))
    else:
        print(f"  load it with datasets.load_from_disk({str(out)!r})")


def after_training(kind: str, out: Path) -> None:
    """Print where the model is, how to load it, and a command that uses or measures it."""
    if (curves := out / "curves.png").exists():
        print(f"  curves: {curves}; the numbers: {out / 'log.jsonl'}")
    print(f"  load it with {TRAINERS[kind].load().loaded_as}.from_pretrained({str(out)!r})")
    measures = {
        "reward": ("reward", "how often it prefers the better answer"),
        "prm": ("process", "how well it finds wrong steps"),
    }
    if kind in measures:
        evaluation, what = measures[kind]
        words = ["eval", evaluation, "--data", "HELD_OUT_DATASET", "--model", out]
        print_commands((what, command(*words)))
    else:
        words = ["preview", "RECIPE", "--set", f"models.policy.model={out.absolute()}"]
        print_commands(("read its answers, with a recipe whose model is 'policy'", command(*words)))


def after_align(
    recipe: Path, out: Path, done: Alignment, rounds: int, constitution: Path | None
) -> None:
    made = out / f"round-{done.rounds[-1].number}" / "run"
    commands = [("read what became of a few prompts", command("show", made))]
    if done.best is not None and done.best.round:
        words = ["preview", recipe, "--set", f"models.policy.model={done.best.model}"]
        commands.append(("read the best model's answers", command(*words)))
    if done.stopped is None:
        words = ["align", recipe, "--out", out, "--rounds", rounds + 1]
        commands.append(("one more round", command(*words)))
    if constitution is not None:
        what = f"edit {near(constitution)}, and see what that changes"
        commands.append((what, command("align", recipe, "--out", out.with_name(f"{out.name}-2"))))
    print(f"\n{made / 'datasets'}: what it was trained on, each dataset with a card")
    print(f"{out / 'align.json'}: all figures")
    print_commands(*commands)
