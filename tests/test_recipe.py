"""A recipe: what every mistake in one is told as, before anything runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from factory.core.assets import shipped_file
from factory.core.errors import RecipeError
from factory.recipe.load import load
from factory.recipe.recipe import Recipe
from tests.conftest import CONSTITUTION, ROOT

# The line numbers in the tests below are of this text.
RECIPE = """\
name: test
seed: 7
source: {path: prompts.jsonl}
constitution: kind.yaml
models:
  policy: {model: smollm2-135m-instruct, max_model_len: 512}
  rm: {model: smollm2-135m-instruct}
stages:
  - {kind: generate, model: policy, n: 2, sampling: {max_tokens: 24}}
  - {kind: critique, model: policy}
  - {kind: revise, model: policy}
  - {kind: judge, model: policy, principles: 2}
views:
  - {kind: preference}
  - {kind: sft}
training:
  - {kind: dpo, view: preference, model: policy, config: {max_steps: 2}}
"""
GENERATE, CRITIQUE, REVISE, JUDGE, SFT, DPO = (
    line.strip()
    for line in RECIPE.splitlines()
    if line.strip().startswith("- ") and "preference}" not in line
)
TOP = (
    "(known: seed, reproducible, constitution, models, stages, name, source, max_failure_rate, part_size, "
    "evaluation, views, training)"
)
SAMPLING = (
    "(known: temperature, top_p, top_k, min_p, max_tokens, min_tokens, stop, presence_penalty, "
    "frequency_penalty, repetition_penalty, extra)"
)
STAGES = (
    "(have: generate, critique, revise, judge, reward, process, verify, rule, rollout, rank, corrupt, "
    "filter)"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with all that the recipe needs, and the recipe."""
    (tmp_path / "kind.yaml").write_text(yaml.safe_dump(CONSTITUTION, sort_keys=False))
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "How do I boil an egg?"}) + "\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def complaints(folder: Path) -> Callable[..., list[str]]:
    """What `load` says about the recipe after edits (old, new) or with `--set` texts."""

    def told(*edits: tuple[str, str], sets: tuple[str, ...] = ()) -> list[str]:
        text = RECIPE
        for old, new in edits:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (folder / "recipe.yaml").write_text(text)
        with pytest.raises(RecipeError) as caught:
            load(folder / "recipe.yaml", sets)
        message = str(caught.value)
        for jargon in (
            "Input should",
            "valid dictionary",
            "String should",
            "Value error",
            "function-",
        ):
            assert jargon not in message
        return message.replace(f"{folder}/", "").splitlines()

    return told


Told = Callable[..., list[str]]


def test_a_recipe_is_read(folder: Path) -> None:
    recipe = load(folder / "recipe.yaml")
    assert (recipe.name, recipe.seed, recipe.folder) == ("test", 7, folder)
    assert recipe.stage_labels() == ["generate", "critique", "revise", "judge"]
    assert list(recipe.models) == ["policy", "rm"]
    assert [view.kind for view in recipe.views] == ["preference", "sft"]
    assert recipe.constitution is not None
    assert recipe.constitution.name == "kind"


# -- one mistake, one line ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        # Fields
        ("seed: 7", "sed: 7", f"2 sed: unknown field; did you mean 'seed'? {TOP}"),
        ("seed: 7", "zzz: 7", f"2 zzz: unknown field {TOP}"),
        (
            "max_tokens: 24",
            "max_token: 24",
            f"9 stages[0].sampling.max_token: unknown field; did you mean 'max_tokens'? {SAMPLING}",
        ),
        (
            "n: 2",
            "temperature: 1",
            "9 stages[0].temperature: unknown field; did you mean 'sampling.temperature'? "
            "(known: kind, model, n, sampling)",
        ),
        (
            "{path: prompts.jsonl}",
            "{path: prompts.jsonl, columns: {promt: x}}",
            "3 source.columns.promt: unknown field; did you mean 'prompt'? "
            "(known: prompt, id, tags, reference, system)",
        ),
        (
            "config: {max_steps: 2}",
            "max_steps: 2",
            "17 training[0].max_steps: unknown field (known: kind, name, view, model, lora, config)",
        ),
        ("name: test\n", "", "1 name: this field is required"),
        (
            "kind: generate, model: policy",
            "kind: generate",
            "9 stages[0].model: this field is required",
        ),
        ("path: prompts.jsonl", "limit: 3", "3 source.path: this field is required"),
        ("seed: 7", "seed: 7\nseed: 8", "3 'seed' is given twice; keep one"),
        ("n: 2", "n: 2, n: 3", "9 'n' is given twice; keep one"),
        # Types and ranges
        ("n: 2", "n: two", "9 stages[0].n: expected a whole number, found 'two'"),
        ("n: 2", "n: 0", "9 stages[0].n: expected 1 or more, found 0"),
        (
            "max_tokens: 24",
            "max_tokens: 0",
            "9 stages[0].sampling.max_tokens: expected 1 or more, found 0",
        ),
        (
            "max_tokens: 24",
            "top_p: 1.5",
            "9 stages[0].sampling.top_p: expected 1 or less, found 1.5",
        ),
        (
            "max_tokens: 24",
            "temperature: -1",
            "9 stages[0].sampling.temperature: expected 0 or more, found -1",
        ),
        ("max_tokens: 24", "stop: x", "9 stages[0].sampling.stop: expected a list, found 'x'"),
        ("seed: 7", "seed: -1", "2 seed: expected 0 or more, found -1"),
        ("seed: 7", "max_failure_rate: 10", "2 max_failure_rate: expected 1 or less, found 10"),
        ("name: test", "name: 12", "1 name: expected text, found 12; put it in quotes"),
        (
            "name: test",
            "name: ../x",
            "1 name: expected a text that matches ^[A-Za-z0-9][A-Za-z0-9._-]*$, found '../x'",
        ),
        (
            "{path: prompts.jsonl}",
            "prompts.jsonl",
            "3 source: expected a mapping such as {path: ...}, found 'prompts.jsonl'",
        ),
        (
            "{model: smollm2-135m-instruct, max_model_len: 512}",
            "smollm2-135m-instruct",
            "6 models.policy: expected a mapping such as {model: smollm2-135m-instruct}, "
            "found 'smollm2-135m-instruct'",
        ),
        (
            CRITIQUE,
            "- critique",
            "10 stages[1]: expected a mapping such as {kind: generate}, found 'critique'",
        ),
        (CRITIQUE, "-", "10 stages[1]: expected a mapping such as {kind: generate}, found nothing"),
        (DPO, "- dpo", "17 training[0]: expected a mapping such as {kind: dpo}, found 'dpo'"),
        (
            "views:\n  - {kind: preference}\n  - {kind: sft}\n",
            "views: sft\n",
            "13 views: expected a list, found 'sft'",
        ),
        (
            "max_model_len: 512",
            "dtype: fp16",
            "6 models.policy.dtype: expected 'auto', 'float32', 'bfloat16' or 'float16', found 'fp16'",
        ),
        (
            "principles: 2",
            "principles: most",
            "12 stages[3].principles: expected a whole number or 'same' or 'all', found 'most'",
        ),
        (
            "principles: 2",
            "pairs: all",
            "12 stages[3].pairs: expected 'revision_vs_initial', 'all_pairs' or 'swiss', found 'all'",
        ),
        # Names from a table
        (
            "kind: generate",
            "kind: generat",
            f"9 stages[0].kind: no kind 'generat'; did you mean 'generate'? {STAGES}",
        ),
        (
            "kind: generate",
            "kind: Generate",
            f"9 stages[0].kind: no kind 'Generate'; did you mean 'generate'? {STAGES}",
        ),
        ("kind: generate, ", "", f"9 stages[0].kind: this field is required {STAGES}"),
        (
            "kind: generate",
            "kind: [generate]",
            f"9 stages[0].kind: expected a name, found a list of 1 {STAGES}",
        ),
        (
            "kind: sft",
            "kind: stf",
            "15 views[1].kind: no kind 'stf'; did you mean 'sft'? "
            "(have: preference, sft, kto, reward, process, grpo)",
        ),
        (
            "kind: dpo",
            "kind: xyz",
            "17 training[0].kind: no kind 'xyz' (have: dpo, ppo, prm, reward, sft, kto, grpo, rloo)",
        ),
        (
            "  rm: {",
            "  rm: {engine: vlm, ",
            "7 models.rm.engine: no engine 'vlm'; did you mean 'vllm'? (have: vllm, endpoint)",
        ),
        (
            "principles: 2",
            "mode: pointwize",
            "12 stages[3].mode: no mode 'pointwize'; did you mean 'pointwise'? (have: pairwise, pointwise)",
        ),
        # Names of the recipe's own
        (
            "model: policy, principles",
            "model: judge, principles",
            "12 stages[3].model: no model named 'judge' (have: policy, rm)",
        ),
        (
            "model: policy, principles",
            "model: polcy, principles",
            "12 stages[3].model: no model named 'polcy'; did you mean 'policy'? (have: policy, rm)",
        ),
        (
            "preference, model: policy",
            "preference, model: judge",
            "17 training[0].model: no model named 'judge' (have: policy, rm)",
        ),
        (
            "view: preference",
            "view: preferences",
            "17 training[0].view: no view named 'preferences'; did you mean 'preference'? "
            "(have: preference, sft)",
        ),
        (
            "kind: sft",
            "kind: preference",
            "15 views[1]: views[0] has the name 'preference' already; give one a `name`",
        ),
        (
            "seed: 7",
            "evaluation: {source: {path: prompts.jsonl}, model: policy, judge: jugde}",
            "2 evaluation.judge: no model named 'jugde' (have: policy, rm)",
        ),
        (
            "seed: 7",
            "evaluation: {source: {path: prompts.jsonl}, model: policy, judge: rm, principles: 0}",
            "2 evaluation.principles: expected 1 or more or 'all', found 0",
        ),
        (
            "rm: {model: smollm2-135m-instruct}",
            "rm: {model: SmolLM2-135M-Instruct}",
            "7 models.rm.model: no model 'SmolLM2-135M-Instruct'; did you mean 'smollm2-135m-instruct'?",
        ),
        # Files
        (
            "constitution: kind.yaml",
            "constitution: knid.yaml",
            "4 constitution: knid.yaml: no such file; did you mean kind.yaml? "
            "(shipped: careful-math, concise, harmless, helpful-honest-harmless, one-sentence)",
        ),
        (
            "constitution: kind.yaml",
            "constitution: ./knid.yaml",
            "4 constitution: knid.yaml: no such file; did you mean kind.yaml?",
        ),
        (
            "rm: {model: smollm2-135m-instruct}",
            "rm: {model: ./weights}",
            "7 models.rm.model: model './weights': no such folder "
            "(a model is 'smollm2-135m-instruct', a folder or a Hub id)",
        ),
        # What stages and views need
        (
            f"  {CRITIQUE}\n",
            "",
            "10 stages[1]: needs critiques, which no earlier stage makes; {kind: critique} does",
        ),
        (
            f"  {REVISE}\n",
            "",
            "11 stages[2]: needs revisions, which no earlier stage makes; {kind: revise} does",
        ),
        (
            f"  {GENERATE}\n",
            "",
            "9 stages[0]: needs candidates, which no earlier stage makes; {kind: generate} does",
        ),
        (
            f"  {JUDGE}\n",
            "",
            "13 views[0]: needs verdicts on revisions, which no stage makes; {kind: judge} does",
        ),
        (
            "{kind: preference}",
            "{kind: preference, pairs: best_vs_worst}",
            "14 views[0]: needs a ranking, which no stage makes; "
            "{kind: reward}, {kind: judge, mode: pointwise} or {kind: judge, pairs: all_pairs} does",
        ),
        (
            "{kind: preference}",
            "{kind: preference, pairs: best_vs_worst, score: helpful}",
            "14 views[0]: needs a score named 'helpful', which no stage makes; "
            "{kind: reward, name: helpful} or {kind: judge, mode: pointwise, name: helpful} does",
        ),
        (
            "kind: sft",
            "kind: kto, threshold: 3",
            "15 views[1]: needs a score, which no stage makes; "
            "{kind: reward}, {kind: verify} or {kind: judge, mode: pointwise} does",
        ),
        (
            CRITIQUE,
            f"- {{kind: verify}}\n  - {{kind: verify, how: exact}}\n  {CRITIQUE}",
            "11 stages[2]: an earlier stage makes a score 'verify'; give one a `name`",
        ),
        # What a stage's own options can get wrong
        (
            "kind: critique",
            "kind: critique, few_shot: 2",
            "10 stages[1].few_shot: expected at most 1, the examples of 'kind'; found 2",
        ),
        (
            CRITIQUE,
            f"- {{kind: filter, pattern: '[a-'}}\n  {CRITIQUE}",
            "10 stages[1].pattern: '[a-' is not a regular expression: "
            "unterminated character set at position 0",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line_and_field(
    complaints: Told, old: str, new: str, complaint: str
) -> None:
    assert complaints((old, new)) == [f"recipe.yaml:{complaint}"]


def test_a_model_that_is_misnamed_among_scores(complaints: Told) -> None:
    assert complaints(
        ("principles: 2", "mode: pointwise, name: helpful"),
        ("{kind: preference}", "{kind: preference, pairs: best_vs_worst, score: helpfull}"),
    ) == [
        "recipe.yaml:14 views[0]: needs a score named 'helpfull', which no stage makes; "
        "did you mean 'helpful'? (have: helpful)"
    ]


def test_a_judge_that_is_misnamed_in_a_ranking(complaints: Told) -> None:
    ranking = "- {kind: rank, judge: jugde}\nviews"
    assert complaints(("views", f"  {ranking}")) == [
        "recipe.yaml:13 stages[4]: needs verdicts of a judge named 'jugde', which no earlier stage "
        "makes; did you mean 'judge'? (have: judge)"
    ]


def test_a_missing_source_names_the_nearest_file(complaints: Told, folder: Path) -> None:
    [told] = complaints(("prompts.jsonl", "promts.jsonl"))
    assert told.startswith("recipe.yaml:3 source: promts.jsonl: no such file (nearest in ")
    assert "prompts.jsonl" in told.partition("nearest")[2]


def test_a_missing_evaluation_source(complaints: Told) -> None:
    evaluation = "evaluation: {source: {path: held.jsonl}, model: policy, judge: policy}"
    [told] = complaints(("seed: 7", evaluation))
    assert told.startswith("recipe.yaml:2 evaluation.source: held.jsonl: no such file")


def test_without_a_constitution_a_stage_that_needs_principles_is_refused(complaints: Told) -> None:
    remedy = "needs principles; add `constitution: FILE` to the recipe"
    assert complaints(("constitution: kind.yaml\n", "")) == [
        f"recipe.yaml:9 stages[1]: 'critique' {remedy}",
        f"recipe.yaml:10 stages[2]: 'revise' {remedy}",
    ]


def test_mistakes_in_the_constitution_are_told_with_its_own_lines(
    complaints: Told, folder: Path
) -> None:
    text = (folder / "kind.yaml").read_text()
    (folder / "kind.yaml").write_text(text.replace("critique:", "critque:", 1))
    [told] = complaints()
    assert told.startswith(
        "kind.yaml:6 principles[0].critque: unknown field; did you mean 'critique'?"
    )


def test_a_hub_id_is_left_for_the_hub_to_find(folder: Path) -> None:
    recipe = load(folder / "recipe.yaml", ["models.rm.model=HuggingFaceTB/SmolLM2-135M-Instruct"])
    assert recipe.models["rm"].model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_constitution_is_no_recipe(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"kind\.yaml is a constitution; name a recipe"):
        load(folder / "kind.yaml")


def test_a_shipped_constitution_is_found_by_its_name(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace("kind.yaml", "harmless"))
    recipe = load(folder / "recipe.yaml")
    assert recipe.constitution is not None
    assert recipe.constitution.name == "harmless"


def own_constitution(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (ROOT / "constitutions" / "harmless.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("name: harmless", f"name: {name}", 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "asked"),
    [
        ("pipelines/harmless.yaml", "harmless"),
        ("pipelines/harmless.yml", "harmless"),
        ("pipelines/constitutions/harmless.yaml", "harmless"),
        ("constitutions/harmless.yaml", "harmless"),
        ("pipelines/harmless.yaml", "harmless.yaml"),
        ("pipelines/constitutions/harmless.yaml", "harmless.yaml"),
        ("constitutions/harmless.yaml", "harmless.yaml"),
    ],
)
def test_the_users_constitution_comes_before_the_shipped_one_of_its_name(
    folder: Path, place: str, asked: str
) -> None:
    recipe = folder / "pipelines" / "recipe.yaml"
    recipe.parent.mkdir()
    (folder / "prompts.jsonl").rename(recipe.with_name("prompts.jsonl"))
    recipe.write_text(RECIPE.replace("kind.yaml", asked))
    own_constitution(folder / place, "mine")
    loaded = load(recipe)
    assert loaded.constitution is not None
    assert loaded.constitution.name == "mine"
    assert loaded.constitution.path is not None
    assert loaded.constitution.path.resolve() == (folder / place).resolve()


def test_a_recipe_with_the_name_of_its_constitution_is_not_taken_for_it(folder: Path) -> None:
    (folder / "harmless.yaml").write_text(RECIPE.replace("kind.yaml", "harmless"))
    used = load(folder / "harmless.yaml").constitution
    assert used is not None
    assert used.path == shipped_file("constitutions/harmless.yaml")


def test_a_broken_constitution_of_ones_own_is_not_passed_over(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace("kind.yaml", "harmless"))
    (folder / "harmless.yaml").write_text("name: mine\nversion: 1.0.0\nprinciples: {}\n")
    with pytest.raises(RecipeError, match=r"harmless\.yaml:3 principles"):
        load(folder / "recipe.yaml")


# -- several mistakes ---------------------------------------------------------------------------


def test_all_mistakes_of_form_are_told_at_once(complaints: Told) -> None:
    found = complaints(
        ("seed: 7", "sed: 7"),
        ("kind.yaml", "knid.yaml"),
        ("max_model_len: 512", "max_model_len: 1"),
        ("n: 2", "n: two"),
        ("kind: critique", "kind: critic"),
        ("kind: sft", "kind: stf"),
        ("kind: dpo", "kind: dop"),
    )
    assert [line.split(":")[1] for line in found] == [
        "2 sed",
        "4 constitution",
        "6 models.policy.max_model_len",
        "9 stages[0].n",
        "10 stages[1].kind",
        "15 views[1].kind",
        "17 training[0].kind",
    ]


def test_all_names_that_lead_nowhere_are_told_at_once(complaints: Told) -> None:
    found = complaints(
        ("{path: prompts.jsonl}", "{path: promts.jsonl}"),
        ("model: policy, n: 2", "model: a, n: 2"),
        (f"  {CRITIQUE}\n", ""),
        ("view: preference, model: policy", "view: a, model: b"),
    )
    assert [line.split(":")[1] for line in found] == [
        "3 source",
        "9 stages[0].model",
        "10 stages[1]",
        "16 training[0].view",
        "16 training[0].model",
    ]


def test_what_is_missing_is_told_once_and_not_for_every_stage_after(complaints: Told) -> None:
    assert len(complaints((f"  {GENERATE}\n", ""))) == 1


# -- templates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ instructions", "unexpected end of template"),
        ("{% if answer %}", "Unexpected end of template"),
        (
            "{{ question }}",
            "'question' is undefined (it can use: answer, instructions, principles, prompt)",
        ),
        ("{{ answer | shout }}", "No filter named 'shout'"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        (
            "{{ cycler.__init__.__globals__ }}",
            "access to attribute '__init__' of 'type' object is unsafe",
        ),
        ("{{ prompt.format.__globals__ }}", "access to attribute '__globals__'"),
        (
            "{{ '{0.__class__}'.format(answer) }}",
            "access to attribute '__class__' of 'str' object is unsafe",
        ),
        ("{{ principles.append(1) }}", "access to attribute 'append' of 'list' object is unsafe"),
        ("{% include '/etc/passwd' %}", "no loader for this environment specified"),
        ("{% import 'os' as os %}", "no loader for this environment specified"),
    ],
)
def test_a_bad_template_is_refused_and_runs_nothing(
    complaints: Told, template: str, reason: str
) -> None:
    stage = json.dumps({"kind": "critique", "model": "policy", "template": template})
    told, *_ = complaints((CRITIQUE, f"- {stage}"))
    assert told.startswith("recipe.yaml:10 stages[1].template: ")
    assert reason in told


@pytest.mark.parametrize(("at", "kind"), [(2, "revise"), (3, "judge")])
def test_every_stage_with_a_template_checks_it(complaints: Told, at: int, kind: str) -> None:
    [told] = complaints((f"kind: {kind}, ", f"kind: {kind}, template: '{{{{ x }}}}', "))
    assert told.startswith(f"recipe.yaml:{9 + at} stages[{at}].template: ")
    assert "'x' is undefined" in told


# -- a user's own stage -------------------------------------------------------------------------

OWN = """\
from factory.stages.base import Stage

class Shout(Stage):
    times: int = 1

    async def __call__(self, sample, models):
        return sample
"""


@pytest.fixture(autouse=True)
def _own_modules_are_forgotten() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("own"):
            del sys.modules[name]


def with_own(folder: Path, code: str, entry: str = "{kind: 'own:Shout'}") -> Recipe:
    (folder / "own.py").write_text(code)
    (folder / "recipe.yaml").write_text(RECIPE.replace(CRITIQUE, f"- {entry}\n  {CRITIQUE}"))
    return load(folder / "recipe.yaml")


def times(recipe: Recipe) -> int:
    return recipe.stages[1].model_dump()["times"]


def test_a_users_own_stage_is_found_beside_the_recipe(folder: Path) -> None:
    recipe = with_own(folder, OWN, "{kind: 'own:Shout', times: 3}")
    assert times(recipe) == 3
    assert recipe.stage_labels() == ["generate", "shout", "critique", "revise", "judge"]


def test_two_stages_of_one_module_share_it(folder: Path) -> None:
    code = OWN + "\nclass Whisper(Shout): pass\n"
    recipe = with_own(folder, code, "{kind: 'own:Shout'}\n  - {kind: 'own:Whisper'}")
    assert isinstance(recipe.stages[2], type(recipe.stages[1]))


def test_two_recipes_own_modules_of_one_name_are_told_apart(folder: Path) -> None:
    with_own(folder, OWN)
    other = folder / "other"
    other.mkdir()
    for name in ("kind.yaml", "prompts.jsonl"):
        (other / name).write_text((folder / name).read_text())
    assert times(with_own(other, OWN.replace("times: int = 1", "times: int = 2"))) == 2
    assert times(with_own(folder, OWN)) == 1


def test_an_edit_of_an_own_stage_takes_effect_and_changes_the_digest(folder: Path) -> None:
    first = with_own(folder, OWN)
    assert with_own(folder, OWN).digest({}) == first.digest({})
    second = with_own(folder, OWN.replace("return sample", "return sample  # edited"))
    assert second.digest({}) != first.digest({})
    third = with_own(folder, OWN.replace("times: int = 1", "times: int = 55"))
    assert times(third) == 55


@pytest.mark.parametrize(
    ("code", "entry", "complaint"),
    [
        (
            "",
            "{kind: 'own:Shout'}",
            ".kind: cannot import 'own:Shout': module 'own' has no attribute 'Shout'",
        ),
        ("", "{kind: 'onw:Shout'}", ".kind: cannot import 'onw:Shout': No module named 'onw'"),
        (
            "import onw",
            "{kind: 'own:Shout'}",
            ".kind: cannot import 'own:Shout': No module named 'onw'",
        ),
        (
            "1/0",
            "{kind: 'own:Shout'}",
            ".kind: importing 'own:Shout' raised ZeroDivisionError: division by zero",
        ),
        (
            "def f(:\n",
            "{kind: 'own:Shout'}",
            ".kind: importing 'own:Shout' raised SyntaxError: invalid syntax (own.py, line 1)",
        ),
        (
            "class Shout: pass",
            "{kind: 'own:Shout'}",
            ".kind: 'own:Shout' is not a subclass of factory.stages.base.Stage",
        ),
        (
            "Shout = 3",
            "{kind: 'own:Shout'}",
            ".kind: 'own:Shout' is not a subclass of factory.stages.base.Stage",
        ),
        (
            OWN,
            "{kind: 'own:Shout', time: 2}",
            ".time: unknown field; did you mean 'times'? (known: kind, times)",
        ),
    ],
)
def test_an_own_stage_that_cannot_be_used(
    folder: Path, code: str, entry: str, complaint: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        with_own(folder, code, entry)
    assert str(caught.value) == f"{folder}/recipe.yaml:10 stages[1]{complaint}"


def test_what_an_own_stage_needs_is_checked(folder: Path) -> None:
    needs = "def facts_needed(self): return {'critiques', 'moods'}"
    with pytest.raises(RecipeError) as caught:
        with_own(folder, OWN.replace("times: int = 1", needs))
    assert str(caught.value).replace(f"{folder}/recipe.yaml:", "").splitlines() == [
        "10 stages[1]: needs critiques, which no earlier stage makes; {kind: critique} does",
        "10 stages[1]: needs 'moods', which no earlier stage makes",
    ]


def test_an_own_view_must_be_one(folder: Path) -> None:
    (folder / "own.py").write_text(OWN)
    (folder / "recipe.yaml").write_text(RECIPE.replace("kind: sft", "kind: own:Shout"))
    with pytest.raises(
        RecipeError, match=r":15 views\[1\]\.kind: 'own:Shout' is no view .* it lacks"
    ):
        load(folder / "recipe.yaml")


# -- overrides ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("stages.0.n=4", lambda r: r.stages[0].n == 4),
        ("stages[0].n=4", lambda r: r.stages[0].n == 4),
        ("stages.0.sampling.temperature=1e-5", lambda r: r.stages[0].sampling.temperature == 1e-5),
        ("stages.3.chain_of_thought=true", lambda r: r.stages[3].chain_of_thought is True),
        ("stages.0.sampling.stop=[a, b]", lambda r: r.stages[0].sampling.stop == ["a", "b"]),
        ("models.policy.max_model_len=null", lambda r: r.models["policy"].max_model_len is None),
        ("name=other", lambda r: r.name == "other"),
        ("max_failure_rate=0.5", lambda r: r.max_failure_rate == 0.5),
        (
            "views.2={kind: kto}",
            lambda r: [v.kind for v in r.views] == ["preference", "sft", "kto"],
        ),
        (
            "training.0.config.learning_rate=1e-6",
            lambda r: r.training[0].config["learning_rate"] == 1e-6,
        ),
        ("constitution=harmless", lambda r: r.constitution.name == "harmless"),
    ],
)
def test_an_override(folder: Path, text: str, value: Callable[[Recipe], bool]) -> None:
    assert value(load(folder / "recipe.yaml", [text]))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("stages.0.n", "expected field=value, as stages.0.n=4"),
        ("stages.9.n=4", "stages is a list; expected a position from 0 to 3, found '9'"),
        ("name.x=4", "name is 'test', which has no field 'x'"),
        ("stages.0.n=0", "expected 1 or more, found 0"),
        ("stages.0.n=", "expected a whole number, found nothing"),
        ("stages.0.m=4", "unknown field (known: kind, model, n, sampling)"),
        ("stage.0.n=4", f"stage: unknown field; did you mean 'stages'? {TOP}"),
        ("models.judge.dtype=auto", "models.judge.model: this field is required"),
        ("stages.3.model=judge", "no model named 'judge' (have: policy, rm)"),
        ("views.2={kind: sft}", "views[1] has the name 'sft' already; give one a `name`"),
    ],
)
def test_a_mistaken_override_is_told_as_one(complaints: Told, text: str, complaint: str) -> None:
    assert complaints(sets=(text,)) == [f"--set {text}: {complaint}"]


def test_a_limit_takes_the_place_of_the_sources(folder: Path) -> None:
    recipe = load(folder / "recipe.yaml", ["source.limit=9"], limit=2)
    assert recipe.source.limit == 2
    assert yaml.safe_load(recipe.text)["source"] == {"path": "prompts.jsonl", "limit": 2}


def test_a_limit_hides_no_mistake_in_the_source(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE.replace("{path: prompts.jsonl}", "prompts.jsonl"))
    with pytest.raises(
        RecipeError, match=r":3 source: expected a mapping such as \{path: \.\.\.\}"
    ):
        load(folder / "recipe.yaml", limit=2)


# -- what is kept of a recipe -------------------------------------------------------------------


def test_the_text_has_the_overrides_and_reads_as_the_recipe(folder: Path) -> None:
    first = load(folder / "recipe.yaml", ["stages.0.n=4", "stages.0.sampling.temperature=1e-5"])
    (folder / "again.yaml").write_text(first.text)
    again = load(folder / "again.yaml")
    assert again.stages == first.stages
    assert again.text == first.text


def test_a_moved_recipe_means_the_same(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    weights = folder / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    evaluation = "evaluation: {source: {path: prompts.jsonl}, model: policy, judge: rm}"
    text = RECIPE.replace("seed: 7", evaluation)
    text = text.replace("rm: {model: smollm2-135m-instruct}", "rm: {model: weights}")
    (folder / "recipe.yaml").write_text(text)
    first = load(folder / "recipe.yaml")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "recipe.yaml"
    elsewhere.write_text(yaml.safe_dump(first.movable()))
    moved = load(elsewhere)
    assert moved.source.path == str(folder / "prompts.jsonl")
    assert moved.evaluation is not None
    assert moved.evaluation.source.path == str(folder / "prompts.jsonl")
    assert (moved.models["policy"].model, moved.models["rm"].model) == (
        "smollm2-135m-instruct",
        str(weights),
    )
    assert moved.digest({}) == first.digest({})


@pytest.mark.parametrize(
    ("override", "is_same"),
    [
        ("views=[{kind: sft}]", True),
        ("training=[]", True),
        ("source.limit=1", True),
        ("part_size=8", True),
        ("max_failure_rate=1", True),
        ("name=other", True),
        ("seed=8", False),
        ("stages.0.n=3", False),
        ("stages.0.sampling.temperature=0.5", False),
        ("stages.3.principles=1", False),
        ("constitution=harmless", False),
    ],
)
def test_the_digest_is_of_what_decides_a_trace(folder: Path, override: str, is_same: bool) -> None:
    sets = ["training=[]", override]  # training names a view
    first, second = (load(folder / "recipe.yaml", s).digest({"policy": "x"}) for s in ((), sets))
    assert (first == second) is is_same


def test_the_digest_changes_with_the_weights(folder: Path) -> None:
    recipe = load(folder / "recipe.yaml")
    assert recipe.digest({"policy": "x"}) != recipe.digest({"policy": "y"})


def test_the_digest_changes_with_the_constitutions_text(folder: Path) -> None:
    first = load(folder / "recipe.yaml").digest({})
    text = (folder / "kind.yaml").read_text()
    (folder / "kind.yaml").write_text(text.replace("Rewrite it kindly.", "Rewrite it gently."))
    assert load(folder / "recipe.yaml").digest({}) != first


def test_the_views_digest_is_of_the_views(folder: Path) -> None:
    digests = {
        load(folder / "recipe.yaml", [text]).views_digest()
        for text in ("seed=7", "seed=8", "views.0.min_margin=0.1", "views.1.pick=initial")
    }
    assert len(digests) == 3


def test_stages_of_one_kind_are_numbered(folder: Path) -> None:
    text = RECIPE.replace(JUDGE, f"{CRITIQUE}\n  {REVISE}\n  {JUDGE}")
    (folder / "recipe.yaml").write_text(text)
    labels = load(folder / "recipe.yaml").stage_labels()
    assert labels == ["generate", "critique", "revise", "critique-2", "revise-2", "judge"]
