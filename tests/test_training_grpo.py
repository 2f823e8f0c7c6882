"""GRPO and its presets: each formula by hand, and a tiny model whose reward rises."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from factory.core.errors import RecipeError
from factory.training import TRAINERS
from factory.training.common import options as training_options
from factory.training.online import common
from factory.training.online.grpo_presets import PRESETS, describe, settings
from tests.tiny import (
    SHORT_ANSWERS,
    assert_the_mean_reward_rises,
    logged,
    save,
    stopped_at,
    weights_of,
)

ONE_STEP = {"max_steps": 1, "save_strategy": "no", "max_completion_length": 8}
SHORT = [{"kind": "length", "target": 2, "unit": "tokens"}]


def rows(*texts: str, **columns: object) -> list[dict]:
    return [{"prompt": [{"role": "user", "content": text}], **columns} for text in texts]


# -- the formulas --------------------------------------------------------------------------------

# Two completions, of 2 and 4 tokens: the ratio of each token's probability to the old one, and 1 where
# the first is padded.
RATIOS = [[1.5, 0.9, 1.0, 1.0], [0.5, 1.1, 6.0, 1.25]]
TOKENS = [2, 4]
ADVANTAGES = [1.0, -2.0]
MAX_LENGTH = 8


@pytest.fixture(scope="module")
def make_trainer(tiny, tokenizer, tmp_path_factory):
    """Trainers with a preset's settings, made as `grpo.train` makes them."""
    from datasets import Dataset

    from factory.training.online.grpo import GmpoTrainer, GrpoConfig, GrpoTrainer

    def make(preset: str, **given):
        given = {"preset": preset, "max_completion_length": MAX_LENGTH, "use_cpu": True, **given}
        defaults = TRAINERS["grpo"].load().defaults_for(given, is_lora=False)
        resolved = training_options.resolve(GrpoConfig, defaults, given, is_lora=False)
        args = training_options.build(GrpoConfig, resolved, tmp_path_factory.mktemp("args"))
        trainer = (GmpoTrainer if preset == "gmpo" else GrpoTrainer)(
            model=str(tiny),
            reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
            args=args,
            train_dataset=Dataset.from_list(rows("a", "b", "c")),
            processing_class=tokenizer,
        )
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return make


def trl_loss(trainer, ref_ratio: float = 1.0) -> float:
    """What TRL computes where the new log-probabilities are those of RATIOS, the old ones -2."""
    import torch

    old = torch.full((2, 4), -2.0)
    new = old + torch.tensor(RATIOS).log()
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (new, torch.ones(2, 4), None)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    inputs = {
        "prompt_ids": torch.ones(2, 1, dtype=torch.long),
        "prompt_mask": torch.ones(2, 1, dtype=torch.long),
        "completion_ids": torch.ones(2, 4, dtype=torch.long),
        "completion_mask": mask,
        "advantages": torch.tensor(ADVANTAGES),
        "old_per_token_logps": old,
        "ref_per_token_logps": new + math.log(ref_ratio),
        "num_items_in_batch": mask.sum(),
    }
    trainer.model.train()
    return trainer._compute_loss(trainer.model, inputs).item()


def clipped(w: float, a: float, low: float, high: float) -> float:
    return min(w * a, max(1 - low, min(w, 1 + high)) * a)


def by_token(low: float, high: float) -> list[list[float]]:
    return [
        [clipped(w, a, low, high) for w in ws[:n]]
        for ws, n, a in zip(RATIOS, TOKENS, ADVANTAGES, strict=True)
    ]


def test_the_tokens_objectives_by_hand():
    """1.5 is clipped to 1.2 where that lowers the objective; of a negative advantage only ratios
    below 0.8 are."""
    first, second = by_token(0.2, 0.2)
    assert first == pytest.approx([1.2, 0.9])
    assert second == pytest.approx([-1.6, -2.2, -12.0, -2.5])


def test_grpo_is_the_mean_of_the_sequences_means(make_trainer):
    kl = 3 - math.log(3) - 1  # ref/pi = 3 at every token
    mean = ((1.2 + 0.9) / 2 + (-1.6 - 2.2 - 12 - 2.5) / 4) / 2
    assert trl_loss(make_trainer("grpo"), ref_ratio=3.0) == pytest.approx(-mean + 0.04 * kl)


def test_dr_grpo_divides_by_a_constant(make_trainer):
    total = 1.2 + 0.9 - 1.6 - 2.2 - 12 - 2.5
    assert trl_loss(make_trainer("dr-grpo")) == pytest.approx(-total / (2 * MAX_LENGTH))


def test_dapo_is_the_mean_over_tokens_clipped_higher(make_trainer):
    total = 1.28 + 0.9 - 1.6 - 2.2 - 12 - 2.5
    assert trl_loss(make_trainer("dapo")) == pytest.approx(-total / 6)


@pytest.mark.parametrize("preset", ["lite-ppo", "gfpo"])
def test_some_are_the_mean_over_tokens(make_trainer, preset):
    total = 1.2 + 0.9 - 1.6 - 2.2 - 12 - 2.5
    one_batch = {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 8}
    assert trl_loss(make_trainer(preset, **one_batch)) == pytest.approx(-total / 6)


def test_lite_ppo_has_the_groups_of_several_prompts_in_a_batch(make_trainer):
    args = make_trainer("lite-ppo").args
    assert (args.scale_rewards, args.generation_batch_size) == ("batch", 4 * args.num_generations)


def test_gspo_has_one_ratio_a_sequence(make_trainer):
    """(1.5 * 0.9)^(1/2) = 1.162 is clipped to 1.0004; (0.5 * 1.1 * 6 * 1.25)^(1/4) = 1.425, with a
    negative advantage, is not."""
    second = -2 * (0.5 * 1.1 * 6 * 1.25) ** (1 / 4)
    assert trl_loss(make_trainer("gspo")) == pytest.approx(-(1.0004 + second) / 2)


def test_gmpo_is_the_geometric_mean_of_clipped_ratios(make_trainer):
    """Logs are cut to +-0.4 on one side: from above where A > 0, from below where A < 0."""
    logs = [
        [min(math.log(1.5), 0.4), math.log(0.9)],
        [-0.4, math.log(1.1), math.log(6), math.log(1.25)],
    ]
    first, second = (a * math.exp(sum(x) / len(x)) for a, x in zip(ADVANTAGES, logs, strict=True))
    assert trl_loss(make_trainer("gmpo")) == pytest.approx(-(first + second) / 2)


def test_cispo_weighs_log_probabilities_by_a_bounded_ratio(make_trainer):
    total = 0.0
    for ws, n, a in zip(RATIOS, TOKENS, ADVANTAGES, strict=True):
        total += sum(min(w, 5) * a * (-2 + math.log(w)) for w in ws[:n])
    assert trl_loss(make_trainer("cispo")) == pytest.approx(-total / 6)


def advantages(trainer, rewards: list[float], lengths: list[int]) -> list[float]:
    """What TRL makes of completions with these rewards and lengths; all end by themselves."""
    end = trainer._tokenizer.eos_token_id
    ids = [[5] * (n - 1) + [end] for n in lengths]
    completions = [[{"role": "assistant", "content": "x"}] for _ in ids]
    made = ([[1]] * len(ids), ids, None, completions, None, {}, None, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trainer), "_generate", lambda self, prompts: made)
        trainer.reward_funcs = [lambda **_: rewards]
        trainer.model.train()
        scored = trainer._generate_and_score_completions(rows(*"a" * len(ids)))
    return scored["advantages"].tolist()


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("grpo", [1.5, -0.5, -0.5, -0.5]),  # less 1/4, over the sample's deviation, 1/2
        ("dapo", [1.5, -0.5, -0.5, -0.5]),
        ("dr-grpo", [0.75, -0.25, -0.25, -0.25]),
    ],
)
def test_advantages_of_one_right_answer_in_four(make_trainer, preset, expected):
    trainer = make_trainer(preset, num_generations=4)
    assert advantages(trainer, [1, 0, 0, 0], [3] * 4) == pytest.approx(expected, abs=1e-3)


def test_lite_ppo_scales_by_the_batch(make_trainer):
    """Groups [1, 0] and [3, 0]: less 0.5 and 1.5, over the deviation of all four, sqrt 2."""
    trainer = make_trainer("lite-ppo", num_generations=2, per_device_train_batch_size=4)
    found = advantages(trainer, [1, 0, 3, 0], [3] * 4)
    assert found == pytest.approx([x / math.sqrt(2) for x in (0.5, -0.5, 1.5, -1.5)], abs=1e-3)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("length", [0, -0.7071, 0, 0.7071]),  # the 2 shortest: rewards 1 and 2
        ("reward_per_token", [0.7071, 0, 0, -0.7071]),  # 4 of 8, 2 of 4: rewards 4 and 2
    ],
)
def test_gfpo_learns_from_the_kept_alone(make_trainer, by, expected):
    trainer = make_trainer("gfpo", num_generations=4, keep=2, keep_by=by)
    found = advantages(trainer, [4, 1, 0, 2], [8, 3, 5, 4])
    assert found == pytest.approx(expected, abs=1e-3)
    assert trainer.counts["completions_filtered"] == 2


def test_the_best_are_kept_and_never_one_without_a_reward():
    import torch

    from factory.training.online.grpo import filtered

    total = torch.tensor([1.0, torch.nan, 1.0, 1.0, torch.nan, torch.nan, 0.0, torch.nan])
    tokens = torch.tensor([2, 1, 2, 2, 1, 1, 9, 1])
    kept = filtered(total, tokens, size=4, keep=2, by="length")
    assert kept.tolist() == [True, False, True, False, False, False, True, False]


def test_a_group_is_flat_without_two_different_rewards():
    import torch

    from factory.training.online.grpo import flat_groups, totals

    nan = torch.nan
    groups = [[1, 1, 1], [1, 0, 1], [nan, 1, 1], [nan, nan, 1], [nan, nan, nan], [nan, 0, 1]]
    assert flat_groups(torch.tensor(groups).flatten(), 3) == [0, 2, 3, 4]
    parts = torch.tensor([[1.0, 2.0], [nan, 2.0], [nan, nan]])
    found = totals(parts, torch.tensor([0.5, 1.0]))
    assert found[:2].tolist() == [2.5, 2.0]
    assert found[2].isnan()


def test_flat_groups_give_way_to_other_prompts(make_trainer, monkeypatch):
    """Of two groups of two the second is flat; what is drawn again is flat once more, then not."""
    import torch
    import trl

    trainer = make_trainer("dapo", num_generations=2, per_device_train_batch_size=4)
    end = trainer._tokenizer.eos_token_id
    scores = iter([[0, 1, 5, 5], [6, 6], [8, 9]])
    asked = []

    def generate(self, prompts):
        asked.append([p[0]["content"] for p in prompts])
        ids = [[len(asked), end] for _ in prompts]
        texts = [[{"role": "assistant", "content": f"call {len(asked)}"}] for _ in prompts]
        return [[1]] * len(ids), ids, None, texts, None, {}, None, []

    monkeypatch.setattr(trl.GRPOTrainer, "_generate", generate)
    trainer.reward_funcs = [lambda **_: next(scores)]
    trainer.model.train()
    torch.manual_seed(0)
    inputs = rows(*["first"] * 2, *["second"] * 2)
    made = trainer._generate_and_score_completions(inputs)

    assert asked[0] == ["first", "first", "second", "second"]
    assert [len(set(group)) for group in asked[1:]] == [1, 1]
    assert all(group[0] in "abc" for group in asked[1:])
    assert [row["prompt"][0]["content"] for row in inputs] == ["first"] * 2 + asked[2]
    assert made["completion_ids"][:, 0].tolist() == [1, 1, 3, 3]
    assert made["advantages"].tolist() == pytest.approx([-0.707, 0.707] * 2, abs=1e-3)
    assert next(scores, None) is None  # nothing was scored twice
    assert trainer.counts == {"groups": 2, "groups_redrawn": 2, "groups_left_flat": 0}


def test_tries_are_bounded(make_trainer, monkeypatch):
    import trl

    trainer = make_trainer("dapo", num_generations=2, resample_tries=2)
    calls = []

    def generate(self, prompts):
        calls.append(prompts)
        text = [{"role": "assistant", "content": "x"}]
        return [[1]] * 2, [[5, 2], [5, 2]], None, [text, text], None, {}, None, []

    monkeypatch.setattr(trl.GRPOTrainer, "_generate", generate)
    trainer.model.train()
    made = trainer._generate_and_score_completions(rows("a", "a"))
    assert len(calls) == 3
    assert made["advantages"].tolist() == [0, 0]
    assert trainer.counts["groups_left_flat"] == 1


# -- the presets ---------------------------------------------------------------------------------


def test_each_preset_says_all_that_tells_the_methods_apart():
    named = [set(preset.settings) for preset in PRESETS.values()]
    assert all(set(PRESETS["grpo"].settings) <= names for names in named)
    assert settings("dapo")["epsilon_high"] == 0.28
    assert settings("dr-grpo")["scale_rewards"] == "none"
    text = describe()
    assert all(f"{name}  (" in text and PRESETS[name].paper in text for name in PRESETS)


def test_what_the_user_sets_wins(make_trainer):
    trainer = make_trainer("gspo", epsilon=0.1, num_generations=2)
    assert (trainer.args.epsilon, trainer.args.epsilon_high) == (0.1, 4e-4)
    assert trainer.args.per_device_train_batch_size == 2  # one prompt's completions


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"preset": "list"}, r"no preset 'list'.*\n\ngrpo  \(Shao"),
        ({"preset": "dpo"}, "no preset 'dpo'; did you mean 'dapo'"),
        ({"rewards": None}, "config.rewards: expected a list"),
        ({"rewards": [{"kind": "lenght"}]}, "did you mean 'length'"),
        ({"epsilon_hi": 1}, "did you mean 'epsilon_high'"),
        ({"reward_weights": [1.0]}, "give each entry of rewards its weight"),
        (
            {"preset": "gfpo", "num_generations": 4},
            r"keep is 4; .* less than num_generations \(4\)",
        ),
        ({"keep_by": "words", "keep": 2}, "keep_by is 'words', not one of length"),
        ({"preset": "gmpo", "loss_type": "dapo"}, "gmpo has a loss of its own"),
        ({"preset": "gmpo", "entropy_coef": 0.1}, "without entropy_coef; unset it"),
        ({"per_device_train_batch_size": 3}, "must be divisible by num_generations"),
        ({"resample_tries": -1}, "it is 0 or more"),
    ],
)
def test_wrong_options_are_refused(config, message):
    with pytest.raises(RecipeError, match=message):
        TRAINERS["grpo"].check_options({"rewards": SHORT, **config})


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_passes_its_own_check(preset):
    TRAINERS["grpo"].check_options(
        {"rewards": SHORT, "preset": preset, "learning_rate": "1e-5"}, {"r": 8}
    )


# -- a training ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny, prompts, tmp_path_factory) -> Path:
    """Rewarded for 6 tokens that make one word."""
    out = tmp_path_factory.mktemp("trained") / "out"
    config = {
        "rewards": [
            {"kind": "length", "target": 1},
            {"kind": "length", "maximum": 2, "name": "few", "weight": 0},
        ],
        "preset": "dr-grpo",
    }
    TRAINERS["grpo"].train(prompts, tiny, out, config=SHORT_ANSWERS | config)
    return out


def test_the_mean_reward_rises(trained):
    """From some three words too many to less than one: -3.4, -1.5, ... -0.9."""
    assert_the_mean_reward_rises(trained)


def test_the_record_says_what_was_done(trained):
    from transformers import AutoModelForCausalLM

    record = json.loads((trained / "training.json").read_text())
    assert (record["kind"], record["steps"]) == ("grpo", 8)
    assert record["config"]["preset"] == "dr-grpo"
    assert record["config"]["scale_rewards"] == "none"
    assert record["completions_left_out"] == record["sampling"] == {}
    assert {"rewards/length/mean", "rewards/few/mean", "reward"} <= set(record["metrics"])
    AutoModelForCausalLM.from_pretrained(trained)


def test_the_progress_shows_reward_and_length(tiny, prompts, tmp_path, capsys):
    config = ONE_STEP | {"rewards": SHORT}
    TRAINERS["grpo"].train(prompts, tiny, tmp_path / "out", config=config)
    line = next(x for x in capsys.readouterr().err.splitlines() if x.startswith("step 1/1"))
    assert all(f"  {name} " in line for name in ("reward", "std", "kl", "length"))


def test_a_stopped_training_resumes_to_the_same_weights(tiny, prompts, tmp_path):
    import torch

    config = {
        "rewards": SHORT,
        "preset": "dapo",
        "mask_truncated_completions": False,
        "max_steps": 4,
        "save_steps": 2,
        "learning_rate": 1e-3,
        "max_completion_length": 6,
    }
    TRAINERS["grpo"].train(prompts, tiny, tmp_path / "whole", config=config)

    with stopped_at(3):
        TRAINERS["grpo"].train(prompts, tiny, tmp_path / "out", config=config)
    record = TRAINERS["grpo"].train(prompts, tiny, tmp_path / "out", config=config, resume=True)
    assert (record["steps"], record["resumed_at_step"]) == (4, 2)
    whole, out = (weights_of(tmp_path / name) for name in ("whole", "out"))
    assert all(torch.equal(weight, out[name]) for name, weight in whole.items())


def test_a_training_stopped_between_two_drawings_goes_on_at_the_same_prompts(
    tiny, prompts, tmp_path, monkeypatch
):
    from factory.training.online.grpo import GrpoTrainer

    drawn = []
    original = GrpoTrainer._generate_and_score_completions

    def noted(self, inputs):
        drawn.append((self.state.global_step, [row["prompt"] for row in inputs]))
        return original(self, inputs)

    monkeypatch.setattr(GrpoTrainer, "_generate_and_score_completions", noted)
    config = ONE_STEP | {"rewards": SHORT, "max_steps": 4, "steps_per_generation": 2}
    config |= {"save_strategy": "steps", "save_steps": 1}
    TRAINERS["grpo"].train(prompts, tiny, tmp_path / "whole", config=config)
    whole = dict(drawn)
    assert sorted(whole) == [0, 2]
    assert whole[0] != whole[2]
    drawn.clear()

    with stopped_at(1):
        TRAINERS["grpo"].train(prompts, tiny, tmp_path / "out", config=config)
    drawn.clear()
    assert (
        TRAINERS["grpo"].train(prompts, tiny, tmp_path / "out", config=config, resume=True)["steps"]
        == 4
    )
    assert dict(drawn) == {1: whole[0], 2: whole[2]}


def test_a_group_of_cut_completions_teaches_nothing_where_they_are_masked():
    import torch

    from factory.training.online.grpo import all_cut_masked, flat_groups

    total = torch.tensor([0.0, 1.0, 0.0, 1.0])
    cut = torch.tensor([True, True, True, False])
    assert flat_groups(total, 2) == []
    assert flat_groups(all_cut_masked(total, cut, 2), 2) == [0]


def test_the_policys_own_reward_is_logged_beside_that_of_the_kept(tiny, prompts, tmp_path):
    config = ONE_STEP | {"rewards": SHORT, "preset": "gfpo", "num_generations": 4, "keep": 2}
    TRAINERS["grpo"].train(prompts, tiny, tmp_path / "out", config=config)
    [line] = logged(tmp_path / "out")
    assert line["policy_reward"] <= line["reward"]  # the shortest are kept, and shorter is better


def test_a_text_is_the_users_message(tiny, tmp_path, monkeypatch):
    from factory.training.online.grpo import GrpoTrainer

    seen = []
    original = GrpoTrainer._generate

    def noted(self, prompts):
        seen.extend(prompts)
        return original(self, prompts)

    monkeypatch.setattr(GrpoTrainer, "_generate", noted)
    data = save([{"prompt": f"Say {word}"} for word in ("one", "two")], tmp_path / "d.jsonl")
    TRAINERS["grpo"].train(data, tiny, tmp_path / "out", config=ONE_STEP | {"rewards": SHORT})
    assert seen[0][0]["role"] == "user"
    assert seen[0][0]["content"].startswith("Say ")


def test_gmpo_and_an_adapter_train_too(tiny, prompts, tmp_path):
    config = ONE_STEP | {"rewards": SHORT, "preset": "gmpo"}
    record = TRAINERS["grpo"].train(prompts, tiny, tmp_path / "out", lora={"r": 4}, config=config)
    assert record["steps"] == 1
    assert (tmp_path / "out" / "adapter").is_dir()


def test_unread_completions_are_counted_and_not_logged_as_a_number(tiny, tmp_path, capsys):
    data = save(rows("What is 2 + 3?", "And 4?", reference="5"), tmp_path / "d.jsonl")
    config = ONE_STEP | {"rewards": [{"kind": "verify", "how": "gsm8k", "unparsed": None}]}
    record = TRAINERS["grpo"].train(data, tiny, tmp_path / "out", config=config)
    assert record["completions_left_out"] == {"unparsed:verify": 4}
    assert "reward" not in record["metrics"]
    said = capsys.readouterr().err
    assert "4 completions left out: unparsed:verify" in said
    assert "All reward functions returned None" not in said


def test_prompts_that_cannot_be_used_are_left_out_and_counted(tiny, tmp_path, capsys):
    data = [
        *rows("What is 2 + 3?", reference="5"),
        *rows("What is 2 + 3?", reference=" "),
        *rows("word " * 200, reference="5"),
    ]
    config = ONE_STEP | {"rewards": [{"kind": "verify"}], "max_prompt_length": 100}
    record = TRAINERS["grpo"].train(
        save(data, tmp_path / "d.jsonl"), tiny, tmp_path / "out", config=config
    )
    reasons = {"prompt over 100 tokens": 1, "no reference answer": 1}
    assert record["data"]["rows_left_out"] == reasons
    assert (record["data"]["rows"], record["data"]["rows_used"]) == (3, 1)
    long = save(data[2:], tmp_path / "long.jsonl")
    with pytest.raises(RecipeError, match=r"1 prompt over 100 tokens \(the longest has 2"):
        TRAINERS["grpo"].train(long, tiny, tmp_path / "none", config=config)


def test_a_check_against_references_needs_their_column(tiny, prompts, tmp_path):
    config = ONE_STEP | {"rewards": [{"kind": "verify"}]}
    with pytest.raises(RecipeError, match=r"a column 'reference', .* \(it has: prompt, tags\)"):
        TRAINERS["grpo"].train(prompts, tiny, tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("gpu", "group", "length"), [(False, 4, 64), (True, 8, 512)])
def test_completions_are_few_and_short_on_a_cpu(monkeypatch, gpu, group, length):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert common.sizes({}) == {
        "num_generations": group,
        "max_completion_length": length,
        "per_device_train_batch_size": group,
    }
    assert common.sizes({"gradient_accumulation_steps": 4})["per_device_train_batch_size"] == (
        8 if gpu else 2
    )
