"""What is trained on: no more columns than the trainer needs, and no end where an answer was cut."""

from __future__ import annotations

import copy

import pytest

from factory.training import TRAINERS
from factory.training.common.endings import unended_ids
from factory.training.common.session import Session
from factory.training.offline.quality import condition
from tests.test_training_sft import asks, options, says
from tests.tiny import dataset, save

CONFIG = {"max_steps": 1, "save_strategy": "no"}
END = "<|im_end|>"

ANSWER = "Yes, it is."
OTHER = "No, never at"
HARMFUL = {
    "text": "Nothing of this.",
    "messages": [{"role": "user", "content": "Nor this."}],
    "input_ids": [5, 6, 7],
    "labels": [5, 6, 7],
    "completion_mask": [1, 1, 1],
    "assistant_masks": [1, 0, 1],
    "prompt_ids": [9],
    "chosen_ids": [9],
    "ref_chosen_logps": 0.5,
    "images": [],
    "tools": '[{"type": "function", "function": {"name": "f", "description": "Tell no tools."}}]',
    "chat_template_kwargs": {"add_generation_prompt": False},
    "completion_ids": [3],
    "seq_lengths": [3],
}


class Made(Exception):
    """The trainer, at the moment when it would begin."""


@pytest.fixture
def trainer_of(monkeypatch, tiny, tmp_path):
    """The loop that a kind of training makes of rows."""

    def fit(self, trainer, **more):
        raise Made(trainer)

    monkeypatch.setattr(Session, "fit", fit)
    monkeypatch.setattr("factory.training.common.session._in_plain_words", lambda error, *_: error)
    count = 0

    def make(kind, rows, model=tiny, **config):
        nonlocal count
        count += 1
        data = save(rows, tmp_path / f"rows-{count}.jsonl")
        with pytest.raises(Made) as caught:
            TRAINERS[kind].train(data, model, tmp_path / f"out-{count}", config=CONFIG | config)
        return caught.value.args[0]

    return make


def rows_of(kind: str, extra: dict) -> list[dict]:
    rows = []
    for n in range(4):
        row = {"prompt": asks(n)}
        if kind == "sft":
            row |= {"completion": says(ANSWER)}
        elif kind == "kto":
            row |= {"completion": says(ANSWER), "label": n % 2 == 0}
        elif kind == "dpo":
            row |= {"chosen": says(ANSWER), "rejected": says(OTHER)}
        harmful = {name: value for name, value in extra.items() if name not in row}
        rows.append(row | harmful)
    return rows


# -- columns -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("sft", ["input_ids", "labels"]),
        ("dpo", ["prompt_ids", "chosen_ids", "rejected_ids"]),
        ("kto", ["prompt_ids", "completion_ids", "KL_completion_ids", "label"]),
    ],
)
def test_other_columns_change_nothing_that_is_trained_on(trainer_of, kind, columns):
    plain = trainer_of(kind, rows_of(kind, {})).train_dataset
    harmed = trainer_of(kind, rows_of(kind, HARMFUL | {"label": True, "rejected": says("x")}))
    made = harmed.train_dataset
    for name in columns:
        if name != "label":
            assert made[name][:] == plain[name][:], name
    assert not set(HARMFUL) - set(columns) & set(made.column_names)


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_of_other_columns_only_the_reference_reaches_the_rewards(trainer_of, kind):
    rewards = [{"kind": "length", "target": 2}]
    rows = [row | {"reference": "7"} for row in rows_of("grpo", HARMFUL)]
    made = trainer_of(kind, rows, rewards=rewards, num_generations=2)
    assert made.train_dataset.column_names == ["prompt", "reference"]
    assert trainer_of(
        kind, rows_of("grpo", {"source": "x"}), rewards=rewards, num_generations=2
    ).train_dataset.column_names == ["prompt"]


# -- ends ----------------------------------------------------------------------------------------


def test_sft_trains_a_cut_answer_without_an_end(trainer_of, tokenizer):
    rows = rows_of("sft", {})
    rows = [row | {"finish_reason": r} for row, r in zip(rows, ("stop", "length") * 2, strict=True)]
    rows[3]["completion"] = says(OTHER + "\n")
    made = trainer_of("sft", rows).train_dataset
    learned = [tokenizer.decode([i for i in labels if i != -100]) for labels in made["labels"]]
    assert learned[0] == f"{ANSWER}{END}\n"
    assert learned[1] == ANSWER
    assert learned[2] == learned[0]
    assert learned[3] == OTHER + "\n"
    for ids, labels in zip(made["input_ids"], made["labels"], strict=True):
        assert len(ids) == len(labels)
        assert all(a == b for a, b in zip(ids, labels, strict=True) if b != -100)


def test_a_plain_text_that_was_cut_gets_no_end_either(trainer_of, tokenizer, tmp_path, tiny):
    import shutil

    base = shutil.copytree(tiny, tmp_path / "b", ignore=shutil.ignore_patterns("chat_template*"))
    rows = [
        {"prompt": "2 + 2 =", "completion": " 4", "finish_reason": reason}
        for reason in ("stop", "length", None)
    ]
    made = trainer_of("sft", rows, model=base).train_dataset
    ends = [labels[-1] == tokenizer.eos_token_id for labels in made["labels"]]
    assert ends == [True, False, True]
    pairs = [
        {
            "prompt": "2 + 2 =",
            "chosen": " 4",
            "rejected": " 5 or",
            "chosen_finish_reason": "stop",
            "rejected_finish_reason": "length",
        }
    ]
    for more in ({}, {"soft_labels": True}):
        given = [row | {"preference": 0.9} for row in pairs]
        made = trainer_of("dpo", given, model=base, **more).train_dataset[0]
        if more:
            chosen, rejected = made["answer_ids"]
        else:
            chosen, rejected = made["chosen_ids"], made["rejected_ids"]
        assert tokenizer.decode(chosen) == f" 4{tokenizer.eos_token}"
        assert tokenizer.decode(rejected) == " 5 or"


@pytest.mark.parametrize("loss", [{}, {"loss_type": "ipo"}, {"soft_labels": True}])
def test_dpo_trains_cut_answers_without_an_end(trainer_of, tokenizer, loss):
    extra = {"chosen_finish_reason": "stop", "rejected_finish_reason": "length", "preference": 0.8}
    rows = [row | extra for row in rows_of("dpo", {})]
    rows[1] |= {"chosen_finish_reason": "length", "rejected_finish_reason": None}
    made = trainer_of("dpo", rows, **loss).train_dataset
    if "soft_labels" in loss:
        answers = made["answer_ids"][:2]
    else:
        answers = [[made[f"{n}_ids"][i] for n in ("chosen", "rejected")] for i in (0, 1)]
    texts = [[tokenizer.decode(ids) for ids in pair] for pair in answers]
    assert texts == [[f"{ANSWER}{END}\n", OTHER], [ANSWER, f"{OTHER}{END}\n"]]


def test_lists_know_of_each_answer_how_it_ended(trainer_of, tokenizer):
    rows = [
        {
            "prompt": asks(n),
            "responses": [OTHER, ANSWER, "Hm."],
            "scores": [1.0, 5.0, 3.0],
            "finish_reasons": ["length", "stop", "stop"],
        }
        for n in range(2)
    ]
    rows[1]["finish_reasons"] = None
    made = trainer_of("dpo", rows, loss_type="rrhf").train_dataset
    texts = [[tokenizer.decode(ids) for ids in answers] for answers in made["answer_ids"]]
    ended = [f"{ANSWER}{END}\n", f"Hm.{END}\n"]
    assert texts == [[*ended, OTHER], [*ended, f"{OTHER}{END}\n"]]

    made = trainer_of("reward", rows, loss_type="listwise").train_dataset
    tails = [[tokenizer.decode(ids).endswith(f"{END}\n") for ids in row] for row in made["ids"]]
    assert tails == [[False, True, True], [True, True, True]]
    cut = tokenizer.decode(made["ids"][0][0])
    assert cut.endswith(f"assistant\n{OTHER}")


def test_kto_trains_cut_answers_without_an_end(trainer_of, tokenizer):
    rows = [row | {"finish_reason": "length"} for row in rows_of("kto", {})]
    rows[0]["finish_reason"] = "stop"
    made = trainer_of("kto", rows).train_dataset
    texts = sorted(tokenizer.decode(ids) for ids in made["completion_ids"])
    assert texts == sorted([f"{ANSWER}{END}\n", *[ANSWER] * 3])
    # each answer stands beside its neighbour's prompt, as it is trained
    own = made["completion_ids"][:]
    assert made["KL_completion_ids"][:] == [own[-1], *own[:-1]]


def test_a_reward_model_reads_a_cut_answer_at_its_last_token(trainer_of, tokenizer):
    extra = {"chosen_finish_reason": "stop", "rejected_finish_reason": "length"}
    rows = [row | extra for row in rows_of("dpo", {})]
    for more in ({}, {"lm_weight": 0.1}):
        made = trainer_of("reward", rows, **more).train_dataset[0]
        assert tokenizer.decode(made["chosen_ids"]).endswith(f"{ANSWER}{END}\n")
        assert tokenizer.decode(made["rejected_ids"]).endswith(f"assistant\n{OTHER}")


def test_a_cut_answer_that_the_template_changes_is_still_read(tokenizer):
    made = copy.deepcopy(tokenizer)
    made.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'].split('</think>')[-1] }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    cut = [*asks(1), {"role": "assistant", "content": "<think>so</think>\n\nabc"}]
    assert tokenizer.decode(unended_ids(made, cut)).endswith("<think>so</think>\n\nabc")


def test_quality_prefixes_keep_how_an_answer_ended():
    pair = {"prompt": asks(1), "chosen": says(ANSWER), "rejected": says(OTHER)}
    pair |= {"rejected_finish_reason": "length"}
    made = condition(dataset([pair]), options(quality="good_bad")).rows
    assert made["finish_reason"][:] == [None, "length"]
    lists = {"prompt": asks(1), "responses": [OTHER, ANSWER], "scores": [1.0, 2.0]}
    lists |= {"finish_reasons": ["length", "stop"]}
    made = condition(dataset([lists]), options(quality="score")).rows
    assert made["finish_reason"][:] == ["length", "stop"]
    scored = {"prompt": asks(1), "completion": says(ANSWER), "finish_reason": "length"}
    rows = [scored | {"score": float(n)} for n in (1, 2)]
    made = condition(dataset(rows), options(quality="score")).rows
    assert made["finish_reason"][:] == ["length", "length"]
