"""PPO on a Llama of 32 units that knows 17 words, which is enough to be rewarded for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from factory.core.errors import FactoryError, RecipeError
from factory.engines.render import conversation_ids, prompt_ids
from factory.training import TRAINERS
from factory.training.online.rewards import Scored, build_rewards
from factory.training.ppo.config import PpoConfig
from factory.training.ppo.experience import Experience, Prompt, prompts_of
from factory.training.ppo.rollouts import Rollouts, completed, pad_prompts, read, sample
from factory.training.ppo.trainer import PpoTrainer
from factory.training.ppo.value_head import shared
from tests.tiny import logged, save, save_llama, stopped_at, weights_of

WORDS = ["user", "assistant", ":", "say", "please", "one", "two", "three", "four", "five", "six"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] }}"
    "{{ ' <eos> ' if m['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"say {word}" + " please" * (word == "two")}],
        "reference": word,
        "tags": [],
        "prompt_id": word,
    }
    for word in ("one", "two", "three", "four", "five", "six")
]
SHORT = {"kind": "length", "unit": "tokens", "target": 1}
"""0 for ending at once, -1 a token more."""
CONFIG = {
    "rewards": [SHORT],
    "max_steps": 4,
    "rollout_batch_size": 8,
    "max_completion_length": 6,
    "num_ppo_epochs": 2,
    "num_mini_batches": 2,
    "per_device_train_batch_size": 3,
    "learning_rate": 2e-3,
    "value_head_learning_rate": 1e-2,
    "cliprange_value": 1.0,
}
ONE_STEP = CONFIG | {"max_steps": 1, "save_steps": 0}


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<eos>", "<unk>", *WORDS, "!", "?", "."]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=TEMPLATE,
    )


@pytest.fixture(scope="module")
def tiny(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    changes = {"max_position_embeddings": 64, "tie_word_embeddings": False}
    return save_llama(folder, tokenizer, **changes)


@pytest.fixture(scope="module")
def scorer(tokenizer, tmp_path_factory) -> Path:
    """Its weights are not those of `tiny`: they are of another range."""
    changes = {"max_position_embeddings": 64, "initializer_range": 0.03, "num_labels": 1}
    folder = tmp_path_factory.mktemp("scorer")
    return save_llama(folder, tokenizer, "LlamaForSequenceClassification", **changes)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    return save(ROWS, tmp_path_factory.mktemp("data") / "prompts.jsonl")


@pytest.fixture(scope="module")
def trained(tiny, prompts, tmp_path_factory) -> Path:
    """A finished training, which tests only look at."""
    out = tmp_path_factory.mktemp("trained") / "out"
    TRAINERS["ppo"].train(prompts, tiny, out, config=CONFIG)
    return out


class Fake:
    """Scores as it is told, and remembers what it was asked."""

    def __init__(self, *totals: float | None) -> None:
        self.totals = list(totals)
        self.asked: list[tuple] = []

    def score(self, *asked) -> Scored:
        self.asked.append(asked)
        missing = self.totals.count(None)
        return Scored(
            {"fake": self.totals}, self.totals, {"failed:fake": missing} if missing else {}
        )


@pytest.fixture
def trainer(tiny, tokenizer, tmp_path) -> Callable[..., PpoTrainer]:
    def made(rewards, **changes) -> PpoTrainer:
        from transformers import AutoModelForCausalLM

        policy, reference = (AutoModelForCausalLM.from_pretrained(tiny) for _ in range(2))
        given = CONFIG | {"rollout_batch_size": 6, "use_cpu": True} | changes
        rows = [
            Prompt(row["prompt"], prompt_ids(tokenizer, row["prompt"], {}), row["reference"])
            for row in ROWS
        ]
        args = PpoConfig(output_dir=str(tmp_path), **given)
        experience = Experience(args, policy, reference, shared(policy), rows, tokenizer, rewards)
        return PpoTrainer(experience, [])

    return made


# -- rollouts ------------------------------------------------------------------------------------


def test_a_completion_ends_with_its_first_end_of_text():
    ids, attention = pad_prompts([[5, 6], [7]], pad_id=0)
    assert ids.tolist() == [[5, 6], [0, 7]]
    drawn = torch.tensor([[8, 1, 1, 0], [8, 9, 0, 9]])  # 1: the end; 0, padding, may be drawn too
    rollouts = completed(torch.cat([ids, drawn], 1), attention, end_ids=[1])
    assert rollouts.completions() == [[8, 1], [8, 9, 0, 9]]
    assert rollouts.is_ended_B.tolist() == [True, False]
    assert rollouts.attention_BL.tolist()[1] == [False, True, True, True, True, True]
    assert rollouts.inputs()["position_ids"].tolist()[1] == [0, 0, 1, 2, 3, 4]


def test_rows_are_cut_to_what_they_need():
    ids, attention = pad_prompts([[5, 6], [7]], pad_id=0)
    drawn = torch.tensor([[8, 9, 9, 9], [8, 1, 0, 0]])
    rollouts = completed(torch.cat([ids, drawn], 1), attention, end_ids=[1])
    row = rollouts.rows(torch.tensor([1]))
    assert row.ids_BL.tolist() == [[7, 8, 1]]
    assert row.mask_BT.tolist() == [[True, True]]


def test_padding_changes_no_log_probability(tiny, tokenizer):
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(tiny).eval()
    ids, attention = pad_prompts([[3, 4, 5, 6, 7], [8, 9]], pad_id=0)
    drawn = torch.tensor([[10, 11, 12, 13], [14, 1, 0, 0]])
    both = completed(torch.cat([ids, drawn], 1), attention, end_ids=[1])
    with torch.no_grad():
        padded, *_ = read(policy, both, temperature=0.7)
        alone, *_ = read(policy, both.rows(torch.tensor([1])), temperature=0.7)
        logits = policy(torch.tensor([[8, 9, 14, 1]])).logits / 0.7
    assert torch.allclose(padded[1, :2], alone[0], atol=1e-5)
    expected = logits.log_softmax(-1)[0, [1, 2], [14, 1]]
    assert torch.allclose(alone[0], expected, atol=1e-5)


@pytest.mark.parametrize("autocasts", [True, False])
def test_log_probabilities_are_of_logits_in_float32(tiny, autocasts):
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if autocasts else torch.bfloat16
    policy = AutoModelForCausalLM.from_pretrained(tiny, dtype=dtype).eval()
    ids, attention = pad_prompts([[3, 4, 5, 6, 7], [8, 9]], pad_id=0)
    both = completed(
        torch.cat([ids, torch.tensor([[10, 11, 12], [14, 13, 15]])], 1), attention, [1]
    )
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocasts):
        logp, logits, hidden = read(policy, both, temperature=1.0)
    exact = hidden.float() @ policy.lm_head.weight.float().T
    expected = exact.log_softmax(-1).gather(-1, both.ids_BL[:, -3:, None]).squeeze(-1)
    assert torch.allclose(logits, exact, atol=1e-6)
    assert torch.allclose(logp, expected, atol=1e-6)
    assert not torch.equal(logits, logits.bfloat16().float())
    assert "forward" not in vars(policy.lm_head)


def test_sampling_is_seeded_and_plain(tiny):
    from transformers import AutoModelForCausalLM, GenerationConfig

    policy = AutoModelForCausalLM.from_pretrained(tiny).eval()
    own = GenerationConfig(do_sample=True, top_k=1, eos_token_id=1)
    policy.generation_config = own
    before = torch.get_rng_state()

    def drawn(seed: int) -> Rollouts:
        asked = {"end_ids": [1], "pad_id": 0, "max_new_tokens": 5, "temperature": 1.0}
        return sample(policy, [[3, 4, 5]] * 8, **asked, seed=seed)

    first = drawn(1)
    assert torch.equal(first.ids_BL, drawn(1).ids_BL)
    assert not torch.equal(first.ids_BL[:, :4], drawn(2).ids_BL[:, :4])
    assert len(first.ids_BL[:, 3].unique()) > 1  # its own top_k of 1 is not used
    assert policy.generation_config is own
    assert torch.equal(torch.get_rng_state(), before)


def test_every_prompt_comes_once_a_round():
    assert sorted(prompts_of(0, 4, 6, 7) + prompts_of(1, 4, 6, 7)[:2]) == list(range(6))
    assert prompts_of(2, 4, 6, 7) == prompts_of(2, 4, 6, 7)
    assert sorted(prompts_of(0, 12, 6, 7)) == sorted([*range(6)] * 2)


# -- experience ----------------------------------------------------------------------------------


def test_the_ratio_is_1_before_the_first_step(trainer):
    made = trainer(Fake(*[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), num_ppo_epochs=1, num_mini_batches=1)
    batch, logs = made.experience.gather(0, beta=0.1)
    assert logs["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert logs["objective/scores"] == logs["objective/rlhf_reward"] == pytest.approx(3.5)
    logs = made.learn(batch, 0)
    assert logs["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert logs["policy/approxkl"] == pytest.approx(0, abs=1e-9)
    assert logs["policy/clipfrac"] == 0
    again = made.experience._read_all(batch.rollouts)[0]
    assert not torch.allclose(again, batch.logp_BT, atol=1e-4)


def test_passes_of_any_size_make_the_same_step(trainer):
    def after(size: int, *, recomputes: bool = False) -> torch.Tensor:
        made = trainer(Fake(*range(6)), per_device_train_batch_size=size, num_mini_batches=1)
        if recomputes:
            made.model.gradient_checkpointing_enable({"use_reentrant": False})
        made.learn(made.experience.gather(0, 0.1)[0], 0)
        return made.model.lm_head.weight.detach()

    at_once = after(6)
    assert torch.allclose(at_once, after(2), atol=1e-4)
    assert torch.allclose(at_once, after(6, recomputes=True), atol=1e-4)


def test_completions_without_a_score_are_left_out_and_counted(trainer):
    made = trainer(Fake(1.0, None, 2.0, 3.0, None, 4.0))
    batch, logs = made.experience.gather(0, 0.0)
    assert len(batch.logp_BT) == 4
    assert made.experience.left_out == {"failed:fake": 2}
    assert (logs["val/left_out"], logs["objective/scores"]) == (2, 2.5)
    made.learn(batch, 0)
    with pytest.raises(
        FactoryError, match=r"none of the 6 completions of step 1 has a score \(6 f"
    ):
        trainer(Fake(*[None] * 6)).experience.gather(0, 0.0)
    with pytest.raises(FactoryError, match="not a finite number"):
        trainer(Fake(*[1.0] * 5, float("nan"))).experience.gather(0, 0.0)


def test_cut_completions_pay(trainer):
    fake = Fake(*[0.0] * 6)
    made = trainer(fake, missing_eos_penalty=1.5)
    batch, logs = made.experience.gather(0, 0.0)
    cut = 6 - int(batch.rollouts.is_ended_B.sum())
    assert cut > 0
    assert logs["objective/scores"] == pytest.approx(-1.5 * cut / 6)
    prompts, _, references, ids = fake.asked[0]
    assert [prompt[0]["content"].split()[1] for prompt in prompts] == references
    assert [len(each) for each in ids] == batch.rollouts.mask_BT.sum(1).tolist()


def test_the_kl_is_in_the_reward_or_in_the_loss(trainer):
    def returns(kl: str, beta: float) -> tuple[torch.Tensor, dict]:
        made = trainer(Fake(*[0.0] * 6), kl=kl, kl_coef=beta)
        with torch.no_grad():
            made.model.lm_head.weight.mul_(3)  # no longer the reference
        batch, logs = made.experience.gather(0, beta)
        return batch.returns_BT, logs | made.learn(batch, 0)

    in_reward, logs = returns("penalty", 0.5)
    assert in_reward[:, 0].mean().item() != 0
    assert logs["objective/non_score_reward"] == pytest.approx(-0.5 * logs["objective/kl"])
    assert "loss/kl" not in logs
    in_loss, logs = returns("loss", 0.5)
    assert in_loss.abs().max() == 0
    assert logs["loss/kl"] > 0


def test_a_reward_model_reads_what_the_engines_show_it(trainer, scorer, tokenizer):
    from transformers import AutoModelForSequenceClassification

    with build_rewards([{"kind": "reward", "model": str(scorer)}], device="cpu") as rewards:
        made = trainer(rewards)
        batch, logs = made.experience.gather(0, 0.0)
    model = AutoModelForSequenceClassification.from_pretrained(scorer)
    expected = []
    rows = prompts_of(0, 6, 6, made.args.seed)
    for row, ids in zip(rows, batch.rollouts.completions(), strict=True):
        text = tokenizer.decode(ids, skip_special_tokens=True)
        messages = [*ROWS[row]["prompt"], {"role": "assistant", "content": text}]
        with torch.no_grad():
            ids_T = torch.tensor([conversation_ids(tokenizer, messages, {})])
            expected.append(model(ids_T).logits.item())
    assert logs["objective/scores"] == pytest.approx(sum(expected) / 6, abs=1e-5)


# -- trainings -----------------------------------------------------------------------------------


def test_the_reward_rises_and_the_critic_learns(tiny, prompts, tmp_path):
    more = {"max_steps": 25, "rollout_batch_size": 16, "num_ppo_epochs": 4, "save_steps": 0}
    TRAINERS["ppo"].train(prompts, tiny, tmp_path / "out", config=CONFIG | more)
    lines = logged(tmp_path / "out")
    first, last = lines[:3], lines[-3:]

    def mean(of: list[dict], name: str) -> float:
        return sum(line[name] for line in of) / len(of)

    assert mean(last, "objective/scores") > mean(first, "objective/scores") + 2
    assert mean(last, "loss/value") < mean(first, "loss/value") / 2
    assert mean(last, "val/mean_length") < mean(first, "val/mean_length")
    assert mean(last, "objective/kl") > mean(first, "objective/kl")


def test_what_a_training_leaves(trained, tiny, prompts, capsys):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(trained)
    base = weights_of(tiny)
    assert any(not torch.equal(weight, base[name]) for name, weight in weights_of(trained).items())
    head = load_file(trained / "value_head" / "head.safetensors")
    assert head["weight"].shape == (1, 32)
    assert head["weight"].abs().sum() > 0
    assert not (trained / "checkpoints").exists()
    assert not [path for path in trained.iterdir() if path.name.startswith(".")]
    record = json.loads((trained / "training.json").read_text())
    assert (record["kind"], record["steps"], record["data"]["rows_used"]) == ("ppo", 4, 6)
    assert record["completions_left_out"] == {}
    names = {"objective/kl", "objective/rlhf_reward", "objective/scores", "policy/approxkl"}
    names |= {"policy/clipfrac", "policy/entropy", "loss/policy", "loss/value", "val/ratio"}
    assert names | {"val/explained_variance", "eps", "step", "loss"} <= set(logged(trained)[0])
    assert TRAINERS["ppo"].train(prompts, tiny, trained, config=CONFIG) == record
    assert "finished (4 steps), nothing to do" in capsys.readouterr().err


def test_a_killed_training_resumes_to_the_same_numbers(tiny, prompts, tmp_path):
    from safetensors.torch import load_file

    config = CONFIG | {"kl_target": 0.01, "save_steps": 2}
    whole, out = tmp_path / "whole", tmp_path / "out"
    TRAINERS["ppo"].train(prompts, tiny, whole, config=config)
    with stopped_at(3):
        TRAINERS["ppo"].train(prompts, tiny, out, config=config)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["checkpoint-2"]
    with pytest.raises(FactoryError, match="checkpoint at step 2; add --resume"):
        TRAINERS["ppo"].train(prompts, tiny, out, config=config)

    record = TRAINERS["ppo"].train(prompts, tiny, out, config=config, resume=True)

    assert (record["steps"], record["resumed_at_step"]) == (4, 2)
    for line, other in zip(logged(out), logged(whole), strict=True):
        assert line | {"eps": 0} == other | {"eps": 0}
    assert len({line["objective/kl_coef"] for line in logged(out)}) == 4
    for name, weight in weights_of(whole).items():
        assert torch.equal(weight, weights_of(out)[name]), name
    heads = [load_file(folder / "value_head" / "head.safetensors") for folder in (out, whole)]
    assert torch.equal(heads[0]["weight"], heads[1]["weight"])


def test_a_critic_of_its_own_starts_from_the_reward_model(tiny, scorer, prompts, tmp_path):
    from transformers import AutoModel

    out = tmp_path / "out"
    config = ONE_STEP | {
        "rewards": [SHORT],
        "reward_model": str(scorer),
        "value": "own",
        "learning_rate": 1e-6,
        "gradient_checkpointing": True,
        "whiten_rewards": True,
    }
    TRAINERS["ppo"].train(prompts, tiny, out, config=config)
    backbone = AutoModel.from_pretrained(out / "value_head").state_dict()
    start = AutoModel.from_pretrained(scorer).state_dict()
    assert all(torch.allclose(start[name], w, atol=1e-4) for name, w in backbone.items())
    assert any(not torch.equal(start[name], w) for name, w in backbone.items())
    line = logged(out)[0]
    assert line["objective/scores"] == pytest.approx(
        line["rewards/length/mean"] + line["rewards/reward/mean"], abs=1e-5
    )


def test_an_adapter_is_its_own_reference(tiny, prompts, tmp_path):
    out = tmp_path / "out"
    more = {"max_steps": 3, "gradient_checkpointing": True, "learning_rate": 1e-2}
    TRAINERS["ppo"].train(
        prompts, tiny, out, lora={"r": 4, "lora_dropout": 0.5}, config=CONFIG | more
    )
    lines = logged(out)
    assert lines[0]["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert abs(lines[1]["objective/kl"]) > 0.01  # an estimate from samples, of either sign
    assert (out / "adapter" / "adapter_model.safetensors").exists()
    assert (out / "generation_config.json").read_text() == (
        tiny / "generation_config.json"
    ).read_text()


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rewards": []}, "nothing is rewarded; give reward_model"),
        ({"rewards": [{"kind": "lenght"}]}, "did you mean 'length'"),
        ({"kl": "both"}, "kl is 'both', not penalty or loss"),
        ({"lam": 1.5}, "lam is 1.5; it must be 0 to 1"),
        ({"cliprange": 0}, "cliprange is 0.*above 0"),
        ({"num_mini_batches": 99}, "more than the 8 completions of a step"),
        ({"kl_target": 6, "kl_coef": 0}, "cannot steer a kl_coef of 0"),
        ({"num_ppo_epoch": 2}, "no option 'num_ppo_epoch'"),
        ({"logging_steps": 2}, "no option 'logging_steps'"),
        ({"gamma": "much"}, "config.gamma: expected float, found 'much'"),
    ],
)
def test_wrong_options_are_refused(change, words):
    TRAINERS["ppo"].check_options(CONFIG)
    with pytest.raises(RecipeError, match=words):
        TRAINERS["ppo"].check_options(CONFIG | change)


def test_a_second_model_is_refused_beside_an_adapter():
    with pytest.raises(RecipeError, match="use value: shared, or no lora"):
        TRAINERS["ppo"].check_options(CONFIG | {"value": "own"}, {"r": 4})


def test_prompts_that_do_not_fit_are_left_out_and_counted(tiny, prompts, tmp_path):
    out = tmp_path / "out"
    record = TRAINERS["ppo"].train(prompts, tiny, out, config=ONE_STEP | {"max_prompt_length": 6})
    assert record["data"]["rows_left_out"] == {"prompt over 6 tokens": 1}
    assert record["data"]["rows_used"] == 5
    for change, words in (
        ({"max_prompt_length": 2}, "none of the 6 prompts has at most 2 tokens"),
        ({"max_completion_length": 64}, "no place for a prompt in the model's context of 64"),
        ({"max_completion_length": 60}, "none of the 6 prompts has at most 4 tokens"),
    ):
        with pytest.raises(RecipeError, match=words):
            TRAINERS["ppo"].train(prompts, tiny, tmp_path / "no", config=ONE_STEP | change)
    assert not (tmp_path / "no").exists()


def test_rows_without_the_reference_that_a_reward_needs_are_left_out(tiny, tmp_path, capsys):
    config = ONE_STEP | {"rewards": [{"kind": "verify", "how": "exact"}]}
    some = [row | {"reference": row["reference"] if i else " "} for i, row in enumerate(ROWS)]
    record = TRAINERS["ppo"].train(
        save(some, tmp_path / "some.jsonl"), tiny, tmp_path / "a", config=config
    )
    assert record["data"]["rows_left_out"] == {"no reference answer": 1}
    assert record["data"]["rows_used"] == 5
    none = save([row | {"reference": ""} for row in ROWS], tmp_path / "none.jsonl")
    with pytest.raises(RecipeError, match="none of the 6 rows has a reference answer"):
        TRAINERS["ppo"].train(none, tiny, tmp_path / "b", config=config)


def test_a_verifier_needs_references(tiny, tmp_path):
    rows = [{"prompt": "say one"}]  # a text is the user's one message
    data = save(rows, tmp_path / "rows.jsonl")
    with pytest.raises(RecipeError, match="column 'reference', which the dataset lacks"):
        TRAINERS["ppo"].train(
            data, tiny, tmp_path / "no", config=ONE_STEP | {"rewards": [{"kind": "verify"}]}
        )
    assert TRAINERS["ppo"].train(data, tiny, tmp_path / "out", config=ONE_STEP)["steps"] == 1


def test_a_loss_that_is_no_number_stops_the_training(tiny, prompts, tmp_path):
    config = CONFIG | {"learning_rate": 1e30, "save_steps": 1}
    with pytest.raises(FactoryError, match=r"the loss was nan at step 1 .* lower learning_rate"):
        TRAINERS["ppo"].train(prompts, tiny, tmp_path / "out", config=config)
    assert not (tmp_path / "out" / "config.json").exists()
