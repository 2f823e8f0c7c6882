"""Reward models: every loss on numbers worked out by hand, and trainings of a tiny Llama."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.core.errors import RecipeError
from factory.engines.render import conversation_ids, transcript
from factory.sources.conversation import split_transcript
from factory.training import TRAINERS
from factory.training.offline import reward, reward_losses
from factory.training.offline.reward_rows import encode_lists, encode_pairs
from tests.tiny import dataset, logged, save, save_llama, stopped_at, weights_of

CONFIG = {"max_steps": 12, "learning_rate": 3e-3, "save_strategy": "no", "logging_steps": 1}
ONE_STEP = CONFIG | {"max_steps": 1}
PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"Is {n} a number?"}],
        "chosen": [{"role": "assistant", "content": "Yes, it is."}],
        "rejected": [{"role": "assistant", "content": "No, never, not at all."}],
        "preference": 0.9 if n % 2 else None,
        "margin": 1.5 if n % 2 else None,
    }
    for n in range(8)
]
LISTS = [
    {
        "prompt": f"Is {n} a number?",
        "responses": ["Yes, it is.", "Perhaps.", "No, never, not at all."],
        "scores": [9.0, 5.0, 1.0],
    }
    for n in range(6)
]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def rewards(model, tokenizer, prompt: str, answers: list[str]) -> list[float]:
    """As the engines ask: one conversation at a time, so that nothing is padded."""
    import torch

    values = []
    for answer in answers:
        messages = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer},
        ]
        ids = conversation_ids(tokenizer, messages, {})
        with torch.no_grad():
            values.append(model(torch.tensor([ids])).logits.item())
    return values


# -- losses by hand ------------------------------------------------------------------------------


def test_pairwise_loss_by_hand():
    import torch

    chosen, rejected = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.5])
    expected = -(math.log(sigmoid(1.0)) + math.log(sigmoid(-0.5))) / 2
    assert reward_losses.pairwise(chosen, rejected).item() == pytest.approx(expected)


def test_a_margin_is_taken_from_the_lead():
    import torch

    loss = reward_losses.pairwise(
        torch.tensor([2.0]), torch.tensor([1.0]), margin_B=torch.tensor([3.0])
    )
    assert loss.item() == pytest.approx(-math.log(sigmoid(-2.0)))


def test_soft_labels_by_hand():
    import torch

    loss = reward_losses.pairwise(
        torch.tensor([1.0]), torch.tensor([0.0]), p_B=torch.tensor([0.75])
    )
    expected = -0.75 * math.log(sigmoid(1)) - 0.25 * math.log(sigmoid(-1))
    assert loss.item() == pytest.approx(expected)


def test_an_even_soft_label_is_symmetric_and_least_at_no_lead():
    import torch

    half, zero = torch.tensor([0.5]), torch.tensor([0.0])
    ahead = reward_losses.pairwise(torch.tensor([3.0]), zero, p_B=half).item()
    behind = reward_losses.pairwise(torch.tensor([-3.0]), zero, p_B=half).item()
    even = reward_losses.pairwise(zero, zero, p_B=half).item()
    assert ahead == pytest.approx(behind)
    assert even == pytest.approx(math.log(2))
    assert even < ahead


def test_a_certain_soft_label_is_the_hard_loss():
    import torch

    chosen, rejected = torch.tensor([0.3, -2.0]), torch.tensor([1.0, 4.0])
    soft = reward_losses.pairwise(chosen, rejected, p_B=torch.ones(2))
    assert soft.item() == pytest.approx(reward_losses.pairwise(chosen, rejected).item())


def test_listwise_loss_of_three_by_hand():
    import torch

    pairs = reward_losses.strict_pairs(torch.tensor([1.0, 3.0, 0.0]), torch.tensor([0.9, 0.5, 0.1]))
    # best over middle: 1 - 3, best over worst: 1 - 0, middle over worst: 3 - 0
    expected = -sum(math.log(sigmoid(d)) for d in (-2, 1, 3)) / 3
    assert reward_losses.listwise([pairs]).item() == pytest.approx(expected)


def test_ties_make_no_pair_and_prompts_weigh_alike():
    import torch

    tied = reward_losses.strict_pairs(torch.tensor([1.0, 3.0, 0.0]), torch.tensor([0.5, 0.5, 0.1]))
    assert sorted(zip(tied[0].tolist(), tied[1].tolist(), strict=True)) == [(1, 0), (3, 0)]
    single = reward_losses.strict_pairs(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))
    of_tied = -(math.log(sigmoid(1)) + math.log(sigmoid(3))) / 2
    expected = (of_tied - math.log(sigmoid(-2))) / 2
    assert reward_losses.listwise([tied, single]).item() == pytest.approx(expected)


def test_pointwise_loss_by_hand():
    import torch

    loss = reward_losses.pointwise(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 1.0]))
    assert loss.item() == pytest.approx((0.25 + 4) / 2)


def test_imitation_loss_by_hand():
    """Two answers: one of a single token with probability 1/4, one of two with 1/2 and 1/8."""
    import torch

    logits = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.125, 0.875]]))
    loss = reward_losses.imitation(logits, torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1]))
    expected = (math.log(4) + (math.log(2) + math.log(8)) / 2) / 2
    assert loss.item() == pytest.approx(expected)


def test_grms_regulariser_by_hand():
    """The same two answers: -log s(0.1 log p) of the sums, log 4 and log 16 in nats."""
    import torch

    logits = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.125, 0.875]]))
    loss = reward_losses.grm(logits, torch.tensor([0, 1, 0]), torch.tensor([0, 1, 1]))
    expected = (math.log(1 + 4**0.1) + math.log(1 + 16**0.1)) / 2
    assert loss.item() == pytest.approx(expected)


def test_grms_regulariser_is_trained_with(tiny, tokenizer, tmp_path):
    data = save(PAIRS, tmp_path / "d.jsonl")
    config = ONE_STEP | {"lm_weight": 0.01}
    mean = TRAINERS["reward"].train(data, tiny, tmp_path / "mean", config=config)
    grm = TRAINERS["reward"].train(data, tiny, tmp_path / "grm", config=config | {"lm_loss": "grm"})
    # Far from 0, -log s(-x / 10) is x / 10, here of several tokens whose mean is some 8 nats.
    assert grm["config"]["lm_loss"] == "grm"
    assert grm["metrics"]["lm_loss"] > 0.3 * mean["metrics"]["lm_loss"]
    assert grm["metrics"]["lm_loss"] != pytest.approx(mean["metrics"]["lm_loss"], rel=0.05)


def test_the_regulariser_is_a_share():
    import torch

    loss = reward_losses.regularized(torch.tensor(2.0), torch.tensor(10.0), 0.25)
    assert loss.item() == pytest.approx(0.75 * 2 + 0.25 * 10)


# -- the trainer's losses ------------------------------------------------------------------------


@pytest.fixture
def trainers(tiny, tokenizer, tmp_path):
    """Makes (TRL's trainer, ours) of one model and a batch for each, of the same pairs."""
    import torch
    import trl
    from transformers import AutoModelForSequenceClassification
    from trl.trainer.reward_trainer import DataCollatorForPreference

    from factory.training.offline.reward_trainer import RewardCollator, RewardConfig, RewardTrainer

    torch.manual_seed(4)
    model = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1).train()
    torch.nn.init.normal_(model.score.weight, std=1.0)
    pairs = [row | {"margin": float(n)} for n, row in enumerate(PAIRS[:3])]
    pairs[1]["chosen"] = [{"role": "assistant", "content": "A much longer answer " * 5}]
    rows = encode_pairs(dataset(pairs), tokenizer, None, weigh="margin", finds_answer=True).rows

    def make(**config: object):
        here = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
        here |= {"report_to": "none", "loss_type": "pairwise"}
        made = []
        for trainer_type in (trl.RewardTrainer, RewardTrainer):
            is_ours = trainer_type is RewardTrainer
            args = RewardConfig(output_dir=str(tmp_path), **here, **config)
            made.append(
                trainer_type(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
            )
            collate = (RewardCollator if is_ours else DataCollatorForPreference)(
                tokenizer.pad_token_id
            )
            batch = collate(list(rows))
            if not is_ours and not config.get("use_margin"):
                del batch["margin"]
            made.append(batch)
        return made

    return make


@pytest.mark.parametrize(
    "config",
    [{}, {"use_margin": True}, {"center_rewards_coefficient": 0.3}],
    ids=["plain", "margin", "centred"],
)
def test_our_pairwise_loss_is_trls(trainers, config):
    trl_trainer, trl_batch, ours, batch = trainers(**config)
    expected = trl_trainer.compute_loss(trl_trainer.model, trl_batch).item()
    assert ours.compute_loss(ours.model, batch).item() == pytest.approx(expected, rel=1e-5)
    for name in ("accuracy", "margin", "mean_reward", "min_reward", "max_reward"):
        theirs = trl_trainer._metrics["train"][name]
        assert ours._metrics["train"][name] == pytest.approx(theirs, rel=1e-4), name
    assert expected != pytest.approx(math.log(2), abs=0.01)


def test_the_margin_changes_trls_loss(trainers):
    without, with_margin = trainers(), trainers(use_margin=True)
    assert without[0].compute_loss(without[0].model, without[1]).item() != pytest.approx(
        with_margin[0].compute_loss(with_margin[0].model, with_margin[1]).item(), abs=0.05
    )


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_lm_loss_is_the_base_models_on_the_answer(tokenizer, tmp_path, is_tied):
    """Against the causal model itself, asked for each token of the answer in turn."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from factory.training.offline.reward_trainer import RewardCollator, RewardConfig, RewardTrainer

    tiny = save_llama(tmp_path / "tiny", tokenizer, tie_word_embeddings=is_tied)
    causal = AutoModelForCausalLM.from_pretrained(tiny)
    with torch.no_grad():  # far from uniform, so that a wrong token or place shows
        causal.get_output_embeddings().weight.mul_(20)
    causal.save_pretrained(tiny)
    session = SimpleNamespace(
        model_dir=tiny,
        model_config=causal.config,
        model_options={"trust_remote_code": False, "use_safetensors": True},
    )
    head = reward._lm_head(session)
    assert (head is None) == is_tied

    lists = [LISTS[0] | {"scores": [0.0, 2.0, 1.0]}, LISTS[1]]
    rows = encode_lists(dataset(lists), tokenizer, None, needs_pair=True, finds_answer=True).rows
    args = RewardConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        loss_type="listwise",
        lm_weight=0.25,
    )
    model = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    collate = RewardCollator(tokenizer.pad_token_id)
    trainer = RewardTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=collate,
    )
    trainer.lm_head = head
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, collate(list(rows))).item()

    expected = []
    for row, best in zip(lists, ["Perhaps.", "Yes, it is."], strict=True):
        prompt = [{"role": "user", "content": row["prompt"]}]
        whole = conversation_ids(tokenizer, [*prompt, {"role": "assistant", "content": best}], {})
        before = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_dict=False
        )
        assert whole[: len(before)] == before
        nll = []
        for place in range(len(before), len(whole)):
            with torch.no_grad():
                logits = causal(torch.tensor([whole[:place]])).logits[0, -1]
            nll.append(-logits.log_softmax(-1)[whole[place]].item())
        expected.append(sum(nll) / len(nll))
    lm_loss = trainer._metrics["train"]["lm_loss"][0]
    assert lm_loss == pytest.approx(sum(expected) / 2, rel=1e-4)
    ranking = []
    for row in lists:
        r = rewards(model, tokenizer, row["prompt"], row["responses"])
        s = row["scores"]
        gaps = [r[i] - r[j] for i in range(3) for j in range(3) if s[i] > s[j]]
        ranking.append(-sum(math.log(sigmoid(gap)) for gap in gaps) / 3)
    assert loss == pytest.approx(0.75 * sum(ranking) / 2 + 0.25 * lm_loss, rel=1e-5)


# -- rows ----------------------------------------------------------------------------------------


def test_a_transcript_is_split_into_turns():
    text = "\n\nHuman: Hi.\n\nStill me.\n\nAssistant: Hello.\n\nHuman: Bye\n\nAssistant: Bye: now."
    messages = split_transcript(text)
    assert messages == [
        {"role": "user", "content": "Hi.\n\nStill me."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Bye: now."},
    ]
    assert transcript(messages) == text


def test_a_transcript_may_open_with_instructions_and_answer_nothing():
    assert split_transcript("Be kind.\n\nHuman: Hi\n\nAssistant:") == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": ""},
    ]
    assert split_transcript("No turns.") == [{"role": "user", "content": "No turns."}]


_words = st.text(alphabet="aH: \n", max_size=12)


@given(st.lists(st.tuples(_words, _words), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_splitting_is_the_inverse_of_the_engines_transcript(turns):
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    assert split_transcript(transcript(messages)) == messages


def test_transcripts_and_messages_and_text_give_the_same_tokens(tokenizer):
    text = PAIRS[0] | {
        "prompt": "Is 0 a number?",
        "chosen": "Yes, it is.",
        "rejected": "No, never, not at all.",
    }
    whole = {
        name: f"\n\nHuman: Is 0 a number?\n\nAssistant: {text[name]}"
        for name in ("chosen", "rejected")
    }
    implicit = {name: PAIRS[0]["prompt"] + PAIRS[0][name] for name in ("chosen", "rejected")}
    found = [
        encode_pairs(dataset([row]), tokenizer, None, weigh=None, finds_answer=True).rows[0]
        for row in (PAIRS[0], text, whole, implicit)
    ]
    assert found[1:] == found[:1] * 3
    messages = [*PAIRS[0]["prompt"], *PAIRS[0]["chosen"]]
    assert found[0]["chosen_ids"] == conversation_ids(tokenizer, messages, {})
    answer = tokenizer.decode(found[0]["chosen_ids"][found[0]["answer_start"] :])
    assert answer.startswith("Yes, it is.")


def test_over_long_pairs_are_left_out_and_counted(tokenizer):
    long = PAIRS[0] | {"rejected": [{"role": "assistant", "content": "word " * 200}]}
    same = PAIRS[0] | {"rejected": PAIRS[0]["chosen"]}
    rows = [long, *PAIRS[:3], same, long]
    encoded = encode_pairs(dataset(rows), tokenizer, 64, weigh=None, finds_answer=False)
    assert len(encoded.rows) == 3
    assert encoded.rows_left_out == {
        "longer than max_length, 64 tokens": 2,
        "both answers are the same": 1,
    }
    assert encoded.longest > 200
    everything = encode_pairs(dataset(rows), tokenizer, None, weigh=None, finds_answer=False)
    assert everything.rows_left_out == {"both answers are the same": 1}


def test_a_pair_of_exactly_max_length_stays(tokenizer):
    one = dataset(PAIRS[:1])
    longest = encode_pairs(one, tokenizer, None, weigh=None, finds_answer=False).longest
    for length, rows in ((longest, 1), (longest - 1, 0)):
        assert (
            len(encode_pairs(one, tokenizer, length, weigh=None, finds_answer=False).rows) == rows
        )


def test_lists_lose_unscored_and_over_long_answers_but_no_count(tokenizer):
    long = "word " * 200
    rows = [
        {"prompt": "a", "responses": ["1", "2", "3"], "scores": [1.0, None, 2.0]},
        {"prompt": "b", "responses": ["1", long, "3"], "scores": [1.0, 3.0, 2.0]},
        {"prompt": "c", "responses": ["1", "2"], "scores": [1.0, 1.0]},
        {"prompt": "d", "responses": ["1", "2"], "scores": [None, None]},
        {"prompt": "e", "responses": ["1", long], "scores": [1.0, 2.0]},
    ]
    lists = encode_lists(dataset(rows), tokenizer, 64, needs_pair=True, finds_answer=False)
    assert lists.rows["scores"][:] == [[1.0, 2.0], [1.0, 2.0]]
    assert lists.rows["best"][:] == [1, 1]
    too_long = "longer than max_length, 64 tokens"
    assert lists.rows_left_out == {"no two answers with different scores": 2, too_long: 1}
    assert lists.answers_left_out == {"no score": 1, too_long: 1}
    points = encode_lists(dataset(rows), tokenizer, 64, needs_pair=False, finds_answer=False)
    assert points.rows_left_out == {"no score": 1}
    assert points.answers_left_out == {"no score": 1, too_long: 2}


def test_a_null_preference_is_certain_and_counted(tokenizer):
    encoded = encode_pairs(
        dataset(PAIRS[:3]), tokenizer, None, weigh="preference", finds_answer=False
    )
    assert encoded.rows["preference"][:] == [1.0, 0.9, 1.0]
    assert encoded.missing == 2
    margins = encode_pairs(dataset(PAIRS[:3]), tokenizer, None, weigh="margin", finds_answer=False)
    assert margins.rows["margin"][:] == [0.0, 1.5, 0.0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"chosen": "no turns", "rejected": "none"},
            r"row 0: column 'chosen' does not end with the assist",
        ),
        (
            {"prompt": "a", "chosen": 7, "rejected": 8},
            r"row 0: column 'chosen': expected text or messages",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c", "preference": 1.5},
            r"row 0 preference: expected 0 to 1, found 1.5",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c", "preference": math.inf},
            r"row 0 preference: expected a finite number, found inf",
        ),
    ],
)
def test_a_row_that_makes_no_sense_is_an_error(tokenizer, row, message):
    weigh = "preference" if "preference" in row else None
    with pytest.raises(RecipeError, match=message):
        encode_pairs(dataset([row]), tokenizer, None, weigh=weigh, finds_answer=False)


def test_lists_of_unequal_length_are_an_error(tokenizer):
    row = {"prompt": "a", "responses": ["b", "c"], "scores": [1.0]}
    with pytest.raises(RecipeError, match="row 0 has 2 responses, 1 scores"):
        encode_lists(dataset([row]), tokenizer, None, needs_pair=True, finds_answer=False)


# -- trainings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", [None, "eos"])
def test_without_a_padding_token_of_its_own_the_end_is_still_read_right(
    tiny, tokenizer, tmp_path, pad
):
    """In a padded batch and alone, before and after saving, an answer has one reward."""
    import shutil

    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from factory.training.offline.reward_trainer import RewardCollator

    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    bare = AutoTokenizer.from_pretrained(tiny)
    bare.pad_token = bare.eos_token if pad else None
    # A template that ends with the end-of-text token itself, as transcripts do.
    bare.chat_template = None
    (base / "chat_template.jinja").unlink()
    bare.save_pretrained(base)
    assert (AutoTokenizer.from_pretrained(base).pad_token is None) == (pad is None)

    out = tmp_path / "out"
    TRAINERS["reward"].train(save(PAIRS, tmp_path / "d.jsonl"), base, out, config=ONE_STEP)
    model = AutoModelForSequenceClassification.from_pretrained(out)
    trained = AutoTokenizer.from_pretrained(out)
    assert trained.pad_token == trained.eos_token
    assert model.config.pad_token_id == trained.eos_token_id
    rows = encode_pairs(dataset(PAIRS[:1]), trained, None, weigh=None, finds_answer=False).rows
    assert rows[0]["chosen_ids"][-1] != trained.eos_token_id
    batch = RewardCollator(trained.pad_token_id)(list(rows))
    with torch.no_grad():
        padded = model(batch["input_ids"], batch["attention_mask"]).logits[:, 0].tolist()
    answers = ["Yes, it is.", "No, never, not at all."]
    alone = rewards(model, trained, "Is 0 a number?", answers)
    assert padded == pytest.approx(alone, abs=1e-5)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    TRAINERS["reward"].train(save(PAIRS, folder / "d.jsonl"), tiny, folder / "out", config=CONFIG)
    return folder / "out"


def test_pairs_raise_the_margin_and_the_saved_model_has_it(trained, tokenizer):
    from transformers import AutoModelForSequenceClassification

    lines = logged(trained)
    assert lines[-1]["margin"] > lines[0]["margin"] + 0.5
    assert lines[-1]["accuracy"] == 1.0
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert "mean_reward" in lines[0]
    model = AutoModelForSequenceClassification.from_pretrained(trained)
    chosen, rejected = rewards(
        model, tokenizer, "Is 3 a number?", ["Yes, it is.", "No, never, not at all."]
    )
    assert chosen - rejected > 0.5
    config = json.loads((trained / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["pad_token_id"] == tokenizer.pad_token_id
    assert model.config.num_labels == 1


def test_the_record_says_what_was_done(trained):
    record = json.loads((trained / "training.json").read_text())
    assert (record["kind"], record["loss_type"], record["steps"]) == ("reward", "pairwise", 12)
    assert (record["data"]["rows"], record["data"]["rows_used"]) == (8, 8)
    assert record["data"]["rows_left_out"] == record["answers_left_out"] == {}


def test_the_margin_column_counts_only_if_asked(trained, tiny, tmp_path, capsys):
    """With it the first loss is larger than without, by about how far chosen must lead."""
    data = save(PAIRS, tmp_path / "d.jsonl")
    config = ONE_STEP | {"use_margin": True, "per_device_train_batch_size": 8}
    record = TRAINERS["reward"].train(data, tiny, tmp_path / "margin", config=config)
    plain = TRAINERS["reward"].train(
        data, tiny, tmp_path / "plain", config=config | {"use_margin": False}
    )
    assert plain["metrics"]["margin"] == record["metrics"]["margin"]
    rise = record["metrics"]["loss"] - plain["metrics"]["loss"]
    # half of the pairs must lead by 1.5, from a lead near 0
    assert rise == pytest.approx((math.log(1 + math.exp(1.5)) - math.log(2)) / 2, abs=0.1)
    assert record["labels_missing"] == 4
    assert "4 of 8 rows have no margin: 0 is used" in capsys.readouterr().err


def test_soft_labels_hold_the_margin_where_the_judge_was(tiny, tmp_path):
    pairs = [row | {"preference": 0.75} for row in PAIRS]
    config = CONFIG | {"soft_labels": True, "max_steps": 60, "logging_steps": 20}
    out = tmp_path / "out"
    record = TRAINERS["reward"].train(save(pairs, tmp_path / "d.jsonl"), tiny, out, config=config)
    # s(margin) = 0.75 at margin log 3
    assert record["metrics"]["margin"] == pytest.approx(math.log(3), abs=0.25)


def test_lists_put_the_answers_in_order(tiny, tokenizer, tmp_path):
    from transformers import AutoModelForSequenceClassification

    out = tmp_path / "out"
    config = CONFIG | {"max_steps": 30, "logging_steps": 10}
    record = TRAINERS["reward"].train(save(LISTS, tmp_path / "d.jsonl"), tiny, out, config=config)
    assert (record["loss_type"], record["metrics"]["accuracy"]) == ("listwise", 1.0)
    model = AutoModelForSequenceClassification.from_pretrained(out)
    best, middle, worst = rewards(model, tokenizer, "Is 2 a number?", LISTS[0]["responses"])
    assert best > middle > worst


def test_points_are_learned_in_standard_units(tiny, tokenizer, tmp_path):
    from transformers import AutoModelForSequenceClassification

    out = tmp_path / "out"
    config = CONFIG | {"max_steps": 60, "logging_steps": 20, "loss_type": "pointwise"}
    record = TRAINERS["reward"].train(save(LISTS, tmp_path / "d.jsonl"), tiny, out, config=config)
    # 9, 5, 1: mean 5, variance (16 + 0 + 16) / 3
    assert record["score_mean"] == 5
    assert record["score_std"] == pytest.approx(math.sqrt(32 / 3))
    model = AutoModelForSequenceClassification.from_pretrained(out)
    found = rewards(model, tokenizer, "Is 2 a number?", LISTS[0]["responses"])
    unit = 4 / math.sqrt(32 / 3)
    assert found == pytest.approx([unit, 0, -unit], abs=0.5)


def test_the_lm_head_is_not_saved(tokenizer, tmp_path):
    from safetensors import safe_open

    tiny = save_llama(tmp_path / "tiny", tokenizer, tie_word_embeddings=False)
    out = tmp_path / "out"
    config = ONE_STEP | {"lm_weight": 0.5}
    record = TRAINERS["reward"].train(save(PAIRS, tmp_path / "d.jsonl"), tiny, out, config=config)
    # random weights know nothing: near log of the vocabulary
    assert record["metrics"]["lm_loss"] == pytest.approx(math.log(len(tokenizer)), abs=0.5)
    with safe_open(out / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert "score.weight" in names
    assert not any("lm_head" in name for name in names)


def test_an_adapters_head_is_trained_and_saved(tiny, tokenizer, tmp_path):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification

    out = tmp_path / "out"
    data = save(PAIRS, tmp_path / "d.jsonl")
    TRAINERS["reward"].train(data, tiny, out, lora={"r": 4}, config=CONFIG)
    start = tmp_path / "start"
    TRAINERS["reward"].train(
        data, tiny, start, lora={"r": 4}, config=ONE_STEP | {"learning_rate": 0.0}
    )
    heads = [load_file(f / "model.safetensors")["score.weight"] for f in (start, out)]
    assert not torch.allclose(*heads, atol=1e-3)
    answers = ["Yes, it is.", "No, never, not at all."]
    merged = AutoModelForSequenceClassification.from_pretrained(out)
    base = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    adapted = PeftModel.from_pretrained(base, str(out / "adapter"))
    ours = rewards(merged, tokenizer, "Is 1 a number?", answers)
    assert ours == pytest.approx(rewards(adapted, tokenizer, "Is 1 a number?", answers), abs=1e-4)
    assert ours[0] > ours[1]


def test_in_half_precision_an_adapters_head_trains_in_float32(tiny, tmp_path):
    """bfloat16 would swallow its small steps; the frozen weights stay in it."""
    import torch
    from safetensors.torch import load_file

    config = ONE_STEP | {"bf16": True, "model_init_kwargs": {"dtype": "bfloat16"}}
    out = tmp_path / "out"
    record = TRAINERS["reward"].train(
        save(PAIRS, tmp_path / "d.jsonl"), tiny, out, lora={"r": 4}, config=config
    )
    adapter = load_file(out / "adapter" / "adapter_model.safetensors")
    (head,) = (weight for name, weight in adapter.items() if "score" in name)
    assert head.dtype == torch.float32
    assert not torch.equal(head, head.bfloat16().float())
    assert record["saved_dtype"] == "bfloat16"


def test_a_stopped_training_resumes_to_the_same_weights(tiny, tmp_path):
    """The config, with our own options, goes through a checkpoint too."""
    import torch

    data = save(LISTS, tmp_path / "d.jsonl")
    config = CONFIG | {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    TRAINERS["reward"].train(data, tiny, tmp_path / "whole", config=config)

    with stopped_at(3):
        TRAINERS["reward"].train(data, tiny, tmp_path / "out", config=config)
    record = TRAINERS["reward"].train(data, tiny, tmp_path / "out", config=config, resume=True)
    assert (record["steps"], record["resumed_at_step"]) == (4, 2)
    whole, out = (weights_of(tmp_path / name) for name in ("whole", "out"))
    assert all(torch.equal(weight, out[name]) for name, weight in whole.items())


def test_left_out_rows_are_said_and_recorded(tiny, tmp_path, capsys):
    long = PAIRS[0] | {"chosen": [{"role": "assistant", "content": "word " * 200}]}
    data = save([long, *PAIRS[:4]], tmp_path / "d.jsonl")
    record = TRAINERS["reward"].train(
        data, tiny, tmp_path / "out", config=ONE_STEP | {"max_length": 64}
    )
    reason = "longer than max_length, 64 tokens"
    assert record["data"]["rows_left_out"] == {reason: 1}
    assert (record["data"]["rows"], record["data"]["rows_used"]) == (5, 4)
    assert f"1 of 5 rows left out: {reason}" in capsys.readouterr().err


def test_nothing_left_says_how_long_the_rows_are(tiny, tokenizer, tmp_path):
    longest = encode_pairs(dataset(PAIRS), tokenizer, None, weigh=None, finds_answer=False).longest
    data = save(PAIRS, tmp_path / "d.jsonl")
    with pytest.raises(
        RecipeError, match=rf"none of the 8 rows is left: 8 .*raise config.max_length to {longest} "
    ):
        TRAINERS["reward"].train(data, tiny, tmp_path / "out", config=ONE_STEP | {"max_length": 8})
    assert not (tmp_path / "out").exists()


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"loss_type": "pairwis"}, "loss_type is 'pairwis', not one of pairwise, listwise"),
        ({"lm_weigth": 0.1}, "no option 'lm_weigth'; did you mean 'lm_weight'"),
        ({"lm_weight": 1.0}, "lm_weight is 1.0; it is a share"),
        ({"lm_weight": 0.1, "lm_loss": "gmr"}, "lm_loss is 'gmr', not one of imitation, grm"),
        ({"lm_loss": "grm"}, "lm_loss is grm, but lm_weight is 0; GRM's is 0.01"),
        ({"soft_labels": True, "use_margin": True}, "set one of them"),
        ({"soft_labels": True, "loss_type": "listwise"}, "soft_labels is for the pairwise loss"),
        ({"loss_type": "pointwise", "center_rewards_coefficient": 0.1}, "unset it"),
        ({"chat_template_path": "x.jinja"}, "chat_template_path has no effect; change the tok"),
        ({"soft_labels": "maybe"}, "config.soft_labels: expected bool, found 'maybe'"),
    ],
)
def test_wrong_options_are_refused(config, message):
    with pytest.raises(RecipeError, match=message):
        TRAINERS["reward"].check_options(config)


def test_right_options_pass():
    TRAINERS["reward"].check_options(
        {"lm_weight": "0.01", "learning_rate": "1e-5", "soft_labels": True}, {"r": 16}
    )


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        (PAIRS, {"loss_type": "listwise"}, "listwise needs columns prompt, responses, scores"),
        (LISTS, {"loss_type": "pairwise"}, "listwise is the pairwise loss over all pairs"),
        (LISTS, {"soft_labels": True}, "soft_labels needs the pairwise loss, here listwise"),
        (
            [{"prompt": "a", "chosen": "b", "rejected": "c"}],
            {"use_margin": True},
            r"use_margin needs .* a column margin \(the dataset has: prompt, chosen, rejected\)",
        ),
        (
            [row | {"scores": [2.0, 2.0, 2.0]} for row in LISTS],
            {"loss_type": "pointwise"},
            "all 18 scores are 2.0: there is nothing to learn",
        ),
        (
            [{"prompt": "a", "completion": "b"}],
            {},
            "no columns 'chosen', 'rejected' .* a preference view has them: chosen, rejected, or a "
            "reward view's: prompt, responses, scores",
        ),
    ],
)
def test_data_that_does_not_fit_is_refused(tiny, tmp_path, rows, config, message):
    data = save(rows, tmp_path / "d.jsonl")
    with pytest.raises(RecipeError, match=message):
        TRAINERS["reward"].train(data, tiny, tmp_path / "out", config=ONE_STEP | config)
    assert not (tmp_path / "out").exists()


def test_a_regulariser_needs_a_head(tokenizer, tmp_path):
    tiny = save_llama(tmp_path / "tiny", tokenizer, tie_word_embeddings=False)
    first = tmp_path / "first"
    data = save(PAIRS, tmp_path / "d.jsonl")
    TRAINERS["reward"].train(data, tiny, first, config=ONE_STEP)
    with pytest.raises(RecipeError, match="needs a base model with a language-model head"):
        TRAINERS["reward"].train(
            data, first, tmp_path / "out", config=ONE_STEP | {"lm_weight": 0.1}
        )


def test_each_kind_has_its_own_view():
    from factory.training.config import TrainingConfig

    views = {kind: TrainingConfig(kind=kind).view for kind in ("dpo", "reward", "prm")}
    assert views == {"dpo": "preference", "reward": "preference", "prm": "process"}
    assert TrainingConfig(kind="reward", view="reward").view == "reward"


def test_transformers_own_config_takes_loading_options_too(tmp_path):
    from transformers import TrainingArguments

    from factory.training.common import options

    given = {"use_cpu": True, "model_init_kwargs": {"revision": "main"}}
    resolved = options.resolve(TrainingArguments, {"learning_rate": 1e-5}, given, is_lora=False)
    assert resolved["model_init_kwargs"] == {
        "dtype": "float32",
        "use_safetensors": True,
        "revision": "main",
    }
    assert options.build(TrainingArguments, resolved, tmp_path).learning_rate == 1e-5
    with pytest.raises(RecipeError, match="trust_remote_cod"):
        options.converted(TrainingArguments, {"trust_remote_cod": True})
