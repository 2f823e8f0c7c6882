"""RLOO: the baseline by hand, and a tiny model whose reward rises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factory.core.errors import RecipeError
from factory.training import TRAINERS
from factory.training.common import options as training_options
from tests.test_training_grpo import ADVANTAGES, ONE_STEP, RATIOS, SHORT, clipped, rows
from tests.tiny import SHORT_ANSWERS, assert_the_mean_reward_rises, save


@pytest.fixture(scope="module")
def make_trainer(tiny, tokenizer, tmp_path_factory):
    """Trainers made as `rloo.train` makes them."""
    from datasets import Dataset

    from factory.training.online.rloo import RlooConfig, RlooTrainer

    def make(**given):
        given = {"use_cpu": True, **given}
        defaults = TRAINERS["rloo"].load().defaults_for(given, is_lora=False)
        resolved = training_options.resolve(RlooConfig, defaults, given, is_lora=False)
        return RlooTrainer(
            model=str(tiny),
            reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
            args=training_options.build(RlooConfig, resolved, tmp_path_factory.mktemp("args")),
            train_dataset=Dataset.from_list(rows("a", "b", "c")),
            processing_class=tokenizer,
        )

    return make


def given_completions(trainer, rewards: list[float | None], length: int = 3) -> dict:
    """What TRL makes of completions with these rewards; all end by themselves."""
    end = trainer._tokenizer.eos_token_id
    ids = [[5] * (length - 1) + [end] for _ in rewards]
    completions = [[{"role": "assistant", "content": "x"}] for _ in ids]
    made = ([[1]] * len(ids), ids, completions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trainer), "_generate", lambda self, prompts: made)
        trainer.reward_funcs = [lambda **_: rewards]
        trainer.model.train()
        return trainer._generate_and_score_completions(rows(*"a" * len(ids)))


def test_the_baseline_is_the_mean_of_the_others(make_trainer):
    """Of [1, 0, 0, 0]: 1 less 0, and 0 less 1/3."""
    scored = given_completions(make_trainer(), [1, 0, 0, 0])
    assert scored["advantages"].tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3], abs=1e-5)


def test_a_completion_without_a_reward_is_in_no_baseline(make_trainer):
    scored = given_completions(make_trainer(), [1, 0, None, None])
    assert scored["advantages"].tolist() == pytest.approx([1, -1, 0, 0], abs=1e-5)


def test_the_divergence_is_taken_off_the_reward(make_trainer):
    """Each of 3 tokens has log pi - log ref = 0.2 in the first completion and 0 in the second:
    R = [1 - 0.5 * 0.6, 0]."""
    import torch

    trainer = make_trainer(num_generations=2, beta=0.5)
    apart = torch.tensor([[0.2] * 3, [0.0] * 3])

    def logps(model, *_, **__):
        is_policy = model is not trainer.ref_model
        return torch.full((2, 3), -2.0) + is_policy * apart, torch.ones(2, 3), None

    trainer._get_per_token_logps_and_entropies = logps
    scored = given_completions(trainer, [1, 0])
    assert scored["advantages"].tolist() == pytest.approx([0.7, -0.7])
    assert scored["old_logps"].tolist() == pytest.approx([-5.4, -6.0])


def test_the_loss_has_one_ratio_a_completion(make_trainer):
    """1.5 * 0.9 = 1.35 is clipped to 1.2; 0.5 * 1.1 * 6 * 1.25 = 4.125, with a negative advantage,
    is not."""
    import torch

    trainer = make_trainer(num_generations=2)
    new = torch.full((2, 4), -2.0) + torch.tensor(RATIOS).log()
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (new, torch.ones(2, 4), None)
    inputs = {
        "prompt_ids": torch.ones(2, 1, dtype=torch.long),
        "prompt_mask": torch.ones(2, 1, dtype=torch.long),
        "completion_ids": torch.ones(2, 4, dtype=torch.long),
        "completion_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]),
        "advantages": torch.tensor(ADVANTAGES),
        "old_logps": torch.tensor([-4.0, -8.0]),
    }
    expected = -(clipped(1.35, 1, 0.2, 0.2) + clipped(4.125, -2, 0.2, 0.2)) / 2
    assert expected == pytest.approx(-(1.2 - 8.25) / 2)
    assert trainer._compute_loss(trainer.model, inputs).item() == pytest.approx(expected)


@pytest.fixture(scope="module")
def trained(tiny, prompts, tmp_path_factory) -> Path:
    """Rewarded for 6 tokens that make one word."""
    out = tmp_path_factory.mktemp("trained") / "out"
    config = {"rewards": [{"kind": "length", "target": 1}], "beta": 0.01}
    TRAINERS["rloo"].train(prompts, tiny, out, config=SHORT_ANSWERS | config)
    return out


def test_the_mean_reward_rises(trained):
    assert_the_mean_reward_rises(trained)


def test_the_record_says_what_was_done(trained):
    from transformers import AutoModelForCausalLM

    record = json.loads((trained / "training.json").read_text())
    assert (record["kind"], record["steps"]) == ("rloo", 8)
    assert record["config"]["rewards"] == [{"kind": "length", "target": 1}]
    assert record["completions_left_out"] == {}
    assert {"rewards/length/mean", "reward", "kl"} <= set(record["metrics"])
    AutoModelForCausalLM.from_pretrained(trained)


def test_unread_completions_are_counted(tiny, tmp_path, capsys):
    data = save(rows("What is 2 + 3?", reference="5"), tmp_path / "d.jsonl")
    config = ONE_STEP | {"rewards": [{"kind": "verify", "how": "gsm8k", "unparsed": None}]}
    record = TRAINERS["rloo"].train(data, tiny, tmp_path / "out", config=config)
    assert record["completions_left_out"] == {"unparsed:verify": 4}
    assert "4 completions left out: unparsed:verify" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rewards": []}, "config.rewards: expected a list"),
        ({"loss_type": "grpo"}, "RlooConfig has no option 'loss_type'"),
        ({"reward_weights": [1.0]}, "give each entry of rewards its weight"),
        ({"per_device_train_batch_size": 3}, "must be divisible by num_generations"),
    ],
)
def test_wrong_options_are_refused(config, message):
    with pytest.raises(RecipeError, match=message):
        TRAINERS["rloo"].check_options({"rewards": SHORT, **config})


def test_right_options_pass():
    TRAINERS["rloo"].check_options(
        {"rewards": SHORT, "learning_rate": "1e-5", "normalize_advantages": True}, {"r": 8}
    )
