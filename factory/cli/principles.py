"""`factory constitution show`, `lint`, `test`, `import`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.cli import endings, printing
from factory.cli.options import path_option
from factory.core.errors import RecipeError
from factory.core.paths import near
from factory.core.terminal import printable

if TYPE_CHECKING:
    from factory.core.constitution import Constitution
    from factory.workbench.tests import Report

FileArgument = Annotated[
    str,
    typer.Argument(metavar="FILE", help="A constitution, or the name of a shipped one: concise."),
]
_SAID = {
    "passed": "passed",
    "failed": "failed",
    "order": "decided by the order",
    "unparsed": "unparsed",
}
_WIDTH = 100


def show(file: FileArgument) -> None:
    """Print a constitution as one readable page."""
    from factory.core.constitution import load
    from factory.recipe.named_constitution import find

    print(printable(_page(load(find(file, Path())))))


def _page(made: Constitution) -> str:
    count = len(made.principles)
    lines = [f"{made.name} {made.version}: {count} principle{'s' * (count > 1)}"]
    lines += [*_said("", made.description)] if made.description else []
    for p in made.principles:
        when = f", only with a tag of {', '.join(p.applies_when.tags)}" if p.applies_when else ""
        lines += ["", f"{p.id} (weight {p.weight:g}{when})", f"  {p.title}"]
        for what, text in (
            ("critique", p.critique), ("revision", p.revision), ("compare", p.compare),
        ):  # fmt: skip
            lines += _said(f"  {what:<9} ", text)
        for test in p.tests:
            lines += [*_said("  test      ", test.prompt), *_said("    better: ", test.better)]
            lines += _said("    worse:  ", test.worse)
    for example in made.examples:
        lines += ["", *_said("example     ", example.prompt)]
        for what in ("answer", "critique", "revision"):
            lines += _said(f"  {what:<9} ", getattr(example, what))
    return "\n".join(lines)


def _said(label: str, text: str) -> list[str]:
    """A text in lines that begin under its beginning."""
    indent = " " * len(label)
    paragraphs = [
        textwrap.wrap(line, _WIDTH - len(label), break_on_hyphens=False) or [""]
        for line in text.splitlines()
    ]
    rows = [row for paragraph in paragraphs for row in paragraph]
    return [f"{label if i == 0 else indent}{row}".rstrip() for i, row in enumerate(rows)]


def lint(
    file: FileArgument,
    run: Annotated[
        Path | None,
        path_option("--run", metavar="RUN", help="Also compare its principles' verdicts in RUN."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="M", help="Texts must fit this model's context."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print findings as JSON.")] = False,
) -> None:
    """Find mistakes in a constitution, without asking a model. Ends with 1 if there are errors."""
    import msgspec

    from factory.recipe.named_constitution import find
    from factory.workbench.lint import lint as findings_of

    context = None
    if model is not None or run is not None:
        from factory.workbench.contexts import context_of, context_of_run

        if model is not None:
            context = context_of(model)
        elif run is not None and (run / "recipe.yaml").is_file():
            context = context_of_run(run)
    path = find(file, Path())
    found = findings_of(path, run=run, context=context)
    errors = sum(each.severity == "error" for each in found)
    if json_:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        for each in found:
            print(printable(each.text()))
        if found:
            print(
                f"{near(path)}: {_counted(errors, 'error')}, {_counted(len(found) - errors, 'warning')}"
            )
        else:
            print(f"{near(path)}: nothing found")
            test_it = endings.command("constitution", "test", file, "--model", "MODEL")
            endings.print_commands(("put its tests to a judge", test_it))
    if errors or (strict and found):
        raise typer.Exit(1)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def run_tests(
    file: FileArgument,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="M",
            help="The judge: a model as in a recipe; with --recipe its name there.",
        ),
    ],
    recipe: Annotated[
        Path | None,
        path_option("--recipe", metavar="FILE", help="Use this recipe's model, engine and judge."),
    ] = None,
    reviews: Annotated[
        Path | None,
        path_option(
            "--reviews",
            metavar="RUN",
            help="Ask the pairs that people decided in this run (`factory review`) instead.",
        ),
    ] = None,
    repeat: Annotated[
        int, typer.Option("--repeat", min=1, max=10_000, help="Draws, where the judge is sampled.")
    ] = 1,
    pattern: Annotated[str, typer.Option("-k", metavar="PATTERN", help="Only these tests.")] = "",
    least: Annotated[
        float, typer.Option("--min", min=0, max=1, help="End with 1 if a smaller share passes.")
    ] = 0.8,
    junit: Annotated[
        Path | None, path_option("--junit", metavar="FILE", help="Write JUnit XML.")
    ] = None,
    json_: Annotated[
        Path | None, path_option("--json", metavar="FILE", help="Write all figures as JSON.")
    ] = None,
    ledger: Annotated[
        Path | None,
        path_option("--ledger", metavar="FILE", help="Remember calls in FILE, not in the cache."),
    ] = None,
) -> None:
    """Put the tests of a constitution's principles to a judge, each in both orders.

    Only tests that an edit touched are asked again.
    """
    from factory.core.constitution import load
    from factory.pipeline.manifest import of_run
    from factory.pipeline.run import in_loop
    from factory.recipe.named_constitution import find
    from factory.workbench import tests as testing
    from factory.workbench.cases import decided_pairs

    made = load(find(file, Path()))
    judge = testing.judge_of_recipe(recipe, model) if recipe else testing.judge_of_model(model)
    where = ledger or testing.default_ledger()
    cases = None
    if reviews is not None:
        of_run(reviews)
        cases = decided_pairs(reviews, made)
    work = testing.run_tests(made, judge, where, cases=cases, repeat=repeat, pattern=pattern)
    report = in_loop(work)
    print(printable(_table(report)))
    if repeat > 1 and all(test.low is None for test in report.tests):
        print("note: this judge is read from its log-probabilities, so --repeat draws nothing")
    if junit is not None:
        _write(junit, "--junit", testing.junit(report))
    if json_ is not None:
        import msgspec

        content = {**msgspec.to_builtins(report), "passed": report.passed}
        _write(
            json_, "--json", msgspec.json.format(msgspec.json.encode(content), indent=2).decode()
        )
    if report.passed < least:
        print(f"fewer than {least:.0%} passed")
        raise typer.Exit(1)


def _table(report: Report) -> str:
    lines = []
    width = max(len(name) for name in report.by_principle())
    for name, tests in report.by_principle().items():
        passed = sum(test.outcome == "passed" for test in tests)
        lines.append(f"{name:<{width}}  {passed} of {len(tests)} passed")
        for test in tests:
            p = "" if test.p is None else f"{test.p:.2f}"
            if test.low is not None and test.high is not None:
                p += f" ({test.low:.2f} to {test.high:.2f})"
            prompt = textwrap.shorten(test.prompt, 50, placeholder=" ...")
            lines.append(f"  {_SAID[test.outcome]:<20}  {p:<5}  {prompt}  {test.error}".rstrip())
    counts = [
        f"{n} {_SAID[outcome]}"
        for outcome in _SAID
        if (n := sum(test.outcome == outcome for test in report.tests))
    ]
    lines += ["", f"{report.constitution} {report.version}, judge {report.model}: "]
    lines[-1] += f"{len(report.tests)} tests, {', '.join(counts)}; {report.calls} calls made"
    return "\n".join(lines)


def _write(path: Path, option: str, text: str) -> None:
    from factory.core.files import whole

    with printing.writing(option, path), whole(path) as half:
        half.write_text(text, encoding="utf-8")


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON, JSON lines, text or Markdown.")
    ],
    out: Annotated[Path, path_option("--out", "-o", metavar="NEW.yaml", help="The file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace NEW.yaml if it exists.")] = False,
) -> None:
    """Turn principles in other formats into a constitution."""
    from factory.workbench.convert import convert

    if out.exists() and not force:
        raise RecipeError(f"--out {out} exists; name another file, or add --force to replace it")
    made = convert(file, out.stem)
    _write(out, "--out", made.text)
    print(f"{out}: {_counted(made.principles, 'principle')}")
    for slug, fields in made.composed.items():
        print("\n".join(printing.wrapped(f"{slug}: composed {', '.join(fields)}", "  ")))
    for each in made.skipped:
        print(printable(f"  left out: {each}"))
    endings.print_commands(
        (
            "check it: imported principles have no tests yet",
            endings.command("constitution", "lint", out),
        )
    )
