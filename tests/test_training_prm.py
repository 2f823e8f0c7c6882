"""Process reward models, on a model small enough to be trained in a test."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from factory.core.errors import RecipeError, SampleError
from factory.sources.prm800k import ProcessRow, write
from factory.training import TRAINERS
from factory.training.offline import process_data
from factory.training.offline.process_data import Layout, encode, encode_row
from tests.tiny import dataset, logged, save, stopped_at, weights_of

CONFIG = {"max_steps": 8, "learning_rate": 1e-2, "logging_steps": 1, "save_strategy": "no"}
ONE_STEP = CONFIG | {"max_steps": 1}
USER = [{"role": "user", "content": "Add."}]
ROWS = [
    {
        "prompt": USER,
        "completions": [f"{n} is a number", "so it is blue" if n % 2 else "so it is one"],
        "labels": [True, n % 2 == 0],
        "scores": [0.9, None],
        "prompt_id": f"p{n}",
    }
    for n in range(8)
]


class Letters:
    """A tokenizer whose tokens are characters, and whose prompts are all the two tokens [1, 2]."""

    chat_template = "given"

    def apply_chat_template(self, messages: Any, **kwargs: Any) -> list[int]:
        return [1, 2]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [3] if text == "<step>" else [ord(letter) for letter in text]


def layout(**changes: Any) -> Layout:
    given: dict[str, Any] = {
        "num_labels": 2,
        "separator": "\n",
        "tag": "",
        "max_length": 1024,
        "truncate_after_first_error": True,
    }
    return Layout(**given | changes)


def labels_at(classes: list[int]) -> dict[int, int]:
    return {place: label for place, label in enumerate(classes) if label != -100}


# -- tokens and labels ---------------------------------------------------------------------------


def test_a_step_is_labeled_at_the_end_of_its_separator():
    ids, classes = encode_row(Letters(), "Add.", ["ab", "c"], [True, False], layout())
    assert ids == [1, 2, ord("a"), ord("b"), ord("\n"), ord("c"), ord("\n")]
    assert classes == [-100, -100, -100, -100, 1, -100, 0]


def test_with_a_tag_a_step_is_labeled_at_the_tag():
    ids, classes = encode_row(
        Letters(), USER, ["ab", "c"], [True, False], layout(tag="<step>", separator="\n\n")
    )
    # The ids end with the last label; the separator after the last tag is not needed.
    assert ids == [1, 2, ord("a"), ord("b"), 3, 10, 10, ord("c"), 3]
    assert labels_at(classes) == {4: 1, 8: 0}


def test_positions_are_those_the_engines_read(tiny):
    from transformers import AutoTokenizer

    from factory.engines.base import Scoring
    from factory.engines.render import step_ids

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    steps = ("First, 1 + 1 = 2.", "Then I stop.")
    served, positions = step_ids(tokenizer, USER, Scoring(steps), {})
    ids, classes = encode_row(tokenizer, USER, list(steps), [True, False], layout())
    assert ids == served
    assert labels_at(classes) == dict(zip(positions, [1, 0], strict=True))


@pytest.mark.parametrize(
    ("labels", "changes", "expected"),
    [
        ([-1, 0, 1], {"truncate_after_first_error": False}, {3: 0, 5: 1, 7: 1}),
        ([0, 1, -1], {"num_labels": 3}, {3: 1, 5: 2, 7: 0}),
        ([True, None, False], {}, {3: 1, 7: 0}),
        ([True, False, True], {}, {3: 1, 5: 0}),
        ([True, True, None], {}, {3: 1, 5: 1}),
        ([None, -1, 1], {"truncate_after_first_error": False, "num_labels": 3}, {5: 0, 7: 2}),
    ],
)
def test_labels_become_classes_and_unknown_ones_are_ignored(labels, changes, expected):
    ids, classes = encode_row(Letters(), "Add.", ["a", "b", "c"], labels, layout(**changes))
    assert labels_at(classes) == expected
    assert len(ids) == len(classes) == max(expected) + 1


def test_shared_steps_have_no_label_but_an_error_among_them_counts():
    steps = ["a", "b"]
    _, classes = encode_row(Letters(), "Add.", steps, [1, 0], layout(), shared=1)
    assert labels_at(classes) == {5: 1}
    with pytest.raises(SampleError, match="no step with a known label"):
        encode_row(Letters(), "Add.", steps, [-1, 1], layout(), shared=1)


@pytest.mark.parametrize(
    ("prompt", "steps", "labels", "reason"),
    [
        ("Add.", ["a", "b"], [None, None], "no step with a known label"),
        ("Add.", ["a", " "], [True, True], "a blank step"),
        ("Add.", ["a"], [True, True], "no completions, or not as many labels"),
        ("Add.", [], [], "no completions, or not as many labels"),
        ("Add.", ["a"], [0.5], "a label other than true, false, null, -1, 0 and 1"),
        ("Add.", ["a"], [2], "a label other than true, false, null, -1, 0 and 1"),
        (None, ["a"], [True], "no prompt"),
        ("Add.", ["abcdef"], [True], r"over 8 tokens \(max_length\)"),
    ],
)
def test_a_row_is_left_out_for_a_reason(prompt, steps, labels, reason):
    with pytest.raises(SampleError, match=reason):
        encode_row(Letters(), prompt, steps, labels, layout(max_length=8))


def test_a_row_of_just_max_length_is_used():
    ids, _ = encode_row(Letters(), "Add.", ["abcde"], [True], layout(max_length=8))
    assert len(ids) == 8


def test_rows_left_out_and_labels_are_counted():
    rows = dataset(
        [
            {"prompt": "Add.", "completions": ["a", "b"], "labels": [True, False]},
            {"prompt": "Add.", "completions": ["a" * 9], "labels": [True]},
            {"prompt": "Add.", "completions": ["c", "d"], "labels": [True, None]},
            {"prompt": "Add.", "completions": ["e"], "labels": [None]},
        ]
    )
    encoded = encode(rows, Letters(), layout(max_length=8))
    assert encoded.left_out == {
        "over 8 tokens (max_length)": 1,
        "no step with a known label": 1,
    }
    assert encoded.counts == [1, 2]
    assert encoded.dataset["labels"][:] == [[-100, -100, -100, 1, -100, 0], [-100, -100, -100, 1]]
    assert encoded.dataset["length"][:] == [6, 4]
    with pytest.raises(RecipeError, match=r"none of the 4 rows is left: 4 over 1 tokens"):
        encode(
            rows.filter(lambda r: any(r["labels"])).select([0, 0, 1, 2]),
            Letters(),
            layout(max_length=1),
        )


def test_zeros_and_ones_are_not_taken_for_ratings():
    rows = dataset([{"prompt": "Add.", "completions": ["a", "b"], "labels": [1, 0]}])
    with pytest.raises(
        RecipeError, match=r"the labels are 0 and 1, never -1.*write false and true"
    ):
        encode(rows, Letters(), layout())
    with_an_error = {"prompt": "Add.", "completions": ["a"], "labels": [-1]}
    assert encode(dataset([rows[0], with_an_error]), Letters(), layout()).counts == [1, 2]


def test_a_tag_of_two_tokens_is_refused():
    with pytest.raises(RecipeError, match="step tag '##' is 2 tokens"):
        encode(dataset(ROWS[:1]), Letters(), layout(tag="##"))


# -- PRM800K -------------------------------------------------------------------------------------


def test_prm800k_is_opened_as_rows_with_each_rating_once(tmp_path, capsys):
    file = tmp_path / "prm.jsonl"
    write([ProcessRow("Add.", ["a", "b", "c"], [1, 0, -1])], file)
    value = json.loads(file.read_text())
    value["label"]["steps"][1]["completions"].append({"text": "x", "rating": -1})
    screening = {**value, "is_initial_screening_question": True}
    file.write_text(f"{json.dumps(value)}\n{json.dumps(screening)}\nnonsense\n")

    dataset, fingerprint, *_, dropped = process_data.open_rows("prm", file, {})

    assert dataset.to_list() == [
        {"prompt": "Add.", "completions": ["a", "b", "c"], "labels": [1, 0, -1], "shared": 0},
        {"prompt": "Add.", "completions": ["a", "x"], "labels": [1, -1], "shared": 1},
    ]
    assert len(fingerprint) == 32
    assert dropped == {"bad line": 1, "initial screening": 1}
    assert encode(dataset, Letters(), layout(num_labels=3)).counts == [2, 1, 1]
    said = capsys.readouterr().err
    assert "1 left out: initial screening" in said
    assert "1 left out: bad line, as line 3: not JSON" in said


def test_a_prm800k_file_without_rows_is_refused(tmp_path):
    file = tmp_path / "prm.jsonl"
    write([ProcessRow("Add.", ["a"], [None])], file)
    with pytest.raises(RecipeError, match=r"no row to train on \(1 no rating on the solution's"):
        process_data.open_rows("prm", file, {})


# -- loss and metrics ----------------------------------------------------------------------------


def loss_of(logits: list[Any], labels: list[Any], weights: list[float], count: int | None = None):
    from types import SimpleNamespace

    import torch

    from factory.training.offline.prm import StepLoss

    loss = StepLoss(weights)
    outputs = SimpleNamespace(logits=torch.tensor(logits))
    return loss(outputs, torch.tensor(labels), count).item(), loss.confusion.tolist()


def test_the_loss_is_weighted_cross_entropy_over_the_labeled_steps():
    # softmax of (0, log 3) is (1/4, 3/4).
    logits = [[[0.0, math.log(3)], [9.0, -9.0], [0.0, math.log(3)], [0.0, math.log(3)]]]
    labels = [[1, -100, 0, -100]]
    plain = -math.log(3 / 4), -math.log(1 / 4)
    value, confusion = loss_of(logits, labels, [1.0, 1.0])
    assert value == pytest.approx(sum(plain) / 2)
    assert confusion == [[0, 1], [0, 1]]
    value, _ = loss_of(logits, labels, [3.0, 0.5])
    assert value == pytest.approx((0.5 * plain[0] + 3 * plain[1]) / 2)
    value, _ = loss_of(logits, labels, [1.0, 1.0], count=8)  # of a whole optimizer step
    assert value == pytest.approx(sum(plain) / 8)


def test_three_classes():
    # softmax of (0, log 2, 0) is (1/4, 1/2, 1/4).
    logits = [[[0.0, math.log(2), 0.0]] * 3]
    value, confusion = loss_of(logits, [[0, 1, 2]], [1.0, 1.0, 1.0])
    assert value == pytest.approx((math.log(4) + math.log(2) + math.log(4)) / 3)
    assert confusion == [[0, 1, 0], [0, 1, 0], [0, 1, 0]]


def test_class_weights():
    from factory.training.offline.prm import weights_of

    assert weights_of(None, [1, 3]) == [1.0, 1.0]
    assert weights_of([2, 1], [1, 3]) == [2.0, 1.0]
    assert weights_of("balanced", [1, 3]) == [2.0, pytest.approx(2 / 3)]
    assert weights_of("balanced", [1, 2, 3]) == [2.0, 1.0, pytest.approx(2 / 3)]
    with pytest.raises(ValueError, match="balanced, but no step is labeled neutral"):
        weights_of("balanced", [1, 0, 3])


def test_accuracies():
    from factory.training.offline.prm import accuracies

    assert accuracies([[0, 2], [0, 6]]) == {"accuracy": 0.75, "balanced_accuracy": 0.5}
    assert accuracies([[0, 0], [1, 3]]) == {"accuracy": 0.75, "balanced_accuracy": 0.75}
    assert accuracies([[1, 0, 0], [0, 0, 0], [1, 0, 1]]) == {
        "accuracy": pytest.approx(2 / 3),
        "balanced_accuracy": 0.75,
    }
    assert accuracies([[0, 0], [0, 0]]) == {}


# -- training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def view(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("process")
    dataset(ROWS).save_to_disk(str(folder))
    return folder


@pytest.fixture(scope="module")
def trained(tiny, view, tmp_path_factory) -> Path:
    """A finished training, which tests only look at."""
    out = tmp_path_factory.mktemp("trained") / "out"
    TRAINERS["prm"].train(view, tiny, out, config=CONFIG)
    return out


def test_the_loss_falls_and_the_accuracies_are_logged(trained):
    lines = logged(trained)
    assert len(lines) == 8
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(0 <= line["accuracy"] <= 1 for line in lines)
    assert all(0 <= line["balanced_accuracy"] <= 1 for line in lines)


def test_the_record_says_how_steps_are_read(trained):
    record = json.loads((trained / "training.json").read_text())
    assert record["kind"] == "prm"
    assert record["data"]["rows_left_out"] == {}
    assert record["steps_as"] == {
        "separator": "\n",
        "tag": "",
        "classes": ["wrong", "right"],
        "labelled": {"wrong": 4, "right": 12},
        "class_weights": [1.0, 1.0],
    }
    assert set(record["metrics"]) >= {"loss", "accuracy", "balanced_accuracy"}


def test_the_saved_model_is_the_trained_one(tiny, view, tmp_path, monkeypatch):
    import torch
    from transformers import AutoModelForTokenClassification

    from factory.training.common.session import Session

    ids, kept = torch.tensor([[1, 5, 9, 200]]), []
    fit = Session.fit

    def fit_and_look(self: Session, trainer: Any, **more: Any) -> dict[str, Any]:
        record = fit(self, trainer, **more)
        with torch.no_grad():
            kept.append(trainer.model.eval()(ids).logits)
        return record

    monkeypatch.setattr(Session, "fit", fit_and_look)
    TRAINERS["prm"].train(view, tiny, tmp_path / "out", config=ONE_STEP)
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(model(ids).logits, kept[0])
    assert model.config.architectures == ["LlamaForTokenClassification"]
    assert model.config.id2label == {0: "wrong", 1: "right"}
    assert model.config.label2id == {"wrong": 0, "right": 1}


def test_a_stopped_training_resumes_to_the_same_weights(trained, tiny, view, tmp_path):
    import torch

    config = CONFIG | {"save_strategy": "steps", "save_steps": 4}
    with stopped_at(5):
        TRAINERS["prm"].train(view, tiny, tmp_path / "out", config=config)
    record = TRAINERS["prm"].train(view, tiny, tmp_path / "out", config=config, resume=True)
    assert (record["steps"], record["resumed_at_step"]) == (8, 4)
    for name in ("loss", "accuracy", "balanced_accuracy"):
        lines = [line[name] for line in logged(tmp_path / "out")]
        assert lines == [line[name] for line in logged(trained)]
    again = weights_of(tmp_path / "out")
    for name, weight in weights_of(trained).items():
        assert torch.equal(weight, again[name]), name


def test_a_trained_model_is_trained_on_with_its_head(trained, view, tmp_path):
    record = TRAINERS["prm"].train(
        view, trained, tmp_path / "out", config=ONE_STEP | {"learning_rate": 0.0}
    )
    # The first step of the second training starts where the first training ended.
    assert record["metrics"]["loss"] < logged(trained)[0]["loss"]
    with pytest.raises(RecipeError, match="num_labels: 3, but the model already"):
        TRAINERS["prm"].train(
            view, trained, tmp_path / "three", config=ONE_STEP | {"num_labels": 3}
        )


def test_an_adapter_is_merged_and_its_head_trained(tiny, view, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForTokenClassification

    out = tmp_path / "out"
    TRAINERS["prm"].train(view, tiny, out, lora={"r": 4}, config=CONFIG)
    ids = torch.tensor([[1, 5, 9, 200]])
    with torch.no_grad():
        merged = AutoModelForTokenClassification.from_pretrained(out)(ids).logits
        base = AutoModelForTokenClassification.from_pretrained(tiny, num_labels=2)
        adapted = PeftModel.from_pretrained(base, str(out / "adapter")).eval()(ids).logits
    assert torch.allclose(merged, adapted, atol=1e-5)
    assert logged(out)[-1]["loss"] < logged(out)[0]["loss"]


def test_prm800k_with_three_classes_and_balanced_weights(tiny, tmp_path, capsys):
    file = tmp_path / "prm.jsonl"
    rows = [ProcessRow("Add.", ["one", "two", "three"], [1, 0, -1])] * 3
    write([*rows, ProcessRow("Add.", ["word " * 100], [1]), ProcessRow("Add.", ["a"], [1])], file)
    config = ONE_STEP | {"num_labels": 3, "class_weights": "balanced", "max_length": 64}
    record = TRAINERS["prm"].train(file, tiny, tmp_path / "out", config=config)
    assert (record["data"]["rows"], record["data"]["rows_used"]) == (5, 4)
    assert record["data"]["rows_left_out"] == {"over 64 tokens (max_length)": 1}
    assert record["steps_as"]["labelled"] == {"wrong": 3, "neutral": 3, "right": 4}
    assert record["steps_as"]["class_weights"] == pytest.approx([10 / 9, 10 / 9, 10 / 12])
    said = capsys.readouterr().err
    assert "1 of 5 rows left out: over 64 tokens" in said
    assert "steps: 3 wrong, 3 neutral, 4 right; separator '\\n', tag ''" in said
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["id2label"] == {"0": "wrong", "1": "neutral", "2": "right"}


def test_a_model_without_chat_template_reads_transcripts(tiny, tmp_path):
    from transformers import AutoTokenizer

    base = shutil.copytree(
        tiny, tmp_path / "base", ignore=shutil.ignore_patterns("chat_template.jinja")
    )
    data = save(ROWS, tmp_path / "rows.jsonl")
    assert (
        TRAINERS["prm"].train(data, base, tmp_path / "out", config=ONE_STEP)["data"]["rows_used"]
        == 8
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template is None


def test_steps_accumulate_to_the_same_loss(tiny, view, tmp_path):
    """The mean runs over all labeled steps of an optimizer step, however it is cut into batches."""
    config = ONE_STEP | {"class_weights": [4.0, 1.0], "train_sampling_strategy": "sequential"}
    base = json.loads((tiny / "config.json").read_text()) | {"classifier_dropout": 0.0}
    model = shutil.copytree(tiny, tmp_path / "model")
    (model / "config.json").write_text(json.dumps(base))
    losses = [
        TRAINERS["prm"].train(
            view,
            model,
            tmp_path / f"out-{batch}",
            config=config
            | {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 4 // batch},
        )["metrics"]["loss"]
        for batch in (1, 4)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


# -- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_label": 3}, "no option 'num_label'; did you mean 'num_labels'"),
        ({"num_labels": 4}, "config.num_labels: expected 2 or 3, found 4"),
        ({"class_weights": "equal"}, "config.class_weights: expected balanced, a list or nothing"),
        ({"class_weights": [1.0]}, r"expected 2 numbers >= 0, not all 0 \(wrong, right\)"),
        ({"class_weights": [1.0, -1.0]}, "expected 2 numbers"),
        ({"separator": ""}, "tag and separator are both empty"),
        ({"separator": 1}, "config.separator: expected text, found 1"),
        ({"max_length": 0}, "max_length: expected 1 or more, found 0"),
    ],
)
def test_a_wrong_option_is_refused(config, message):
    with pytest.raises(RecipeError, match=message):
        TRAINERS["prm"].check_options(config)


def test_right_options_pass():
    TRAINERS["prm"].check_options(
        {"num_labels": 3, "class_weights": [1, 0.5, 1], "tag": "<step>", "separator": ""}
    )
    TRAINERS["prm"].check_options({"max_length": None}, {"r": 8})
    with pytest.raises(RecipeError, match="lora"):
        TRAINERS["prm"].check_options({}, {"rank": 8})


def test_missing_columns_are_named(tiny, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(
        RecipeError, match=r"factory train prm: .* no columns 'completions', 'labels'"
    ):
        TRAINERS["prm"].train(data, tiny, tmp_path / "out", config={})
