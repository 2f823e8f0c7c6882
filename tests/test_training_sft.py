"""Supervised fine-tuning, plain and with quality prefixes, on a tiny Llama."""

from __future__ import annotations

import json
import math

import pytest

from factory.core.errors import RecipeError
from factory.training import TRAINERS
from factory.training.offline.quality import condition, last_user_asks, quantiles
from tests.tiny import dataset, logged, save, save_llama

CONFIG = {"max_steps": 8, "learning_rate": 3e-3, "save_strategy": "no", "logging_steps": 1}
ONE_STEP = CONFIG | {"max_steps": 1}


def asks(n: int) -> list[dict]:
    return [{"role": "user", "content": f"Is {n} a number?"}]


def says(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


ROWS = [
    {"prompt": asks(n), "completion": says("Yes, it is."), "origin": "revise"} for n in range(8)
]
PAIRS = [
    {"prompt": asks(n), "chosen": says("Yes, it is."), "rejected": says("No, never at all.")}
    for n in range(8)
]
LISTS = [
    {"prompt": asks(n), "responses": ["Yes, it is.", "Hm.", "No."], "scores": [5.0, 3.0, 1.0]}
    for n in range(4)
]


def options(**given: object):
    from factory.training.offline.sft import SFTConfig

    return SFTConfig(output_dir="out", use_cpu=True, bf16=False, report_to="none", **given)


def loss_of(model, tokenizer, prompt: list[dict], answer: str) -> float:
    """Nats a token of the answer, worked out without a trainer."""
    import torch

    before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template([*prompt, *says(answer)], return_dict=False)
    with torch.no_grad():
        logps = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    picked = [logps[at - 1, whole[at]].item() for at in range(len(before), len(whole))]
    return -sum(picked) / len(picked)


# -- plain ---------------------------------------------------------------------------------------


def test_the_loss_is_on_answers_only_and_falls(tiny, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM

    data = save(ROWS, tmp_path / "d.jsonl")
    config = CONFIG | {"per_device_train_batch_size": 8}
    record = TRAINERS["sft"].train(data, tiny, tmp_path / "out", config=config)
    first, *_, last = logged(tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(tiny)
    by_hand = sum(loss_of(base, tokenizer, asks(n), "Yes, it is.") for n in range(8)) / 8
    assert first["loss"] == pytest.approx(by_hand, abs=1e-3)
    assert last["loss"] < first["loss"] - 0.5
    assert (record["kind"], record["data"]["rows_used"]) == ("sft", 8)
    assert not (tmp_path / "out" / "quality.json").exists()
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loss_of(trained, tokenizer, asks(3), "Yes, it is.") < by_hand - 0.5


def test_texts_are_given_the_template_that_messages_get(tiny, tmp_path, capsys):
    texts = [{"prompt": row["prompt"][0]["content"], "completion": "Yes, it is."} for row in ROWS]
    mixed = [*texts[:4], *ROWS[4:]]
    for name, rows in (("texts", texts), ("mixed", mixed), ("messages", ROWS)):
        TRAINERS["sft"].train(
            save(rows, tmp_path / f"{name}.jsonl"), tiny, tmp_path / name, config=ONE_STEP
        )
    losses = [logged(tmp_path / name)[0]["loss"] for name in ("texts", "mixed", "messages")]
    assert losses[0] == losses[1] == losses[2]
    said = capsys.readouterr().err
    assert "rows: 8 strings, read as user and assistant turns, given the model's chat templ" in said
    assert "rows: 4 strings and 4 messages, read as user and assistant turns" in said
    assert "rows: 8 messages\n" in said


def test_rows_without_an_answer_or_with_unknown_tokens_are_counted(tiny, tmp_path, capsys):
    import shutil

    from transformers import AutoTokenizer

    model = shutil.copytree(tiny, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(model)
    odd = [
        {"prompt": asks(1), "completion": says("A <new> one.")},
        {"prompt": "a", "completion": None},
    ]
    record = TRAINERS["sft"].train(
        save([*ROWS, *odd], tmp_path / "d.jsonl"), model, tmp_path / "o", config=ONE_STEP
    )
    counted = record["data"]
    assert (counted["rows"], counted["rows_used"]) == (10, 8)
    size = json.loads((tiny / "config.json").read_text())["vocab_size"]
    assert counted["rows_left_out"] == {
        "column 'completion': expected text or messages, found null": 1,
        f"a token id beyond the model's {size} embeddings": 1,
    }
    assert "1 of 10 rows left out: column 'completion'" in capsys.readouterr().err
    data = save(odd, tmp_path / "odd.jsonl")
    with pytest.raises(RecipeError, match="is the tokenizer another model's"):
        TRAINERS["sft"].train(data, model, tmp_path / "none", config=ONE_STEP)


def test_over_long_rows_are_counted(tiny, tmp_path, capsys):
    long_prompt = {
        "prompt": [{"role": "user", "content": "word " * 100}],
        "completion": says("Yes."),
    }
    long_answer = {"prompt": asks(1), "completion": says("word " * 100)}
    data = save([*ROWS[:4], long_prompt, long_answer], tmp_path / "d.jsonl")
    config = ONE_STEP | {"max_length": 64}
    record = TRAINERS["sft"].train(data, tiny, tmp_path / "out", config=config)
    counted = record["data"]
    assert (counted["rows"], counted["rows_used"], counted["rows_cut"]) == (6, 5, 1)
    assert counted["rows_left_out"] == {"the prompt alone fills 64 tokens": 1}
    said = capsys.readouterr().err
    assert "1 of 6 rows left out: the prompt alone fills 64 tokens" in said
    assert "1 of 6 rows cut to max_length, 64 tokens" in said


def test_packed_rows_are_told_from_sequences(tiny, tmp_path):
    config = ONE_STEP | {"packing": True, "packing_strategy": "wrapped", "max_length": 64}
    data = save(ROWS, tmp_path / "d.jsonl")
    record = TRAINERS["sft"].train(data, tiny, tmp_path / "out", config=config)
    assert record["packed_rows"] == 8
    assert record["data"]["rows"] == record["data"]["rows_used"] < 8


def test_an_adapter_is_trained(tiny, tmp_path):
    data = save(ROWS, tmp_path / "d.jsonl")
    config = CONFIG | {"learning_rate": 5e-2}
    TRAINERS["sft"].train(data, tiny, tmp_path / "out", lora={"r": 4}, config=config)
    first, *_, last = logged(tmp_path / "out")
    assert last["loss"] < first["loss"] - 0.1
    assert (tmp_path / "out" / "adapter").is_dir()


# -- quality -------------------------------------------------------------------------------------


def test_the_prefix_ends_the_last_user_message():
    prompt = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Why?"},
    ]
    asked = last_user_asks(prompt, "A good answer:")
    assert asked == [prompt[0], {"role": "user", "content": "Why?\n\nA good answer:"}]
    assert prompt[1]["content"] == "Why?"
    assert last_user_asks("1 + 1", "Score 5 of 5:") == "1 + 1\n\nScore 5 of 5:\n"
    with pytest.raises(RecipeError, match="row 7: no user message to put 'Good:' into"):
        last_user_asks(prompt[:1], "Good:", 7)


def test_a_pair_makes_two_rows():
    made = condition(dataset(PAIRS[:1]), options(quality="good_bad", bad_prefix="Bad:"))
    assert made.rows[:] == {
        "prompt": [
            [{"role": "user", "content": "Is 0 a number?\n\nA good answer:"}],
            [{"role": "user", "content": "Is 0 a number?\n\nBad:"}],
        ],
        "completion": [PAIRS[0]["chosen"], PAIRS[0]["rejected"]],
    }
    assert made.quality == {
        "quality": "good_bad",
        "best": "A good answer:",
        "append": "\n\nA good answer:",
        "to": "the last user message",
        "prefixes": {"A good answer:": {"answers": 1}, "Bad:": {"answers": 1}},
    }


def test_quantiles_by_hand():
    assert quantiles([10, 30, 20, 50, 40, 60], 3) == [1, 2, 1, 3, 2, 3]
    # equal scores have one quantile, and the best are always the last
    assert quantiles([0, 0, 0, 1], 5) == [4, 4, 4, 5]
    assert quantiles([0, 1, 1, 1], 2) == [1, 2, 2, 2]


def test_quantiles_of_a_reward_view():
    made = condition(dataset(LISTS), options(quality="quantile", quantiles=3))
    prompts = [prompt[0]["content"].rsplit("\n\n")[1] for prompt in made.rows["prompt"]]
    assert prompts[:3] == ["Quality 3 of 3:", "Quality 2 of 3:", "Quality 1 of 3:"]
    assert made.rows["completion"][1] == says("Hm.")
    assert made.quality["append"] == "\n\nQuality 3 of 3:"
    assert made.quality["prefixes"]["Quality 2 of 3:"] == {"answers": 4, "scores": (3.0, 3.0)}


def test_scores_of_an_sft_view_and_what_has_none():
    rows = [row | {"score": score} for row, score in zip(ROWS[:3], [4.0, None, 2.0], strict=True)]
    made = condition(dataset(rows), options(quality="score", max_score=5))
    prompts = [prompt[0]["content"] for prompt in made.rows["prompt"]]
    assert prompts == ["Is 0 a number?\n\nScore 4 of 5:", "Is 2 a number?\n\nScore 2 of 5:"]
    # nothing in the data has 5, so the model would not know what to do with it
    assert made.quality["best"] == "Score 4 of 5:"
    assert (len(made.answers), made.left_out) == (3, {"no score": 1})


def test_the_model_learns_what_the_prefixes_mean(tokenizer, tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    # to learn from one word of twenty in few steps
    tiny = save_llama(tmp_path / "tiny", tokenizer, initializer_range=0.2)
    pairs = [{"prompt": asks(n), "chosen": says("Yes."), "rejected": says("No.")} for n in range(2)]
    data, out = save(pairs, tmp_path / "d.jsonl"), tmp_path / "out"
    config = CONFIG | {"quality": "good_bad", "per_device_train_batch_size": 4, "max_steps": 40}
    config |= {"learning_rate": 1e-2, "lr_scheduler_type": "constant", "logging_steps": 20}
    record = TRAINERS["sft"].train(data, tiny, out, config=config)
    assert (record["source_rows"], record["data"]["rows"], record["data"]["rows_used"]) == (2, 4, 4)
    asked = json.loads((out / "quality.json").read_text())
    assert asked == record["quality"] == json.loads((out / "training.json").read_text())["quality"]
    assert asked["append"] == "\n\nA good answer:"
    said = capsys.readouterr().err
    assert r"append '\n\nA good answer:' to the last user message" in said

    model = AutoModelForCausalLM.from_pretrained(out)
    better = {}
    for prefix in ("A good answer:", "A bad answer:"):
        prompt = last_user_asks(asks(1), prefix)
        losses = [loss_of(model, tokenizer, prompt, answer) for answer in ("Yes.", "No.")]
        better[prefix] = losses[1] - losses[0]
    assert better["A good answer:"] > 0.5
    assert better["A bad answer:"] < -0.5


def test_a_finished_training_gets_its_quality_file_back(tiny, tmp_path):
    data = save(PAIRS, tmp_path / "d.jsonl")
    config = ONE_STEP | {"quality": "good_bad"}
    record = TRAINERS["sft"].train(data, tiny, tmp_path / "out", config=config)
    (tmp_path / "out" / "quality.json").unlink()
    TRAINERS["sft"].train(data, tiny, tmp_path / "out", config=config)
    assert json.loads((tmp_path / "out" / "quality.json").read_text()) == record["quality"]


def test_left_out_answers_are_counted_by_reason(tiny, tmp_path):
    rows = [
        *LISTS,
        LISTS[0] | {"scores": [5.0, None, 1.0]},
        LISTS[0] | {"prompt": [{"role": "user", "content": "word " * 100}]},
    ]
    config = ONE_STEP | {"quality": "score", "max_length": 64}
    record = TRAINERS["sft"].train(
        save(rows, tmp_path / "d.jsonl"), tiny, tmp_path / "out", config=config
    )
    assert record["data"]["rows_left_out"] == {
        "no score": 1,
        "the prompt alone fills 64 tokens": 3,
    }
    assert (record["data"]["rows"], record["data"]["rows_used"]) == (18, 14)


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quality": "good"}, "quality is 'good', not one of none, good_bad, quantile, score"),
        ({"quality": "score", "completion_only_loss": False}, "would teach the model to write"),
        ({"quality": "good_bad", "bad_prefix": "A good answer:"}, "are both 'A good answer:'"),
        ({"quality": "score", "quantiles": 3}, "quantiles is for quality quantile, not score"),
        ({"quality": "quantile", "quantiles": 1}, "quantiles is 1; it must be 2 or more"),
        ({"chat_template_path": "x.jinja"}, "change the tokenizer of the base model"),
        ({"qualty": "score"}, "no option 'qualty'; did you mean 'quality'"),
    ],
)
def test_wrong_options_are_refused(config, message):
    with pytest.raises(RecipeError, match=message):
        TRAINERS["sft"].check_options(config)


def test_right_options_pass():
    TRAINERS["sft"].check_options(
        {"quality": "quantile", "quantiles": "4", "packing": True, "learning_rate": "1e-5"}
    )


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        (PAIRS, {}, "no column 'completion' .*a preference view's: use factory train dpo"),
        (ROWS, {"quality": "good_bad"}, "good_bad needs columns prompt, chosen, rejected"),
        (ROWS, {"quality": "score"}, "needs columns prompt, completion, score, or a reward view's"),
        (
            [row | {"score": 2.5 + n} for n, row in enumerate(ROWS)],
            {"quality": "score"},
            "needs whole scores, found 2.5; use quality: quantile",
        ),
        (LISTS, {"quality": "score", "max_score": 4}, "max_score is 4, but there is a score 5"),
        (
            [row | {"score": 1.0} for row in ROWS],
            {"quality": "quantile"},
            "all 8 scores are 1: there is nothing to tell apart",
        ),
        ([row | {"scores": [1.0]} for row in LISTS], {"quality": "score"}, "3 responses, 1 scores"),
    ],
)
def test_data_that_does_not_fit_is_refused(tiny, tmp_path, rows, config, message):
    data = save(rows, tmp_path / "d.jsonl")
    with pytest.raises(RecipeError, match=message):
        TRAINERS["sft"].train(data, tiny, tmp_path / "out", config=ONE_STEP | config)
    assert not (tmp_path / "out").exists()


def test_a_loss_worked_out_by_hand_is_near_that_of_chance(tiny, tokenizer):
    """Random weights know nothing: near log of the vocabulary."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert loss_of(model, tokenizer, asks(1), "Yes.") == pytest.approx(
        math.log(len(tokenizer)), abs=0.5
    )
