"""Options of a training: defaults of adapters, and values that nothing can be trained with."""

from __future__ import annotations

import dataclasses
from datetime import date

import msgspec
import pytest

from factory.cli.training import _lora
from factory.core.errors import FactoryError, RecipeError, Renamed
from factory.training import TRAINERS
from factory.training.common import options
from factory.training.common.folder import Job
from factory.training.common.options import build_lora, converted, describe_lora
from factory.training.common.plain_words import Advice, in_plain_words
from factory.training.common.session import Session
from tests.tiny import save

ROWS = [{"prompt": f"Is {n} a number?", "completion": " Yes, it is."} for n in range(4)]


# -- adapters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lora", "alpha"),
    [
        ({"r": 16}, 32),
        ({"r": 4, "lora_dropout": 0.1}, 8),
        ({}, 16),  # peft's rank is 8
        ({"r": 16, "lora_alpha": 16}, 16),
        ({"r": "16", "lora_alpha": 5}, 5),
        ({"r": "16"}, 32),
        ({"r": 16, "use_rslora": True}, 8),
    ],
)
def test_an_adapters_alpha_is_twice_its_rank_unless_it_is_given(lora, alpha):
    assert build_lora(lora).lora_alpha == alpha


def test_the_adapter_is_told_at_the_start_and_recorded(tiny, tmp_path, capsys):
    data = save(ROWS, tmp_path / "rows.jsonl")
    config = {"max_steps": 1, "save_strategy": "no"}
    record = TRAINERS["sft"].train(data, tiny, tmp_path / "out", lora={"r": 4}, config=config)
    assert "lora: r 4, lora_alpha 8, dropout 0, on all-linear" in capsys.readouterr().err
    assert record["lora"] == {"r": 4, "lora_alpha": 8}
    assert "q_proj" in describe_lora(build_lora({"r": 2, "target_modules": ["q_proj"]}))


def test_an_adapter_of_an_older_version_is_another_training_unless_its_alpha_is_given():
    def job(lora: dict | None) -> Job:
        return Job("sft", "d", "1", "m", "2", lora, {})

    new = job(options.with_alpha({"r": 16}))
    told = new.difference(job({"r": 16}))
    assert told == "with lora {'lora_alpha': 8, 'r': 16}, not {'lora_alpha': 32, 'r': 16}"
    assert not job(options.with_alpha({"r": 16, "lora_alpha": 8})).difference(job({"r": 16}))
    assert not job(None).difference(job(None))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"r": 0}, "lora.r: expected a number above 0, found 0"),
        ({"r": -4}, "lora.r: expected a number above 0, found -4"),
        ({"r": True}, "lora.r: expected int, found True"),
        ({"r": None}, "lora.r: expected int, found None"),
        ({"r": 8, "lora_alpha": 0}, "lora.lora_alpha: expected a number above 0, found 0"),
        ({"r": 8, "lora_alpha": float("nan")}, "lora.lora_alpha: expected int"),
        ({"r": 8, "lora_dropout": "much"}, "lora.lora_dropout: expected float, found 'much'"),
        ({"rank": 8}, "LoraConfig has no option 'rank'"),
        ({8: 8}, "LoraConfig has no option '8'"),
        (True, "lora: expected a mapping of options, as {r: 16}, found True"),
        (16, "lora: expected a mapping of options, as {r: 16}, found 16"),
    ],
)
def test_a_wrong_adapter_is_refused(lora, message):
    with pytest.raises(RecipeError) as caught:
        build_lora(lora)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["true", "0", "-1", "[16]", "null", "{r: ["])
def test_a_rank_on_the_command_line_is_a_number(text):
    with pytest.raises(RecipeError, match="expected a rank, as 16"):
        _lora(text)


# -- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sft", "dpo", "kto", "reward", "prm"])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"learning_rate": float("nan")}, "learning_rate: expected a finite number, found nan"),
        ({"learning_rate": "inf"}, "learning_rate: expected a finite number, found inf"),
        ({"learning_rate": -1}, "learning_rate: expected 0 or more, found -1"),
        ({"learning_rate": True}, "learning_rate: expected float, found True"),
        ({"max_steps": -5}, "max_steps: expected 1 or more, or -1"),
        ({"max_steps": 0}, "max_steps: expected 1 or more, or -1"),
        ({"max_steps": 1.5}, "max_steps: expected int, found 1.5"),
        ({"max_steps": 10**400}, "max_steps: expected"),
        ({"num_train_epochs": -1}, "num_train_epochs: expected a number above 0, found -1"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size: expected 1 or more"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps: expected 1 or more"),
        ({"max_length": 0}, "max_length: expected 1 or more, found 0"),
        ({"seed": -1}, "seed: expected 0 or more, found -1"),
        ({"logging_steps": 0}, "logging_steps: expected a number above 0"),
        ({"max_steps": [3]}, "max_steps: expected int"),
    ],
)
def test_a_number_that_nothing_can_be_trained_with_is_refused(kind, config, message):
    with pytest.raises(RecipeError) as caught:
        TRAINERS[kind].check_options(config)
    assert message in str(caught.value)


def test_a_ppo_takes_the_same_numbers():
    rewards = {"rewards": [{"kind": "length", "target": 2}]}
    TRAINERS["ppo"].check_options(rewards | {"max_steps": 2, "save_steps": 0})
    for config in ({"temperature": 0}, {"learning_rate": "nan"}, {"max_steps": 0}):
        with pytest.raises(RecipeError, match="config"):
            TRAINERS["ppo"].check_options(rewards | config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([1], "config: expected a mapping of options, found [1]"),
        ({"run_name": object()}, "config.run_name: expected numbers, text, lists or mappings"),
        ({3: 4}, "config: expected the name of an option, found 3"),
        ({"learning_rate": float("nan")}, "config.learning_rate: expected numbers"),
        ({"rewards": [{"weight": float("inf")}]}, "config.rewards: expected numbers"),
    ],
)
def test_a_config_of_odd_values_is_one_error(tmp_path, tiny, config, message):
    data = save(ROWS, tmp_path / "rows.jsonl")
    with pytest.raises(RecipeError) as caught:
        Session("sft", data, tiny, tmp_path / "out", None, config, False)
    assert message in str(caught.value)


def test_a_date_is_text(tmp_path, tiny):
    data = save(ROWS, tmp_path / "rows.jsonl")
    config = {"run_name": date(2026, 1, 2)}
    session = Session("sft", data, tiny, tmp_path / "out", None, config, False)
    assert msgspec.to_builtins(session._job)["config"] == {"run_name": "2026-01-02"}


@pytest.mark.parametrize("config", [{"dataset_text_field": "prompt"}, {"dataset_kwargs": {"a": 1}}])
def test_options_of_other_data_are_refused(config):
    with pytest.raises(RecipeError, match="are for other data than prompt and completion"):
        TRAINERS["sft"].check_options(config)


# -- paths and errors ----------------------------------------------------------------------------


def test_the_folder_may_be_at_home(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(ROWS, tmp_path / "rows.jsonl")
    config = {"max_steps": 1, "save_strategy": "no"}
    TRAINERS["sft"].train("~/rows.jsonl", tiny, "~/out", config=config)
    assert (tmp_path / "out" / "config.json").is_file()
    with pytest.raises(RecipeError, match="~nobody-of-that-name/out"):
        TRAINERS["sft"].train("~/rows.jsonl", tiny, "~nobody-of-that-name/out", config=config)


def test_whatever_a_library_raises_is_one_message(tiny, tmp_path):
    data = save(ROWS, tmp_path / "rows.jsonl")
    for config in ({"optim": "none"}, {"lr_scheduler_type": "bent"}):
        with pytest.raises(FactoryError, match=r"config"):
            TRAINERS["sft"].train(data, tiny, tmp_path / "out", config=config)
    said = in_plain_words(EOFError("Ran out of input"), "m", {"max_steps": 3}, Advice())
    assert isinstance(said, FactoryError)
    assert "TRL could not do this training: EOFError: Ran out of input" in str(said)
    assert "max_steps: 3" in str(said)
    with pytest.raises(RecipeError, match="config: DPOConfig refused it"):
        options.build(dpo_config(), {"per_device_train_batch_size": object()}, tmp_path)


def dpo_config() -> type:
    from trl import DPOConfig

    class Broken(DPOConfig):
        def __post_init__(self):
            raise OverflowError("too large")

    Broken.__name__ = "DPOConfig"
    return Broken


def test_the_old_name_of_an_option_is_read_with_a_notice():
    @dataclasses.dataclass
    class Options:
        standardize_scores: bool = True

    with pytest.warns(Renamed, match="'standardise_scores' is called 'standardize_scores' now"):
        made = converted(Options, {"standardise_scores": False})
    assert made == {"standardize_scores": False}
