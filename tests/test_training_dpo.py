"""The rest of the DPO family: soft labels, InfoNCA, NCA and RRHF, by hand and on a tiny Llama."""

from __future__ import annotations

import math
import re

import pytest
import torch

from factory.core.errors import RecipeError
from factory.training import TRAINERS
from factory.training.offline import listwise
from factory.training.offline import preference_losses as losses
from tests.tiny import dataset, logged, save, stopped_at, weights_of

CONFIG = {"max_steps": 8, "learning_rate": 3e-3, "save_strategy": "no", "logging_steps": 1}
ONE_STEP = CONFIG | {"max_steps": 1}
PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"Is {n} a number?"}],
        "chosen": [{"role": "assistant", "content": "Yes, it is."}],
        "rejected": [{"role": "assistant", "content": "No, never, not at all."}],
        "preference": 0.9 if n % 2 else None,
    }
    for n in range(8)
]
LISTS = [
    {
        "prompt": [{"role": "user", "content": f"Is {n} a number?"}],
        "responses": ["Perhaps.", "Yes, it is.", "No, never, not at all."],
        "scores": [5.0, 9.0, 1.0],
    }
    for n in range(6)
]


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


# -- losses by hand ------------------------------------------------------------------------------


def test_two_answers_with_p_are_dpo_with_soft_labels():
    rewards, p = torch.tensor([0.7, 0.2]), 0.75
    expected = -p * log_sigmoid(0.5) - (1 - p) * log_sigmoid(-0.5)
    loss = losses.contrast(rewards, torch.tensor([p, 1 - p]))
    assert loss.item() == pytest.approx(expected)
    certain = losses.contrast(rewards, torch.tensor([1.0, 0.0]))
    assert certain.item() == pytest.approx(-log_sigmoid(0.5))


def test_infonca_by_hand():
    # rewards log 1, log 2, log 5: their softmax is 1/8, 2/8, 5/8
    rewards = torch.tensor([1.0, 2.0, 5.0]).log()
    # scores 0, log 2, log 4 with temperature 2: 1 : sqrt 2 : 2
    targets = losses.targets(torch.tensor([1.0, 2.0, 4.0]).log(), 2.0)
    share = 1 / (3 + math.sqrt(2))
    assert targets.tolist() == pytest.approx([share, share * math.sqrt(2), share * 2])
    expected = share * (math.log(8) + math.sqrt(2) * math.log(4) + 2 * math.log(8 / 5))
    assert losses.contrast(rewards, targets).item() == pytest.approx(expected)


def test_infonca_is_least_where_the_policy_says_the_targets():
    targets = losses.targets(torch.tensor([3.0, 1.0, 0.0]), 1.0)
    rewards = (targets.log() + 4).requires_grad_()
    losses.contrast(rewards, targets).backward()
    assert rewards.grad.abs().max() < 1e-6


def test_nca_by_hand():
    rewards, targets = torch.tensor([1.0, -1.0, 0.0]), torch.tensor([0.5, 0.25, 0.25])
    up = 0.5 * log_sigmoid(1) + 0.25 * log_sigmoid(-1) + 0.25 * log_sigmoid(0)
    down = (log_sigmoid(-1) + log_sigmoid(1) + log_sigmoid(0)) / 3
    assert losses.noise_contrast(rewards, targets).item() == pytest.approx(-up - down)


def test_nca_is_least_where_the_odds_are_the_targets():
    """s(r) * (t + 1/K) = t, so exp(r) = K * t."""
    targets = torch.tensor([0.6, 0.3, 0.1])
    rewards = (3 * targets).log().requires_grad_()
    losses.noise_contrast(rewards, targets).backward()
    assert rewards.grad.abs().max() < 1e-6


def test_rrhf_by_hand():
    # scores say 3rd > 1st > 2nd; only the 2nd, with -1, is likelier than better ones
    logps, scores = torch.tensor([-2.0, -1.0, -1.5]), torch.tensor([2.0, 1.0, 3.0])
    assert losses.rank(logps, scores).item() == pytest.approx(1.0 + 0.5)
    assert losses.rank_and_imitate(logps, scores, 2.0).item() == pytest.approx(2 * 1.5 + 1.5)


def test_rrhf_asks_nothing_of_ties():
    assert losses.rank(torch.tensor([-2.0, -1.0]), torch.tensor([1.0, 1.0])).item() == 0


# -- rows ----------------------------------------------------------------------------------------


def test_answers_stand_best_first_under_the_ids_that_trl_makes(tiny, tokenizer, tmp_path):
    """The very ids of TRL's DPO, so that soft labels change the loss and nothing else."""
    from trl import DPOConfig, DPOTrainer

    args = DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    theirs = DPOTrainer(
        model=str(tiny), args=args, train_dataset=dataset(PAIRS[:2]), processing_class=tokenizer
    ).train_dataset[1]
    ours = listwise.encode_pairs(dataset(PAIRS[:2]), tokenizer, 1024).rows[1]
    assert ours["prompt_ids"] == theirs["prompt_ids"]
    assert ours["answer_ids"] == [theirs["chosen_ids"], theirs["rejected_ids"]]
    assert ours["scores"] == pytest.approx([0.9, 0.1])

    ranked = listwise.encode_lists(dataset(LISTS[:1]), tokenizer, 1024).rows[0]
    assert ranked["scores"] == [9, 5, 1]
    assert ranked["answer_ids"][0] == theirs["chosen_ids"]


def test_plain_text_ends_with_the_end_of_text(tokenizer):
    rows = [{"prompt": "1 + 1 =", "responses": [" 2", " 3"], "scores": [0.0, 1.0]}]
    (row,) = listwise.encode_lists(dataset(rows), tokenizer, None).rows
    assert tokenizer.decode(row["prompt_ids"]) == "1 + 1 ="
    answers = [tokenizer.decode(ids) for ids in row["answer_ids"]]
    assert answers == [f" 3{tokenizer.eos_token}", f" 2{tokenizer.eos_token}"]


def test_what_cannot_be_trained_on_is_counted(tokenizer):
    rows = [
        LISTS[0],
        LISTS[0] | {"scores": [5.0, None, 1.0]},
        LISTS[0] | {"scores": [5.0, 5.0, None]},
        LISTS[0] | {"prompt": [{"role": "user", "content": "word " * 100}]},
        LISTS[0] | {"responses": ["Yes.", "word " * 100, "No."]},
    ]
    encoded = listwise.encode_lists(dataset(rows), tokenizer, 64)
    assert encoded.rows_left_out == {
        "no two answers with different scores": 1,
        "the prompt alone fills 64 tokens": 1,
    }
    assert encoded.answers_left_out == {"no score": 1}
    assert (len(encoded.rows), encoded.rows_cut) == (3, 1)
    cut = encoded.rows[2]
    assert len(cut["prompt_ids"]) + len(cut["answer_ids"][0]) == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [1.0, 2.0]}, "row 0 has 3 responses, 2 scores"),
        ({"scores": [1.0, float("nan"), 2.0]}, "expected a finite number, found nan"),
    ],
)
def test_rows_that_make_no_sense_are_errors(tokenizer, change, message):
    with pytest.raises(RecipeError, match=message):
        listwise.encode_lists(dataset([LISTS[0] | change]), tokenizer, None)


# -- trainings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{}, {"precompute_ref_log_probs": True}])
def test_certain_soft_labels_train_as_trl_does(tiny, tmp_path, config):
    """p = 1 is DPO: our loss gives the losses, margins and gradients of TRL's, step by step."""
    data = save([row | {"preference": 1.0} for row in PAIRS], tmp_path / "d.jsonl")
    for name, soft in (("theirs", False), ("ours", True)):
        given = CONFIG | config | {"max_steps": 4, "soft_labels": soft}
        TRAINERS["dpo"].train(data, tiny, tmp_path / name, config=given)
    theirs, ours = logged(tmp_path / "theirs"), logged(tmp_path / "ours")
    for name in ("loss", "rewards/margins", "rewards/chosen", "grad_norm"):
        assert [o[name] for o in ours] == pytest.approx([t[name] for t in theirs], abs=1e-4)
    assert ours[-1]["rewards/margins"] > ours[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)


def test_soft_labels_hold_the_margin_where_the_judge_was(tiny, tmp_path):
    data = save([row | {"preference": 0.75} for row in PAIRS], tmp_path / "d.jsonl")
    config = CONFIG | {"soft_labels": True, "beta": 1.0, "max_steps": 40, "logging_steps": 10}
    record = TRAINERS["dpo"].train(data, tiny, tmp_path / "out", config=config)
    # s(margin) = 0.75 at margin log 3
    assert record["metrics"]["rewards/margins"] == pytest.approx(math.log(3), abs=0.3)


def test_a_null_preference_is_certain_and_counted(tiny, tmp_path, capsys):
    data = save(PAIRS, tmp_path / "d.jsonl")
    record = TRAINERS["dpo"].train(
        data, tiny, tmp_path / "out", config=ONE_STEP | {"soft_labels": True}
    )
    assert record["labels_missing"] == 4
    assert "4 of 8 rows have no preference: 1 is used" in capsys.readouterr().err


@pytest.mark.parametrize("loss", ["infonca", "nca", "rrhf"])
def test_lists_put_the_best_before_the_worst(tiny, tmp_path, loss):
    data = save(LISTS, tmp_path / "d.jsonl")
    record = TRAINERS["dpo"].train(
        data, tiny, tmp_path / "out", config=CONFIG | {"loss_type": loss}
    )
    first, *_, last = logged(tmp_path / "out")
    assert last["rewards/margins"] > first["rewards/margins"] + 0.1
    assert last["loss"] < first["loss"]
    assert record["metrics"]["rewards/accuracies"] == 1.0
    assert (record["data"]["rows"], record["data"]["rows_used"]) == (6, 6)


def test_nca_of_two_is_trls_nca_pair(tiny, tmp_path):
    """A tiny temperature leaves the best answer alone, which is what a pair says."""
    pairs = save(PAIRS, tmp_path / "pairs.jsonl")
    lists = [
        {
            "prompt": row["prompt"],
            "responses": [row[side][0]["content"] for side in ("rejected", "chosen")],
            "scores": [0.0, 1.0],
        }
        for row in PAIRS
    ]
    TRAINERS["dpo"].train(pairs, tiny, tmp_path / "a", config=CONFIG | {"loss_type": "nca_pair"})
    ours = CONFIG | {"loss_type": ["nca"], "score_temperature": 0.01}
    TRAINERS["dpo"].train(save(lists, tmp_path / "lists.jsonl"), tiny, tmp_path / "b", config=ours)
    losses_of = [[line["loss"] for line in logged(tmp_path / name)] for name in "ab"]
    assert losses_of[0] == pytest.approx(losses_of[1], abs=1e-4)


@pytest.mark.parametrize("loss", ["infonca", "rrhf"])
def test_an_adapter_is_its_own_reference(tiny, tmp_path, loss):
    data = save(LISTS, tmp_path / "d.jsonl")
    config = CONFIG | {"loss_type": loss, "learning_rate": 3e-2}
    TRAINERS["dpo"].train(data, tiny, tmp_path / "out", lora={"r": 4}, config=config)
    first, *_, last = logged(tmp_path / "out")
    assert last["rewards/margins"] > first["rewards/margins"] + 0.05
    if loss == "infonca":
        assert first["rewards/margins"] == pytest.approx(0, abs=1e-6)


def test_a_stopped_training_resumes_to_the_same_weights(tiny, tmp_path):
    """The config, with our own options, goes through a checkpoint, and the reference stays what the
    model was before the first step."""
    data = save(LISTS, tmp_path / "d.jsonl")
    config = CONFIG | {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    config |= {"loss_type": "infonca", "precompute_ref_log_probs": True}
    TRAINERS["dpo"].train(data, tiny, tmp_path / "whole", config=config)

    with stopped_at(3):
        TRAINERS["dpo"].train(data, tiny, tmp_path / "out", config=config)
    record = TRAINERS["dpo"].train(data, tiny, tmp_path / "out", config=config, resume=True)
    assert (record["steps"], record["resumed_at_step"]) == (4, 2)
    whole, out = (weights_of(tmp_path / name) for name in ("whole", "out"))
    assert all(torch.equal(weight, out[name]) for name, weight in whole.items())


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"soft_labels": True, "loss_type": "ipo"},
            "soft_labels is for loss_type sigmoid, not ipo",
        ),
        ({"soft_labels": True, "ld_alpha": 0.5}, "ld_alpha does not go with soft_labels"),
        ({"loss_type": ["infonca", "sft"]}, "loss_type is infonca, sft, but infonca stands alone"),
        ({"loss_type": "rrhf", "sync_ref_model": True}, "rrhf has no reference model; unset it"),
        ({"score_temperature": 2.0}, "score_temperature is for loss_type infonca or nca, not sig"),
        ({"loss_type": "infonca", "score_temperature": 0.0}, "it must be above 0"),
        ({"loss_type": "nca", "rank_weight": 100}, "rank_weight is for loss_type rrhf, not nca"),
        ({"soft_label": True}, "DPOConfig has no option 'soft_label'; did you mean 'soft_labels'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(config, message):
    with pytest.raises(RecipeError, match=message):
        TRAINERS["dpo"].check_options(config)


def test_the_names_of_losses_are_those_that_trl_knows():
    import inspect

    import trl

    from factory.training.offline.dpo import TRL_LOSSES

    source = inspect.getsource(trl.DPOTrainer)
    [names] = re.findall(r"Should be one of \[(.*?)\]", re.sub(r'"\s*f?"', "", source))
    assert sorted(TRL_LOSSES) == sorted(re.findall(r"'(\w+)'", names))
    with pytest.raises(
        RecipeError, match=r"no loss_type 'sigmod'; did you mean 'sigmoid'\? \(have"
    ):
        TRAINERS["dpo"].check_options({"loss_type": "sigmod"})


def test_all_losses_of_trl_train_on_our_pairs(tiny, tmp_path):
    from factory.training.offline.dpo import TRL_LOSSES

    every = {"loss_type": list(TRL_LOSSES), "loss_weights": [1 / len(TRL_LOSSES)] * len(TRL_LOSSES)}
    data = save(PAIRS, tmp_path / "d.jsonl")
    TRAINERS["dpo"].train(
        data, tiny, tmp_path / "out", config=CONFIG | every | {"label_smoothing": 0.1}
    )
    first, *_, last = logged(tmp_path / "out")
    assert last["rewards/margins"] > first["rewards/margins"] + 0.1


def test_right_options_pass():
    TRAINERS["dpo"].check_options(
        {"loss_type": "infonca", "score_temperature": "0.5", "fp16": True}
    )
    TRAINERS["dpo"].check_options({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.1]})


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        (
            PAIRS,
            {"loss_type": "infonca"},
            r"infonca needs a reward view's columns prompt, responses, scores \(the dataset has: p",
        ),
        (LISTS, {}, "no columns 'chosen', 'rejected' .*a reward view's: use factory train reward"),
        (
            [{k: v for k, v in row.items() if k != "preference"} for row in PAIRS],
            {"soft_labels": True},
            "soft_labels needs a column preference",
        ),
        (
            [row | {"preference": 1.5} for row in PAIRS],
            {"soft_labels": True},
            "row 0 preference: expected 0 to 1, found 1.5",
        ),
        (
            [row | {"scores": [1.0, 1.0, 1.0]} for row in LISTS],
            {"loss_type": "rrhf"},
            r"none of the 6 rows is left \(6: no two answers with different scores\); look at",
        ),
        (
            LISTS,
            {"loss_type": "nca", "max_length": 8},
            "none of the 6 rows .*raise config.max_length",
        ),
    ],
)
def test_data_that_does_not_fit_is_refused(tiny, tmp_path, rows, config, message):
    data = save(rows, tmp_path / "d.jsonl")
    with pytest.raises(RecipeError, match=message):
        TRAINERS["dpo"].train(data, tiny, tmp_path / "out", config=ONE_STEP | config)
    assert not (tmp_path / "out").exists()
