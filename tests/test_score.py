"""`factory score`: every shape of dataset comes back with its scores, and nothing is paid twice."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset, List, Value, load_from_disk

from factory.core.errors import EngineError, RecipeError
from factory.core.records import BadRow
from factory.core.weights import EMBEDDED
from factory.evaluation.rows import labels_of, open_rows, sample_of, shape_of
from factory.evaluation.score import Record, score_async
from factory.evaluation.scorer import Scorer, from_model, from_recipe
from factory.pipeline.progress import Progress
from tests.fakes import DyingEngine, FakeEngine

REWARD = {"kind": "reward", "model": "rm"}
PROCESS = {"kind": "process", "model": "prm"}
MODELS = {
    "judge": {"model": EMBEDDED},
    "prm": {"model": EMBEDDED, "task": "token_classify"},
    **{name: {"model": EMBEDDED, "task": "classify"} for name in ("rm", "rm2")},
}
PAIRS = [
    {"prompt": f"Question {i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(5)
]
STEPS = [
    {
        "prompt": f"{i} + 1?",
        "completions": ["First\n\nadd.", f"So {i + 1}."],
        "labels": [True, None],
    }
    for i in range(3)
]


def saved(folder: Path, rows: list[dict[str, Any]]) -> str:
    Dataset.from_list(rows).save_to_disk(str(folder))
    return str(folder)


def scorer(folder: Path, *stages: dict[str, Any], overrides: tuple[str, ...] = ()) -> Scorer:
    path = folder / "scorer.yaml"
    path.write_text(yaml.safe_dump({"models": MODELS, "stages": list(stages)}))
    return from_recipe(path, overrides)


def go(
    data: str,
    by: Scorer,
    out: Path,
    *,
    engine: FakeEngine | None = None,
    limit: int | None = None,
) -> tuple[Record, FakeEngine]:
    engine = engine or FakeEngine()
    engines = dict.fromkeys(by.pipeline.models, engine)
    rows = open_rows(data).limited(limit)
    done = score_async(rows, by, out, engines=engines, progress=Progress(is_quiet=True))
    return asyncio.run(done), engine


def asked(engine: FakeEngine) -> list[tuple[str, Any]]:
    return [(json.dumps(request.messages), request.scoring) for request in engine.seen]


# -- shapes -------------------------------------------------------------------------------------


def test_pairs_get_the_scores_of_both_answers(tmp_path: Path) -> None:
    out = tmp_path / "out"
    data = saved(tmp_path / "data", [{**row, "extra": i} for i, row in enumerate(PAIRS)])
    record, engine = go(data, scorer(tmp_path, REWARD), out)
    made = load_from_disk(str(out))
    assert made.column_names == [
        *("prompt", "chosen", "rejected", "extra", "chosen_reward", "rejected_reward")
    ]
    assert made.features["chosen_reward"] == Value("float64")
    assert made["extra"] == [0, 1, 2, 3, 4]
    by_answer = {}
    for request in engine.seen:
        by_answer[request.messages[-1]["content"]] = asyncio.run(FakeEngine().generate(request))
    for row in made:
        for side in ("chosen", "rejected"):
            logits = by_answer[row[side]].scores
            assert row[f"{side}_reward"] == pytest.approx(logits[0][0], abs=1e-6)
    assert (record.rows, record.failed, record.calls, len(engine.seen)) == (5, 0, 10, 10)
    assert "`chosen_reward`" in (out / "README.md").read_text()


def test_an_answer_gets_one_score(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
            ],
            "completion": [{"role": "assistant", "content": "Ho"}],
        }
    ]
    _, engine = go(saved(tmp_path / "data", rows), scorer(tmp_path, REWARD), tmp_path / "out")
    assert isinstance(load_from_disk(str(tmp_path / "out"))[0]["reward"], float)
    assert engine.seen[0].messages == [*rows[0]["prompt"], *rows[0]["completion"]]


def test_responses_get_a_list(tmp_path: Path) -> None:
    rows = [{"prompt": "a?", "responses": ["x", "y", "z"]}, {"prompt": "b?", "responses": ["w"]}]
    go(saved(tmp_path / "data", rows), scorer(tmp_path, REWARD), tmp_path / "out")
    made = load_from_disk(str(tmp_path / "out"))
    assert made.features["reward"] == List(Value("float64"))
    assert [len(row["reward"]) for row in made] == [3, 1]


def test_the_steps_of_process_rows_are_scored_as_they_are(tmp_path: Path) -> None:
    data = saved(tmp_path / "data", STEPS)
    _, engine = go(data, scorer(tmp_path, {**PROCESS, "aggregate": "minimum"}), tmp_path / "out")
    assert engine.seen[0].scoring is not None
    assert engine.seen[0].scoring.steps == ("First\n\nadd.", "So 1.")  # not cut at its newlines
    made = load_from_disk(str(tmp_path / "out"))
    assert made.features["process_steps"] == List(Value("float64"))
    for row in made:
        assert len(row["process_steps"]) == 2
        assert row["process"] == pytest.approx(min(row["process_steps"]), abs=1e-6)
    assert made["labels"] == [[True, None]] * 3


def test_an_empty_dataset_and_unknown_columns_are_refused(tmp_path: Path) -> None:
    Dataset.from_dict({"prompt": []}).save_to_disk(str(tmp_path / "empty"))
    with pytest.raises(RecipeError, match="has 0 rows"):
        open_rows(str(tmp_path / "empty"))
    with pytest.raises(
        RecipeError, match=r"columns text, which are those of no dataset .*reward: "
    ):
        shape_of(open_rows(saved(tmp_path / "text", [{"text": "x"}])))


def prm800k_line(*steps: dict[str, Any]) -> str:
    question = {"problem": "1 + 1?", "ground_truth_answer": "2"}
    return json.dumps(
        {"question": question, "label": {"steps": steps, "finish_reason": "solution"}}
    )


def prm800k_file(folder: Path) -> str:
    first = {
        "completions": [{"text": "Add.", "rating": 1}, {"text": "Eat.", "rating": -1}],
        "chosen_completion": 0,
    }
    last = {"completions": [{"text": "2.", "rating": 0}], "chosen_completion": 0}
    path = folder / "prm800k.jsonl"
    path.write_text(f"{prm800k_line(first, last)}\nnot json\n")
    return str(path)


def test_prm800k(tmp_path: Path) -> None:
    record, _ = go(prm800k_file(tmp_path), scorer(tmp_path, PROCESS), tmp_path / "out")
    made = load_from_disk(str(tmp_path / "out"))
    assert made["completions"] == [["Add.", "2."], ["Eat."]]
    assert made["labels"] == [[1, 0], [-1]]
    assert made["is_alternative"] == [False, True]
    assert made["reference"] == ["2", "2"]
    assert [len(scores) for scores in made["process_steps"]] == [2, 1]
    assert list(record.left_out.values()) == [1]


def test_processbench(tmp_path: Path) -> None:
    rows = [
        {"id": "gsm8k-0", "problem": "1?", "steps": ["a", "b", "c"], "label": 1},
        {"id": "gsm8k-1", "problem": "2?", "steps": ["a"], "label": 5},
    ]
    for name, text in (
        ("lines.jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
        ("list.json", json.dumps(rows)),
    ):
        (tmp_path / name).write_text(text)
        opened = open_rows(str(tmp_path / name))
        assert [row["labels"] for row in opened.read()] == [[True, False, None]]
        assert [row["subset"] for row in opened.read()] == ["gsm8k"]
        assert sum(opened.left_out.values()) == 1


# -- rows as samples ----------------------------------------------------------------------------


def test_whole_conversations_without_a_prompt_share_it() -> None:
    before = "\n\nHuman: Hi\n\nAssistant: Ho\n\nHuman: Why?\n\nAssistant:"
    row = {"chosen": f"{before} So.", "rejected": f"{before} No."}
    sample = sample_of(row, 0, "preference")
    assert not isinstance(sample, BadRow)
    assert [m["content"] for m in sample.prompt] == ["Hi", "Ho", "Why?"]
    assert [c.text for c in sample.candidates] == ["So.", "No."]


def test_an_answer_that_repeats_the_prompt_does_not_hold_it_twice() -> None:
    def whole(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]

    row = {"prompt": "Hi", "chosen": whole("a"), "rejected": whole("b")}
    sample = sample_of(row, 0, "preference")
    assert not isinstance(sample, BadRow)
    assert sample.prompt == [{"role": "user", "content": "Hi"}]
    assert [c.text for c in sample.candidates] == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "shape", "reason"),
    [
        ({"prompt": "a?", "chosen": None, "rejected": "x"}, "preference", "column 'chosen'"),
        ({"prompt": "a?", "chosen": " ", "rejected": "x"}, "preference", "a blank answer"),
        ({"prompt": "", "completion": "x"}, "completion", "no user's message"),
        ({"prompt": 3, "completion": "x"}, "completion", "column 'prompt': expected text"),
        ({"chosen": "no turns", "rejected": "x"}, "preference", "does not end with the assist"),
        ({"prompt": "a?", "responses": []}, "reward", "'responses': expected a list"),
        ({"prompt": "a?", "completions": [], "labels": []}, "process", "expected steps"),
        ({"prompt": "a?", "completions": ["x", ""], "labels": []}, "process", "is no text: ''"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"},
            "preference",
            "do not follow the same conversation",
        ),
    ],
)
def test_what_is_no_row(row: dict[str, Any], shape: Any, reason: str) -> None:
    bad = sample_of(row, 4, shape)
    assert isinstance(bad, BadRow)
    assert bad.index == 4
    assert reason in bad.error


def test_a_neutral_rating_counts_as_correct() -> None:
    row = {"labels": [1, 0, -1, None, True, False]}
    assert labels_of(row, ["s"] * 6) == [True, True, False, None, True, False]


# -- failures, resuming -------------------------------------------------------------------------


def test_rows_that_fail_stay_with_nulls_and_a_reason(tmp_path: Path) -> None:
    rows = [*PAIRS, {"prompt": "a?", "chosen": "", "rejected": "x"}]
    engine = FakeEngine(fails_on="bad 3")
    out = tmp_path / "out"
    record, _ = go(saved(tmp_path / "data", rows), scorer(tmp_path, REWARD), out, engine=engine)
    made = load_from_disk(str(out))
    assert [score is None for score in made["chosen_reward"]] == [False] * 3 + [True, False, True]
    assert made["rejected"] == [row["rejected"] for row in rows]
    failures = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [(f["index"], f["stage"]) for f in failures] == [(3, "reward"), (5, "source")]
    assert (record.rows, record.failed, record.retriable) == (6, 2, 1)
    # The failure of a call may pass: the next scoring tries that row again, and no other.
    again, engine = go(str(tmp_path / "data"), scorer(tmp_path, REWARD), out)
    assert [request.messages[-1]["content"] for request in engine.seen] == ["bad 3"]
    assert (again.failed, load_from_disk(str(out))["chosen_reward"][3] is None) == (1, False)


def test_a_scoring_that_was_cut_goes_on_and_makes_no_call_twice(tmp_path: Path) -> None:
    data, out = saved(tmp_path / "data", PAIRS), tmp_path / "out"
    dying = DyingEngine(4)
    with pytest.raises(EngineError, match="died"):
        go(data, scorer(tmp_path, REWARD), out, engine=dying)
    assert not (out / "state.json").exists()
    record, engine = go(data, scorer(tmp_path, REWARD), out)
    assert record.calls == 6
    assert not set(asked(dying)) & set(asked(engine))
    whole = tmp_path / "whole"
    go(data, scorer(tmp_path, REWARD), whole)
    for name in ("data-00000-of-00001.arrow", "state.json", "dataset_info.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_scoring_that_is_cut_while_the_dataset_is_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = saved(tmp_path / "data", PAIRS), tmp_path / "out"
    go(data, scorer(tmp_path, REWARD), out, limit=2)

    def cut(half: Path, path: Path) -> None:
        if path.name == "dataset_info.json":
            raise KeyboardInterrupt
        half.replace(path)

    with monkeypatch.context() as patch:
        patch.setattr("factory.evaluation.score.replace", cut)
        with pytest.raises(KeyboardInterrupt):
            go(data, scorer(tmp_path, REWARD), out)
    assert not (out / "state.json").exists()  # no dataset rather than half of one
    _, engine = go(data, scorer(tmp_path, REWARD), out)
    assert (engine.seen, len(load_from_disk(str(out)))) == ([], 5)
    assert not [path.name for path in out.iterdir() if "half" in path.name]


def test_a_finished_scoring_is_not_done_again(tmp_path: Path) -> None:
    data, out = saved(tmp_path / "data", PAIRS), tmp_path / "out"
    go(data, scorer(tmp_path, REWARD), out)
    before = (out / "state.json").stat().st_mtime_ns
    record, engine = go(data, scorer(tmp_path, REWARD), out)
    assert (engine.seen, record.rows, record.calls) == ([], 5, 0)
    assert (out / "state.json").stat().st_mtime_ns == before


def test_more_rows_or_another_option_make_it_anew_and_pay_for_what_is_new(tmp_path: Path) -> None:
    data, out = saved(tmp_path / "data", PAIRS), tmp_path / "out"
    go(data, scorer(tmp_path, REWARD), out, limit=2)
    record, engine = go(data, scorer(tmp_path, REWARD), out)
    assert (len(engine.seen), record.rows, len(load_from_disk(str(out)))) == (6, 5, 5)
    record, engine = go(data, scorer(tmp_path, {**REWARD, "name": "rm"}), out)
    assert engine.seen == []
    assert record.columns == ["chosen_rm", "rejected_rm"]
    assert load_from_disk(str(out)).column_names[-2:] == ["chosen_rm", "rejected_rm"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    data, out = saved(tmp_path / "data", PAIRS), tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("x")
    with pytest.raises(RecipeError, match="is not empty and no scoring of ours"):
        go(data, scorer(tmp_path, REWARD), out)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


# -- scorers ------------------------------------------------------------------------------------


def test_several_reward_models_are_combined_over_the_dataset(tmp_path: Path) -> None:
    several = {"kind": "reward", "models": {"a": "rm", "b": "rm2"}}
    data, out = saved(tmp_path / "data", PAIRS[:1]), tmp_path / "out"
    engine = FakeEngine()
    by = scorer(tmp_path, several)
    engines = {"rm": engine, "rm2": engine}
    rows = open_rows(data)
    asyncio.run(score_async(rows, by, out, engines=engines, progress=Progress(is_quiet=True)))
    (row,) = load_from_disk(str(out))
    # Both models say the same of two answers: standardized, the better is 1 and the other -1.
    better, worse = ("chosen", "rejected")
    if row["chosen_reward/a"] < row["rejected_reward/a"]:
        better, worse = worse, better
    assert row[f"{better}_reward"] == pytest.approx(1.0)
    assert row[f"{worse}_reward"] == pytest.approx(-1.0)


def test_a_judge_compares_the_answers_of_a_pair(tmp_path: Path) -> None:
    judge = {"kind": "judge", "model": "judge", "pairs": "all_pairs"}
    rank = {"kind": "rank"}
    data, out = saved(tmp_path / "data", PAIRS), tmp_path / "out"
    record, engine = go(data, scorer(tmp_path, judge, rank), out)
    assert record.columns == ["chosen_rank", "rejected_rank", "judge_p"]
    assert len(engine.seen) == 10
    for row in load_from_disk(str(out)):
        assert (row["judge_p"] > 0.5) == (row["chosen_rank"] > row["rejected_rank"])


def test_answers_are_checked_against_a_reference(tmp_path: Path) -> None:
    rows = [{"prompt": "1 + 1?", "completion": "It is #### 2", "reference": "#### 2"}]
    verify = {"kind": "verify", "how": "gsm8k"}
    go(saved(tmp_path / "data", rows), scorer(tmp_path, verify), tmp_path / "out")
    assert load_from_disk(str(tmp_path / "out"))["verify"] == [1.0]


def test_stages_that_score_nothing_are_skipped_and_named(tmp_path: Path) -> None:
    generate = {"kind": "generate", "model": "judge"}
    by = scorer(tmp_path, generate, {"kind": "filter"}, REWARD, overrides=("stages.2.name=rm",))
    assert by.skipped == ["generate", "filter"]
    assert (by.scores(), list(by.pipeline.models)) == ({"rm": 2}, ["rm"])
    assert by.pipeline.models["rm"].task == "classify"


@pytest.mark.parametrize(
    ("stages", "complaint"),
    [
        ([{"kind": "generate", "model": "rm"}], "has no stage that scores answers"),
        (
            [{"kind": "judge", "model": "judge"}],
            r"stages\[0\]: needs revisions, .* --set stages.0.pairs=all_pairs",
        ),
        ([{"kind": "rank"}], r"stages\[0\]: needs verdicts:\*"),
        ([{"kind": "reward", "model": "mr"}], "no model named 'mr'"),
        (
            [REWARD, {"kind": "judge", "mode": "pointwise", "model": "rm"}],
            "'rm' is served with task: classify, and judge needs task: generate",
        ),
    ],
)
def test_what_is_no_scorer(tmp_path: Path, stages: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        scorer(tmp_path, *stages)


def test_a_model_that_is_still_to_be_trained_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'trained:reward' is made by a training"):
        scorer(tmp_path, REWARD, overrides=("models.rm.model=trained:reward",))


def test_an_unknown_field_of_a_recipe_is_told(tmp_path: Path) -> None:
    path = tmp_path / "scorer.yaml"
    path.write_text("stages: [{kind: rank}]\nmodel: {}\n")
    with pytest.raises(RecipeError, match=r"scorer.yaml:2 model: unknown field; did you mean 'mod"):
        from_recipe(path)


@pytest.mark.parametrize(
    ("stages", "rows", "complaint"),
    [
        (
            [REWARD],
            [{**PAIRS[0], "chosen_reward": 1.0}],
            "has a column 'chosen_reward' already; .* --set stages.0.name=other",
        ),
        ([REWARD, REWARD], PAIRS, "stages 0 and 1 both make a score named 'reward'"),
        (
            [PROCESS],
            [{**STEPS[0], "process_steps": [1.0]}],
            "has a column 'process_steps' already",
        ),
        (
            [{"kind": "judge", "model": "judge", "pairs": "all_pairs"}],
            [{"prompt": "a?", "completion": "b"}],
            "compares answers, and a row of",
        ),
        (
            [{"kind": "judge", "model": "judge", "pairs": "all_pairs"}],
            [{"prompt": "a?", "responses": ["b", "c"]}],
            "compares answers and scores none; add {kind: rank}",
        ),
    ],
)
def test_what_does_not_fit(
    tmp_path: Path, stages: list[dict[str, Any]], rows: list[dict[str, Any]], complaint: str
) -> None:
    data = saved(tmp_path / "data", rows)
    with pytest.raises(RecipeError, match=complaint):
        go(data, scorer(tmp_path, *stages), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def model_folder(path: Path, architecture: str, record: dict[str, Any] | None = None) -> str:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    if record is not None:
        (path / "training.json").write_text(json.dumps(record))
    return str(path)


def test_a_models_head_tells_its_stage(tmp_path: Path) -> None:
    reward = from_model(model_folder(tmp_path / "rm", "LlamaForSequenceClassification"))
    assert [stage.kind for stage in reward.pipeline.stages] == ["reward"]
    assert reward.pipeline.models["scorer"].model == str(tmp_path / "rm")
    assert reward.pipeline.models["scorer"].task == "classify"
    record = {"steps_as": {"separator": "", "tag": "<x>"}}
    path = model_folder(tmp_path / "prm", "Qwen2ForTokenClassification", record)
    process = from_model(path, overrides=["stages.0.aggregate=last", "models.scorer.dtype=float32"])
    (stage,) = process.pipeline.stages
    options = stage.model_dump()
    assert (stage.kind, options["tag"], options["aggregate"]) == ("process", "<x>", "last")
    assert options["separator"] == ""
    assert process.pipeline.models["scorer"].task == "token_classify"


def test_a_model_that_writes_needs_a_recipe(tmp_path: Path) -> None:
    path = model_folder(tmp_path / "lm", "LlamaForCausalLM")
    with pytest.raises(RecipeError, match=r"LlamaForCausalLM\) is neither .* give --recipe FILE"):
        from_model(path)
    told = from_model(path, "process", ["models.scorer.label_tokens=['+', '-']"])
    assert told.pipeline.models["scorer"].label_tokens == ["+", "-"]  # type: ignore[union-attr]
