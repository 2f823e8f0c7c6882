"""The command line: what it prints, and with which code it ends."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import typer
import yaml

import factory
from factory import training
from factory.cli import doctor
from factory.cli.doctor import Finding
from factory.cli.main import app, main
from factory.core.errors import EngineError, FactoryError, RecipeError
from factory.core.records import Sample
from factory.engines.base import Completion, Request
from factory.pipeline import pulse, trainings
from factory.pipeline import run as runner
from factory.pipeline.manifest import Manifest
from factory.pipeline.manifest import read as load_manifest
from factory.pipeline.progress import Progress
from factory.pipeline.traces import read_samples
from factory.recipe.load import load
from factory.recipe.recipe import Recipe
from factory.stages.models import StageCount
from tests.conftest import ROOT
from tests.fakes import FakeEngine

HEAVY = (
    "torch",
    "vllm",
    "transformers",
    "datasets",
    "trl",
    "pandas",
    "huggingface_hub",
    "pydantic",
    "yaml",
)


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `factory ARGUMENTS` within this process."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def called(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["factory", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int)
        return Ended(end.value.code, *capsys.readouterr())

    return called


@pytest.fixture
def run_folder(project: Path, tmp_path: Path) -> Path:
    """A finished run of the project's recipe."""
    out = tmp_path / "run"
    recipe = load(project / "recipe.yaml")
    engines = {"policy": FakeEngine()}
    asyncio.run(runner.run_async(recipe, out, engines=engines, progress=Progress(is_quiet=True)))
    return out


def fails_with(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


# -- as a process -------------------------------------------------------------------------------


def shell(*arguments: object) -> Ended:
    command = [sys.executable, "-m", "factory", *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def test_a_valid_recipe_ends_with_0() -> None:
    ended = shell("validate", "pipelines/self-rewarding.yaml", "--set", "training=[]")
    assert ended.code == 0
    assert ended.out.startswith("pipelines/self-rewarding.yaml is valid\n")


def test_an_invalid_recipe_ends_with_2_and_one_error_on_stderr() -> None:
    ended = shell("validate", "pipelines/quickstart.yaml", "--set", "stages.2.model=judge")
    assert (ended.code, ended.out) == (2, "")
    told = [line for line in ended.err.splitlines() if not line.startswith("  checking ")]
    assert told == ["error: --set stages.2.model=judge: no model named 'judge' (have: policy)"]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from factory.cli.main import main; sys.argv = ['factory', '--help']\n"
        "try: main()\n"
        f"finally: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr == "[]\n"
    assert "validate" in ended.stdout


def test_checking_a_recipe_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from factory.recipe.load import load\n"
        "load(Path('pipelines/quickstart.yaml'))\n"
        f"print([m for m in {HEAVY[:6]} if m in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


# -- codes and help -----------------------------------------------------------------------------


def test_help_of_every_command_names_its_arguments_and_options(call: Call) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {"doctor", "init", "validate", "preview", "run", "status", "export"} <= set(commands)
    for name, command in commands.items():
        ended = call(name, "--help")
        assert ended.code == 0
        for parameter in command.params:
            is_option = parameter.param_type_name == "option"
            for shown in parameter.opts if is_option else [parameter.metavar]:
                assert shown in ended.out, f"factory {name} --help: {shown}"
            assert parameter.help, f"factory {name}: {parameter.name}"


def test_the_version(call: Call) -> None:
    assert call("--version") == Ended(0, f"factory {factory.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["validate"], "Missing argument 'RECIPE'"),
        (["status"], "Missing argument 'RUN'"),
        (["validat"], "No such command 'validat'. Did you mean 'validate'?"),
        (["run", "x.yaml", "--limt", "3"], "No such option: --limt"),
        (["run", "x.yaml", "--limit", "0"], "Invalid value for '--limit'"),
        (["run", "x.yaml", "--limit", "few"], "Invalid value for '--limit'"),
        (["train", "dpo"], "Missing option '--data'"),
    ],
)
def test_bad_usage_ends_with_2(call: Call, arguments: list[str], complaint: str) -> None:
    ended = call(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert complaint in ended.err


@pytest.mark.parametrize(
    ("error", "code"), [(RecipeError("no such thing"), 2), (FactoryError("no such thing"), 1)]
)
def test_an_error_is_one_message_on_stderr(
    call: Call, project: Path, monkeypatch: pytest.MonkeyPatch, error: FactoryError, code: int
) -> None:
    monkeypatch.setattr(trainings, "run_with_trainings", fails_with(error))
    ended = call("run", project / "recipe.yaml", "--out", project / "run")
    assert ended == Ended(code, "", "error: no such thing\n")


def test_ctrl_c_ends_with_130_and_says_that_nothing_is_lost(
    call: Call, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "run_with_trainings", fails_with(KeyboardInterrupt()))
    ended = call("run", project / "recipe.yaml", "--out", project / "run")
    assert (ended.code, ended.out) == (130, "")
    assert ended.err == "stopped; finished work is kept: run the same command to continue\n"


def test_a_bug_of_ours_is_not_hidden(
    call: Call, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "run_with_trainings", fails_with(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        call("run", project / "recipe.yaml")


# -- validate -----------------------------------------------------------------------------------


def test_validate_shows_what_the_recipe_means(call: Call, project: Path) -> None:
    ended = call("validate", project / "recipe.yaml")
    told, _, after = ended.out.partition("\nnext:\n")
    assert f" run {project}/recipe.yaml\n" in after
    assert (ended.code, told, ended.err) == (
        0,
        f"{project}/recipe.yaml is valid\n"
        "  source        prompts.jsonl\n"
        f"  constitution  kind 1.0.0, 2 principles, {project}/kind.yaml\n"
        "  model         policy: smollm2-135m-instruct (vllm)\n"
        "  stages        generate -> critique -> revise -> judge\n"
        "  views         preference, sft\n"
        "  training      none\n",
        "",
    )


def test_validate_with_an_override(call: Call, project: Path) -> None:
    ended = call("validate", project / "recipe.yaml", "-s", "views.1.name=tuned")
    assert "views         preference, tuned\n" in ended.out


def test_validate_refuses_held_out_prompts_that_the_training_sees(
    call: Call, project: Path
) -> None:
    held_out = "evaluation={source: {path: %s}, model: policy, judge: policy}"
    ended = call("validate", project / "recipe.yaml", "-s", held_out % "prompts.jsonl")
    assert ended.code == 2
    assert "prompts are also in the source that is trained on" in ended.err
    (project / "held.jsonl").write_text('{"prompt": "Never seen."}\n')
    ended = call("validate", project / "recipe.yaml", "-s", held_out % "held.jsonl")
    assert "  held out      held.jsonl\n" in ended.out


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("stages.0.n", "--set stages.0.n: expected field=value, as stages.0.n=4"),
        ("stages.0.n=none", "--set stages.0.n=none: expected a whole number, found 'none'"),
        (
            "stages.7.n=1",
            "--set stages.7.n=1: stages is a list; expected a position from 0 to 3, found '7'",
        ),
    ],
)
def test_a_mistaken_override_is_told(call: Call, project: Path, text: str, complaint: str) -> None:
    ended = call("validate", project / "recipe.yaml", "--set", text)
    assert ended == Ended(2, "", f"error: {complaint}\n")


def test_several_mistakes_are_a_line_each(call: Call, project: Path) -> None:
    sets = [word for text in ("stages.0.n=0", "seed=x") for word in ("--set", text)]
    ended = call("validate", project / "recipe.yaml", *sets)
    assert ended.err.splitlines() == [
        "error: --set seed=x: expected a whole number, found 'x'",
        "--set stages.0.n=0: expected 1 or more, found 0",
    ]


def test_a_recipe_that_is_not_there(call: Call, project: Path) -> None:
    ended = call("validate", project / "recip.yaml")
    near = project / "recipe.yaml"
    assert ended == Ended(
        2, "", f"error: {project}/recip.yaml: no such file; did you mean {near}?\n"
    )


def listed(**functions: Any) -> Any:
    """dpo's line in the registry, with some of its functions replaced."""
    line = training.TRAINERS["dpo"]
    return SimpleNamespace(**{"view": line.view, "load": line.load, **functions})


def test_validate_checks_the_trainers_options(
    call: Call, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def check(config: dict[str, Any], lora: dict[str, Any] | None) -> None:
        seen.append((config, lora))
        raise RecipeError("config.max_step: DPOConfig has no option 'max_step'")

    monkeypatch.setitem(training.TRAINERS, "dpo", listed(check_options=check))
    text = (project / "recipe.yaml").read_text()
    entry = "training:\n- {kind: dpo, config: {max_step: 2}, lora: {r: 4}}\n"
    (project / "recipe.yaml").write_text(text + entry)
    line = len(text.splitlines()) + 2
    ended = call("validate", project / "recipe.yaml")
    assert seen == [({"max_step": 2}, {"r": 4})]
    assert ended.code == 2
    assert ended.err == (
        f"error: {project}/recipe.yaml:{line} training[0]: config.max_step: "
        "DPOConfig has no option 'max_step'\n"
    )


# -- init, doctor -------------------------------------------------------------------------------


def test_init_makes_a_project_and_names_files_that_are_there(call: Call, tmp_path: Path) -> None:
    ended = call("init", tmp_path / "mine")
    assert (ended.code, ended.err) == (0, "")
    named = [Path(line.split()[-1]) for line in ended.out.splitlines() if line.endswith("yaml")]
    assert len(named) == 3
    assert all(path.is_file() for path in named)
    edited, previewed, _ = named
    used = load(previewed).constitution
    assert used is not None
    assert used.path is not None
    assert edited.resolve() == used.path.resolve()


def test_init_refuses_a_folder_in_use(call: Call, project: Path) -> None:
    ended = call("init", project)
    assert ended == Ended(2, "", f"error: {project} is not empty; choose a new folder\n")


@pytest.mark.parametrize(("is_fine", "code"), [(True, 0), (False, 1)])
def test_doctor_ends_with_1_if_anything_is_amiss(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_fine: bool, code: int
) -> None:
    monkeypatch.chdir(tmp_path)  # no clone
    findings = [
        Finding("python", "3.11.7"),
        Finding("trl", "0.1", is_fine, "" if is_fine else "run make install"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    ended = call("doctor")
    assert ended.code == code
    lines = ended.out.splitlines()
    assert lines[0].split() == ["ok", "python", "3.11.7"]
    assert lines[1].split() == ["ok" if is_fine else "FAIL", "trl", "0.1"]
    assert [line.strip() for line in lines[2:]] == ([] if is_fine else ["run make install"])


# -- run, status, export ------------------------------------------------------------------------


def test_run_takes_its_options_to_the_runner(
    call: Call, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Recipe, Path]] = []
    ledgers: list[Path | None] = []

    def fake(recipe: Recipe, out: Path, ledger: Path | None) -> Manifest:
        seen.append((recipe, out))
        ledgers.append(ledger)
        return Manifest(digest="", source_digest="", part_size=1, state="finished")

    monkeypatch.setattr(trainings, "run_with_trainings", fake)
    monkeypatch.chdir(project)
    assert call("run", "recipe.yaml").code == 0
    more = ("-n", 3, "-o", "there", "-s", "stages.0.n=5", "--ledger", "shared.sqlite")
    assert call("run", "recipe.yaml", *more).code == 0
    assert ledgers == [None, Path("shared.sqlite")]
    (first, first_out), (second, second_out) = seen
    assert (first.source.limit, first_out) == (None, Path("runs/test"))
    assert (second.source.limit, second_out) == (3, Path("there"))
    assert second.stages[0].model_dump()["n"] == 5


def test_status_shows_what_a_run_made(call: Call, run_folder: Path) -> None:
    ended = call("status", run_folder)
    assert (ended.code, ended.err) == (0, "")
    assert f"{run_folder}: finished, 12 samples\n" in ended.out
    # A sample: 2 answers, 2 critiques, 2 revisions, 2 pairs x 2 principles x 2 orders.
    made = {line.split()[0]: line.split()[1] for line in ended.out.splitlines()[4:9]}
    assert made == {"generate": "24", "critique": "24", "revise": "24", "judge": "96", "all": "168"}
    assert f"{run_folder}/datasets/sft: 24 rows\n" in ended.out


class Looking(FakeEngine):
    """Looks at the run with `factory status` when it is first asked, and then fails or goes on."""

    def __init__(self, look: Callable[[], None], failure: Exception | None = None) -> None:
        super().__init__()
        self.look, self.failure, self.has_looked = look, failure, False

    async def generate(self, request: Request) -> Completion:
        if not self.has_looked:
            self.has_looked = True
            self.look()
        if self.failure is not None:
            raise self.failure
        return await super().generate(request)


def test_status_of_a_run_in_its_first_part(call: Call, project: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    progress = Progress(stream=io.StringIO())
    seen: list[Ended] = []

    def look() -> None:
        progress.draw()
        seen.append(call("status", out))

    def run_with(engine: Looking) -> None:
        loaded = load(project / "recipe.yaml")
        asyncio.run(runner.run_async(loaded, out, engines={"policy": engine}, progress=progress))

    with pytest.raises(EngineError):
        run_with(Looking(look, EngineError("it is gone")))
    [going] = seen
    assert (going.code, going.err) == (0, "")
    assert f"{out}: running; no samples are saved yet\n" in going.out
    assert "making samples" in going.out
    assert "0/12 samples" in going.out
    assert " calls remembered in " in going.out
    stopped = call("status", out)
    assert f"{out}: stopped; no samples are saved yet\n" in stopped.out
    assert f" run {project / 'recipe.yaml'} --out {out}\n" in stopped.out
    run_with(Looking(look))
    assert "stopped" not in call("status", out).out
    assert not (out / "progress.json").exists()


def test_runs_share_a_ledger(call: Call, project: Path, tmp_path: Path) -> None:
    """The manifest names it: a run that goes on needs no option, and says so if it is gone."""
    ledger, loaded = tmp_path / "shared" / "calls.sqlite", load(project / "recipe.yaml")
    engines = [FakeEngine(), FakeEngine()]
    for name, engine in zip("ab", engines, strict=True):
        work = runner.run_async(
            *(loaded, tmp_path / name),
            engines={"policy": engine},
            ledger=ledger,
            progress=Progress(is_quiet=True),
        )
        asyncio.run(work)
        assert not (tmp_path / name / "ledger.sqlite").exists()
    assert len(engines[0].seen) == 168
    assert not engines[1].seen
    ledger.unlink()
    other = load(project / "recipe.yaml", ["stages.0.n=3"])
    with pytest.raises(
        FactoryError, match=r"remembers its calls in .*calls\.sqlite, which does not exist"
    ):
        asyncio.run(
            runner.run_async(
                *(other, tmp_path / "a"),
                engines={"policy": FakeEngine()},
                progress=Progress(is_quiet=True),
            )
        )


@pytest.mark.parametrize("command", ["status", "export"])
@pytest.mark.parametrize("folder", [".", "nothing"])
def test_a_folder_that_holds_no_run(call: Call, tmp_path: Path, command: str, folder: str) -> None:
    ended = call(command, tmp_path / folder)
    assert ended.code == 2
    assert ended.err == (
        f"error: {tmp_path / folder} holds no run: there is no manifest.json in it\n"
    )


@pytest.mark.parametrize("command", ["status", "export"])
def test_a_file_is_no_run(call: Call, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("")
    ended = call(command, tmp_path / "file")
    assert (ended.code, ended.err) == (
        2,
        f"error: {tmp_path / 'file'} is a file; name a run's folder, e.g. runs/quickstart\n",
    )


def test_a_home_folder_may_be_written_as_a_tilde(
    call: Call, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(run_folder.parent))
    assert call("status", f"~/{run_folder.name}").code == 0
    ended = call("status", "~nobody-of-that-name/x")
    assert (ended.code, ended.err.partition(":")[2][:31]) == (2, " ~nobody-of-that-name/x: Could ")


def test_a_folder_of_runs(call: Call, run_folder: Path) -> None:
    ended = call("status", run_folder.parent)
    assert ended.code == 2
    assert ended.err.endswith(f"; did you mean {run_folder}?\n")


def test_status_and_card_show_the_effect_of_each_principle(call: Call, run_folder: Path) -> None:
    [preference, sft] = load_manifest(run_folder).views
    assert preference["principles"] == sft["principles"]
    ids = [each["id"] for each in preference["principles"]]
    assert ids == ["kind-words", "plain-words"]
    out = call("status", run_folder).out
    assert out.count("principle ") == 1
    card = (run_folder / "datasets" / "preference" / "README.md").read_text()
    for each in preference["principles"]:
        assert each["critiques"] >= each["changed"] > 0
        [line] = [line for line in out.splitlines() if line.split()[:1] == [each["id"]]]
        assert f"{each['won']}/{each['judged']}" in line
        assert f"| {each['won']} of {each['judged']} |" in card


def test_show_prints_samples_from_the_traces(call: Call, run_folder: Path) -> None:
    samples = list(read_samples(run_folder))
    ended = call("show", run_folder, "-n", 2)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("in the datasets") == 2
    assert f"row 0  {samples[0].id}" in ended.out
    assert samples[1].critiques[0].text.split()[0] in ended.out
    [one] = [call("show", run_folder, "--id", samples[5].id)]
    assert f"row 5  {samples[5].id}" in one.out
    assert one.out.count("in the datasets") == 1
    flipped = [s for s in samples if any(v.is_consistent is False for v in s.verdicts)]
    ended = call("show", run_folder, "--flipped", "-n", 99)
    assert ended.out.count("in the datasets") == len(flipped)
    assert 0 < len(flipped) < len(samples)


def test_show_knows_why_rows_were_dropped(call: Call, run_folder: Path) -> None:
    drops = {}
    for view in load_manifest(run_folder).views:
        drops.update(view["drops"])
    for reason, count in drops.items():
        shown = call("show", run_folder, "--dropped", reason, "-n", 99).out
        assert 0 < shown.count("in the datasets") <= count
        assert reason in shown
    ended = call("show", run_folder, "--dropped", "nothing-of-the-kind")
    assert ended.code == 2
    assert "nothing in " in ended.err
    assert all(reason in ended.err for reason in drops)


def test_show_names_the_nearest_id(call: Call, run_folder: Path) -> None:
    ended = call("show", run_folder, "--id", "p100")
    assert (ended.code, "has the id 'p100'; did you mean 'p1" in ended.err) == (2, True)


def test_show_begins_with_the_revisions_that_lost_most_clearly(
    call: Call, run_folder: Path
) -> None:
    def worst(sample: Sample) -> float:
        return min(v.p if v.a > v.b else 1 - v.p for v in sample.verdicts if v.p is not None)

    in_order = sorted(read_samples(run_folder), key=worst)
    shown = call("show", run_folder, "--worst", "-n", 3).out
    places = [shown.index(f"row {sample.index}  {sample.id}") for sample in in_order[:3]]
    assert places == sorted(places)
    assert shown.count("in the datasets") == 3


def test_show_says_that_a_run_has_no_samples_yet(call: Call, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pulse.shown(tmp_path / "run", "recipe.yaml"):
        ended = call("show", tmp_path / "run")
    assert ended.code == 2
    assert "has no samples yet" in ended.err
    assert "factory status" in ended.err or "-m factory status" in ended.err


def test_export_makes_other_views_of_a_run(call: Call, run_folder: Path) -> None:
    views = "views=[{kind: preference, name: all, pairs: revision_vs_initial, verified: false}]"
    ended = call("export", run_folder, "--set", views)
    assert (ended.code, ended.err) == (0, "")
    assert f"{run_folder}/datasets/all: 24 rows\n" in ended.out


def test_export_goes_elsewhere_in_other_formats(
    call: Call, run_folder: Path, tmp_path: Path
) -> None:
    from datasets import load_dataset, load_from_disk

    before = (run_folder / "manifest.json").read_bytes()
    rows = load_from_disk(str(run_folder / "datasets" / "sft")).to_list()
    out = tmp_path / "elsewhere"
    assert call("export", run_folder, "--out", out).code == 0
    assert load_from_disk(str(out / "sft")).to_list() == rows
    for name, reader in (("jsonl", "json"), ("parquet", "parquet")):
        ended = call("export", run_folder, "--format", name)
        assert (ended.code, ended.err) == (0, "")
        assert f"{run_folder}/{name}/sft: 24 rows\n" in ended.out
        made = run_folder / name / "sft"
        assert sorted(p.name for p in made.iterdir()) == ["README.md", f"data.{name}"]
        file = str(made / f"data.{name}")
        assert load_dataset(reader, data_files=file, split="train").to_list() == rows
        told = f'load_dataset("{reader}", data_files="sft/data.{name}", split="train")'
        assert told in (made / "README.md").read_text()
        assert call("export", run_folder, "--format", name).code == 0, "and again, in its place"
    assert (run_folder / "manifest.json").read_bytes() == before
    ended = call("export", run_folder, "--format", "csv")
    assert ended == Ended(2, "", "error: --format csv: expected one of arrow, jsonl, parquet\n")


def test_export_does_not_care_for_trainings(call: Call, run_folder: Path) -> None:
    recipe = run_folder / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "training:\n- {kind: dpo, view: preference}\n")
    ended = call("export", run_folder, "--set", "views=[{kind: sft, name: other}]")
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize("where", [(), ("--format", "jsonl"), ("--format", "parquet")])
def test_export_empties_no_dataset_unasked(
    call: Call, run_folder: Path, where: tuple[str, ...]
) -> None:
    assert call("export", run_folder, *where).code == 0
    folder = run_folder / (where[-1] if where else "datasets") / "sft"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    view = "{kind: preference, name: sft, pairs: revision_vs_initial, min_margin: 1.0}"
    none = ("--set", f"views=[{view}]")
    ended = call("export", run_folder, *where, *none)
    assert ended.code == 1
    assert f"{folder} has 24 rows and would become empty (" in ended.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert call("export", run_folder, *where, *none, "--allow-empty").code == 1  # none was made
    assert {path.name for path in folder.iterdir()} >= {"README.md"}


def test_export_of_a_run_that_is_not_finished(call: Call, run_folder: Path) -> None:
    manifest = run_folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished"', '"running"'))
    ended = call("export", run_folder)
    assert ended == Ended(
        1, "", f"error: {run_folder} is not finished: run its recipe again first\n"
    )


# -- train --------------------------------------------------------------------------------------


def test_train_takes_its_options_to_the_trainer(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def train(*arguments: Any, **options: Any) -> dict[str, Any]:
        seen.append((arguments, options))
        return {"steps": 8}

    monkeypatch.setitem(training.TRAINERS, "dpo", listed(train=train))
    (tmp_path / "dpo.yaml").write_text(yaml.safe_dump({"max_steps": 3, "beta": 0.2}))
    ended = call(
        *("train", "dpo", "--data", "pairs", "--model", "m", "--out", tmp_path / "out"),
        *("--config", tmp_path / "dpo.yaml", "--set", "max_steps=8", "-s", "learning_rate=1e-5"),
        *("--lora", "16", "--resume"),
    )
    assert seen == [
        (
            ("pairs", "m", tmp_path / "out"),
            {
                "lora": {"r": 16},
                "config": {"max_steps": 8, "beta": 0.2, "learning_rate": 1e-5},
                "resume": True,
            },
        )
    ]
    assert ended.code == 0
    assert ended.out.startswith(f"trained m for 8 steps: {tmp_path}/out\n")


TRAIN = ("--data", "x", "--model", "y", "--out", "z")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("dop",), "no trainer 'dop'; did you mean 'dpo'? (have: dpo"),
        (("dpo", "--lora", "-1"), "--lora -1: expected a rank, as 16, or a mapping, as '{r: 16}'"),
        (("dpo", "--lora", "true"), "--lora true: expected a rank, as 16, or a mapping"),
        (("dpo", "--lora", "!!int x"), "--lora !!int x: expected a rank, as 16, or a mapping"),
        (("dpo", "--set", "max_steps"), "--set max_steps: expected field=value"),
        (("dpo", "--config", "nothing.yaml"), "nothing.yaml: no such file"),
    ],
)
def test_what_train_refuses(call: Call, arguments: tuple[str, ...], complaint: str) -> None:
    ended = call("train", *arguments, *TRAIN)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert complaint in ended.err


# -- score and eval -----------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two pairs with scores: one right, one wrong; and one whose answer is blank."""
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "a?", "chosen": "b", "rejected": "c", "chosen_s": 2.0, "rejected_s": 1.0}
    rows = [row, {**row, "prompt": "d?", "chosen_s": 0.5}, {**row, "chosen": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_eval_reward_prints_and_writes_its_report(call: Call, pairs: Path) -> None:
    out = pairs.with_name("reports") / "reward.json"
    ended = call("eval", "reward", "--data", pairs, "--score", "s", "--out", out)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("reward accuracy on 2 pairs of 2 prompts")
    assert "  1 x column 'chosen' holds a blank answer\n" in ended.out
    report = json.loads(out.read_text())
    assert report["report"]["overall"]["accuracy"]["value"] == 0.5
    page = out.with_suffix(".html")
    assert ended.out.endswith(f"on one page, for a browser:\n{page}\n")
    assert "accuracy: 50% (" in page.read_text()
    assert "reward accuracy on 2 pairs of 2 prompts" in page.read_text()
    for wrong, complaint in ((page, "name a .json file"), (out.with_name("p.json"), "exists")):
        out.with_name("p.html").touch()
        refused = call("eval", "reward", "--data", pairs, "--score", "s", "--out", wrong)
        assert refused.code == 2
        assert complaint in refused.err
    assert call("eval", "reward", "--data", pairs, "--score", "s", "-n", 1).out.startswith(
        "reward accuracy on 1 pairs"
    )


def test_help_of_every_eval_command(call: Call) -> None:
    group = typer.main.get_command(app).commands["eval"]  # type: ignore[attr-defined]
    assert set(group.commands) == {"reward", "process", "judge"}
    for name, command in group.commands.items():
        ended = call("eval", name, "--help")
        assert ended.code == 0
        for parameter in command.params:
            assert parameter.opts[0] in ended.out
            assert parameter.help, f"factory eval {name}: {parameter.name}"


def test_score_without_a_model_that_does(call: Call, pairs: Path, tmp_path: Path) -> None:
    writes = tmp_path / "lm"
    writes.mkdir()
    (writes / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    ended = call("score", pairs, "--model", writes, "--out", tmp_path / "out")
    assert (ended.code, ended.out) == (2, "")
    assert "is neither a reward model" in ended.err
    assert not (tmp_path / "out").exists()


def test_score_says_which_stages_of_a_recipe_it_does_not_use(
    call: Call, pairs: Path, project: Path
) -> None:
    (project / "rank.yaml").write_text("stages: [{kind: filter}, {kind: verify}]\n")
    ended = call("score", pairs, "--recipe", project / "rank.yaml", "-o", project / "out")
    assert ended.code == 0
    assert "stages left out, as they score nothing: filter\n" in ended.err
    assert f"{project}/out: 3 rows, with chosen_verify, rejected_verify\n" in ended.out
    assert "  not scored: 2 x verify: no reference answer to check against" in ended.out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("score", "PAIRS", "-o", "x"), "nothing to score with: give --model MODEL or --recipe"),
        (("score", "PAIRS", "-o", "x", "--model", "m", "--recipe", "r"), "give only one"),
        (("score", "PAIRS", "-o", "x", "--recipe", "no.yaml"), "no.yaml: no such file"),
        (
            ("score", "PAIRS", "-o", "x", "--model", "m", "--stage", "judge"),
            "--stage judge: expected reward or process",
        ),
        (("score", "PAIRS", "-o", "x", "--stage", "reward"), "needs --model MODEL"),
        (("eval", "reward", "--data", "PAIRS"), "nothing to score with"),
        (("eval", "reward", "--data", "no.jsonl", "--score", "s"), "no such file or folder"),
        (("eval", "reward", "--data", "PAIRS", "--score", "t"), "no column 'chosen_t'"),
        (
            ("eval", "reward", "--data", "PAIRS", "--score", "s", "--set", "stages.0.name=x"),
            "--set stages.0.name=x: there is no scorer to set; give --model or --recipe",
        ),
        (("eval", "process", "--data", "PAIRS", "--score", "s"), "is a preference dataset"),
        (("eval", "judge", "--data", "ANSWERS", "--recipe", "RECIPE"), "no column 'response_a'"),
    ],
)
def test_what_score_and_eval_refuse(
    call: Call, pairs: Path, project: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    answers = pairs.with_name("answers.jsonl")
    answers.write_text('{"prompt": "a?", "response": "b"}\n')
    named = {"PAIRS": str(pairs), "ANSWERS": str(answers), "RECIPE": str(project / "recipe.yaml")}
    ended = call(*(named.get(argument, argument) for argument in arguments))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert complaint in ended.err


def test_the_presets_of_grpo_are_printed_without_more(call: Call) -> None:
    done = call("train", "grpo", "--presets")
    assert done.code == 0
    names = ("grpo", "dr-grpo", "dapo", "gspo", "gmpo", "gfpo", "lite-ppo", "cispo")
    assert all(f"\n{name}  (" in f"\n{done.out}" for name in names)


def test_a_run_says_how_many_answers_were_cut(
    call: Call, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = {
        "generate": StageCount(made=8, answers=8, cut=2),
        "critique": StageCount(made=8, answers=10, cut=1),
        "judge": StageCount(made=8),
    }
    view = {
        "view": "sft",
        "rows": 6,
        "drops": {"truncated": 2},
        "notes": {"revision-dropped": 3},
        "agreements": [
            {"first": "a", "second": "b", "comparisons": 8, "share": 0.75, "kappa": 0.5}
        ],
    }
    made = Manifest(digest="", source_digest="", part_size=1, stages=stages, views=[view])
    monkeypatch.setattr(trainings, "run_with_trainings", lambda *_, **__: made)
    ended = call("run", project / "recipe.yaml", "--out", project / "run")
    assert [line.split() for line in ended.out.splitlines() if "%" in line][:2] == [
        ["generate", "8", "0", "0", "25%"],
        ["critique", "8", "0", "0", "10%"],
    ]
    assert [line for line in ended.out.splitlines() if "were cut" in line] == [
        "  generate: 2 of 8 answers were cut at max_tokens; raise the stage's sampling.max_tokens, "
        "or ask for shorter answers"
    ]
    assert "    noted:   revision-dropped              3\n" in ended.out
    assert "    judges a and b agree on 75% of 8 pairs, kappa 0.50\n" in ended.out
