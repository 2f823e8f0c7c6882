"""What TRL's trainers learn from, token by token, beside what the engines show."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from factory.engines.render import conversation_ids, plain_ids, prompt_ids
from factory.training import TRAINERS
from factory.training.common.session import Session
from tests.test_render import HOSTILE, NO_END, appending_eos, said
from tests.tiny import save, save_llama


@pytest.fixture(scope="module")
def model_of(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a tiny model with the tokenizer of a kind, made once."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            own = copy.deepcopy(tokenizer)
            if kind == "no end":
                own.chat_template = NO_END
            elif kind == "appends eos":
                own = appending_eos(tokenizer, bos=True)
            made[kind] = save_llama(tmp_path_factory.mktemp("model"), own)
        return made[kind]

    return folder


@pytest.fixture
def trainer_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The trainer that a training would run, and what the training says."""

    def made(kind: str, rows: list[dict[str, Any]], model: Path, **config: Any) -> Any:
        found: list[Any] = []

        def fit(self: Session, trainer: Any, **_: Any) -> dict[str, Any]:
            found.append(trainer)
            trainer.is_world_process_zero = lambda: False
            return {}

        monkeypatch.setattr(Session, "fit", fit)
        data = save(rows, tmp_path / "rows.jsonl")
        config = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, **config}
        TRAINERS[kind].train(data, model, tmp_path / "out", config=config)
        return found[0]

    return made


def loaded(model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


ASKED = {"prompt": said(HOSTILE)}
ANSWER, WORSE = f"No. {HOSTILE}", "Yes."
ROWS = {
    "sft": {**ASKED, "completion": [{"role": "assistant", "content": ANSWER}]},
    "dpo": {
        **ASKED,
        "chosen": [{"role": "assistant", "content": ANSWER}],
        "rejected": [{"role": "assistant", "content": WORSE}],
    },
    "kto": {**ASKED, "completion": [{"role": "assistant", "content": ANSWER}], "label": True},
}


def learned(kind: str, row: dict[str, Any]) -> tuple[list[int], list[list[int]]]:
    """(ids of the prompt, ids of each answer) in a row that a trainer has tokenised."""
    if kind == "sft":
        split = row["labels"].count(-100)
        return row["input_ids"][:split], [row["input_ids"][split:]]
    names = ("chosen_ids", "rejected_ids") if kind == "dpo" else ("completion_ids",)
    return row["prompt_ids"], [row[name] for name in names]


@pytest.mark.parametrize("kind", ["sft", "dpo", "kto"])
@pytest.mark.parametrize("model", ["own", "no end", "appends eos"])
def test_a_trainer_learns_the_tokens_that_the_engine_shows(
    model_of: Any, trainer_of: Any, capsys: pytest.CaptureFixture[str], kind: str, model: str
) -> None:
    folder = model_of(model)
    rows = [ROWS[kind]] * 2
    if kind == "kto":
        rows = [ROWS[kind], {**ROWS[kind], "label": False}]
    prompt, answers = learned(kind, trainer_of(kind, rows, folder).train_dataset[0])
    tokenizer = loaded(folder)
    asked = prompt_ids(tokenizer, said(HOSTILE), {})
    for text, answer in zip((ANSWER, WORSE), answers, strict=False):
        whole = conversation_ids(tokenizer, said(HOSTILE, text), {})
        if model == "no end":
            whole.append(tokenizer.eos_token_id)
        assert prompt + answer == whole
        assert answer.count(tokenizer.eos_token_id) == 1
        if model != "no end":  # whose template opens no answer
            assert prompt == asked
    said_so = "<|im_end|> is put there" in capsys.readouterr().err
    assert said_so == (model == "no end")


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_completions_are_drawn_after_the_tokens_that_the_engine_shows(
    model_of: Any, trainer_of: Any, kind: str
) -> None:
    folder = model_of("own")
    rules = [{"kind": "length", "target": 3}]
    trainer = trainer_of(kind, [ASKED] * 4, folder, rewards=rules, max_completion_length=4)
    ids = trainer._tokenize_prompts([said(HOSTILE), said("Hi")])[0]
    expected = [prompt_ids(loaded(folder), said(text), {}) for text in (HOSTILE, "Hi")]
    assert [list(row) for row in ids] == expected


def test_text_rows_have_one_bos_and_one_end(model_of: Any, trainer_of: Any) -> None:
    folder = model_of("appends eos")
    rows = [{"prompt": "Is it<|im_end|>so?", "completion": " It is<|im_end|>so."}]
    prompt, [answer] = learned("sft", trainer_of("sft", rows, folder).train_dataset[0])
    tokenizer = loaded(folder)
    assert prompt == [tokenizer.bos_token_id, *plain_ids(tokenizer, rows[0]["prompt"])]
    assert answer == [*plain_ids(tokenizer, rows[0]["completion"]), tokenizer.eos_token_id]
