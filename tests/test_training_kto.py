"""KTO: labels, weights, and a training of a tiny Llama."""

from __future__ import annotations

import pytest

from factory.core.errors import RecipeError
from factory.training import TRAINERS
from factory.training.offline import kto
from tests.tiny import logged, save

CONFIG = {
    "max_steps": 8,
    "learning_rate": 3e-3,
    "save_strategy": "no",
    "logging_steps": 1,
    "per_device_train_batch_size": 4,
}
ONE_STEP = CONFIG | {"max_steps": 1}
ANSWERS = {True: "Yes, it is.", False: "No, never, not at all."}


def rows(good: int, bad: int) -> list[dict]:
    """As a kto view has them: an answer each."""
    labels = [True] * good + [False] * bad
    return [
        {
            "prompt": [{"role": "user", "content": f"Is {n} a number?"}],
            "completion": [{"role": "assistant", "content": ANSWERS[label]}],
            "label": label,
            "score": 1.0 if label else None,
        }
        for n, label in enumerate(labels)
    ]


def test_good_answers_gain_on_bad_ones(tiny, tmp_path, capsys):
    data = save(rows(8, 8), tmp_path / "d.jsonl")
    record = TRAINERS["kto"].train(data, tiny, tmp_path / "out", config=CONFIG)
    first, *_, last = logged(tmp_path / "out")
    # before the first step r = z = 0, and 1 - s(0) = 1/2
    assert first["loss"] == pytest.approx(0.5, abs=1e-4)
    assert last["loss"] < first["loss"]
    assert last["rewards/margins"] > 0.1
    assert record["labels"] == {"good": 8, "bad": 8}
    assert (record["desirable_weight"], record["undesirable_weight"]) == (1, 1)
    assert "8 good and 8 bad answers, weights 1 and 1\n" in capsys.readouterr().err


def test_an_adapter_is_its_own_reference(tiny, tmp_path):
    data = save(rows(8, 8), tmp_path / "d.jsonl")
    config = CONFIG | {"learning_rate": 3e-2}
    TRAINERS["kto"].train(data, tiny, tmp_path / "out", lora={"r": 4}, config=config)
    first, *_, last = logged(tmp_path / "out")
    assert first["loss"] == pytest.approx(0.5, abs=1e-4)
    assert last["rewards/margins"] > 0.05


def test_weights_make_up_for_uneven_labels(tiny, tmp_path, capsys):
    data = save(rows(12, 4), tmp_path / "d.jsonl")
    record = TRAINERS["kto"].train(data, tiny, tmp_path / "out", config=ONE_STEP)
    # 12 / (4 * 18/7) = 7/6
    assert record["undesirable_weight"] == pytest.approx(18 / 7, abs=1e-4)
    assert record["desirable_weight"] == 1
    said = capsys.readouterr().err
    assert "12 good and 4 bad answers, weights 1 and 2.5714\n" in said


@pytest.mark.parametrize(
    ("good", "bad", "weights"),
    [
        (6, 6, (1, 1)),
        (8, 6, (1, 1)),  # 4/3 exactly
        (21, 9, (1, 2)),  # 21 / 18 = 7/6
        (7, 12, (2, 1)),  # 14 / 12 = 7/6
        (5, 0, (1, 1)),
        (0, 5, (1, 1)),
    ],
)
def test_balanced_by_hand(good, bad, weights):
    assert kto.balanced(good, bad) == pytest.approx(weights)


def test_weights_that_are_set_stay_and_are_judged(tiny, tmp_path, capsys):
    data = save(rows(12, 4), tmp_path / "d.jsonl")
    record = TRAINERS["kto"].train(
        data, tiny, tmp_path / "out", config=ONE_STEP | {"desirable_weight": 0.5}
    )
    assert (record["desirable_weight"], record["undesirable_weight"]) == (0.5, 1)
    assert "weighed, good to bad is 1.50, outside the 1 to 1.33" in capsys.readouterr().err


def test_what_cannot_be_trained_on_is_counted(tiny, tmp_path):
    long = rows(1, 0)[0]
    no_room = long | {"prompt": [{"role": "user", "content": "word " * 100}]}
    cut = long | {"completion": [{"role": "assistant", "content": "word " * 100}]}
    data = save([*rows(4, 4), no_room, cut, long | {"label": None}], tmp_path / "d.jsonl")
    record = TRAINERS["kto"].train(
        data, tiny, tmp_path / "out", config=ONE_STEP | {"max_length": 64}
    )
    counted = record["data"]
    assert (counted["rows"], counted["rows_used"], counted["rows_cut"]) == (11, 9, 1)
    assert counted["rows_left_out"] == {"no label": 1, "the prompt alone fills 64 tokens": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "good"}, "row 0 label: expected true or false, found 'good'"),
        ({"label": None}, "none of the 4 rows has a label"),
    ],
)
def test_labels_that_are_none_are_errors(tiny, tmp_path, change, message):
    data = save([row | change for row in rows(2, 2)], tmp_path / "d.jsonl")
    with pytest.raises(RecipeError, match=message):
        TRAINERS["kto"].train(data, tiny, tmp_path / "out", config=ONE_STEP)
    assert not (tmp_path / "out").exists()


def test_a_batch_of_one_is_refused_in_trls_words(tiny, tmp_path):
    data = save(rows(2, 2), tmp_path / "d.jsonl")
    config = ONE_STEP | {"per_device_train_batch_size": 1}
    with pytest.raises(RecipeError, match=r"TRL refused this training: .*batch size"):
        TRAINERS["kto"].train(data, tiny, tmp_path / "out", config=config)


def test_a_misspelt_option_is_named():
    with pytest.raises(RecipeError, match="no option 'desireable_weight'; did you mean 'desirable"):
        TRAINERS["kto"].check_options({"desireable_weight": 2})
    TRAINERS["kto"].check_options({"loss_type": "apo_zero_unpaired", "beta": "0.1"})
