"""Training, on a model small enough to be trained in a test. Everything but its size is real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from pydantic import ValidationError

from factory.core.errors import FactoryError, RecipeError
from factory.core.lock import alone_in
from factory.engines.render import transcript
from factory.training import TRAINERS
from factory.training.common import options, trackers
from factory.training.common.folder import Job, TrainingFolder
from factory.training.common.options import resolve
from factory.training.common.progress import make_progress, progress_line
from factory.training.common.references import contents
from factory.training.common.save import rounded
from factory.training.common.session import _in_plain_words
from factory.training.common.tokenizer import transcript_template
from factory.training.config import TrainingConfig
from tests.tiny import dataset, logged, save, stopped_at, weights_of

CONFIG = {"max_steps": 6, "learning_rate": 3e-3, "save_steps": 2, "logging_steps": 1}
ONE_STEP = CONFIG | {"max_steps": 1, "save_strategy": "no"}
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Is {n} a number?"}],
        "chosen": [{"role": "assistant", "content": "Yes, it is."}],
        "rejected": [{"role": "assistant", "content": "No, never, not at all."}],
        "prompt_id": f"p{n}",
    }
    for n in range(8)
]


@pytest.fixture(scope="module")
def tiny(tiny, tmp_path_factory) -> Path:
    """The same in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("tiny") / "bfloat16"))
    AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def preferences(tmp_path_factory) -> Path:
    return save_folder(ROWS, tmp_path_factory.mktemp("preferences"))


@pytest.fixture(scope="module")
def trained(tiny, preferences, tmp_path_factory) -> Path:
    """A finished training, which tests only look at."""
    out = tmp_path_factory.mktemp("trained") / "out"
    TRAINERS["dpo"].train(preferences, tiny, out, config=CONFIG)
    return out


def save_folder(rows: list[dict], folder: Path) -> Path:
    dataset(rows).save_to_disk(str(folder))
    return folder


def copy_without_template(model: Path, folder: Path) -> Path:
    return Path(
        shutil.copytree(model, folder, ignore=shutil.ignore_patterns("chat_template.jinja"))
    )


# -- what a training leaves ----------------------------------------------------------------------


def test_the_margin_rises(trained):
    lines = logged(trained)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[0]["rewards/margins"] == 0  # policy and reference are still the same
    assert lines[-1]["rewards/margins"] > 0.1
    assert lines[-1]["loss"] < lines[0]["loss"] == pytest.approx(0.6931, abs=1e-4)


def test_the_model_loads_in_the_precision_of_its_base(trained, tiny):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(trained)
    assert model.dtype == torch.bfloat16
    base = weights_of(tiny)
    assert any(not torch.equal(weight, base[name]) for name, weight in weights_of(trained).items())
    template = AutoTokenizer.from_pretrained(trained).chat_template
    assert template == AutoTokenizer.from_pretrained(tiny).chat_template != ""


def test_the_record_says_what_was_done(trained, tiny, preferences):
    record = json.loads((trained / "training.json").read_text())
    assert record["kind"] == "dpo"
    assert record["steps"] == 6
    assert record["data"]["path"] == str(preferences)
    assert (record["data"]["rows"], record["data"]["rows_used"]) == (8, 8)
    assert record["base_model"]["name"] == str(tiny)
    assert record["config"]["beta"] == 0.1
    assert record["config"]["learning_rate"] == 3e-3
    assert record["seed"] == 42
    assert record["metrics"]["rewards/margins"] == logged(trained)[-1]["rewards/margins"]
    assert record["versions"]["trl"].startswith("1.")


def test_nothing_but_the_model_and_its_records_is_left(trained, preferences):
    hidden = [path for path in trained.iterdir() if path.name.startswith(".")]
    assert not hidden
    assert not (trained / "checkpoints").exists()
    assert not list(preferences.glob("cache-*"))


def test_a_finished_training_is_not_repeated(trained, tiny, preferences, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    record = TRAINERS["dpo"].train(preferences, tiny, trained, config=CONFIG)
    assert record == json.loads((trained / "training.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before
    assert "finished (6 steps), nothing to do" in capsys.readouterr().err


def test_an_adapter_is_merged_and_kept(tiny, preferences, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    config = CONFIG | {"model_init_kwargs": {"dtype": "float32"}, "save_strategy": "no"}
    TRAINERS["dpo"].train(preferences, tiny, out, lora={"r": 4}, config=config)
    ids = torch.tensor([[1, 5, 9, 200]])
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(out)(ids).logits
        base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, str(out / "adapter"))(ids).logits
    assert torch.allclose(merged, adapted, atol=1e-5)
    assert not torch.allclose(merged, plain, atol=1e-3)


def test_a_model_without_chat_template_learns_transcripts(tiny, preferences, tmp_path, capsys):
    from transformers import AutoTokenizer

    base = copy_without_template(tiny, tmp_path / "base")
    out = tmp_path / "out"
    TRAINERS["dpo"].train(preferences, base, out, config=ONE_STEP)
    assert "no chat template: training on Human/Assistant transcripts" in capsys.readouterr().err
    assert AutoTokenizer.from_pretrained(out).chat_template is None


# -- trackers ------------------------------------------------------------------------------------


@pytest.fixture
def tracked(monkeypatch) -> list[tuple]:
    """What a tracker that transformers knows as `noting` is told: (event, args, step, logs)."""
    from transformers import TrainerCallback, integrations

    told: list[tuple] = []

    class Noting(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            told.append(("begin", args, state.global_step, sorted(kwargs)))

        def on_log(self, args, state, control, logs=None, **kwargs):
            told.append(("log", args, state.global_step, dict(logs)))

        def on_train_end(self, args, state, control, **kwargs):
            told.append(("end", args, state.global_step, None))

    module = integrations.integration_utils
    monkeypatch.setitem(module.INTEGRATION_TO_CALLBACK, "noting", Noting)
    monkeypatch.setattr(integrations, "get_available_reporting_integrations", lambda: ["noting"])
    return told


def test_a_tracker_is_told_what_the_log_says(tiny, preferences, tmp_path, tracked):
    config = CONFIG | {"max_steps": 2, "report_to": "noting"}
    TRAINERS["dpo"].train(preferences, tiny, tmp_path / "my-run", config=config)
    logs = [told for told in tracked if told[0] == "log" and "loss" in told[3]]
    assert [told[2] for told in logs] == [1, 2]
    assert [told[3]["loss"] for told in logs] == [
        line["loss"] for line in logged(tmp_path / "my-run")
    ]
    assert logs[0][1].run_name == "my-run"


def test_a_tracker_of_ppo_is_told_too(tiny, preferences, tmp_path, tracked):

    config = {"max_steps": 2, "report_to": "noting", "run_name": "mine", "rollout_batch_size": 2}
    config |= {"rewards": [{"kind": "length", "target": 2}], "max_completion_length": 4}
    TRAINERS["ppo"].train(preferences, tiny, tmp_path / "out", config=config)
    assert [told[0] for told in tracked] == ["begin", "log", "log", "end"]
    args = tracked[0][1]
    assert (args.run_name, args.to_dict()["cliprange"]) == ("mine", 0.2)
    assert [told[3]["objective/scores"] for told in tracked[1:3]] == [
        line["objective/scores"] for line in logged(tmp_path / "out")
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wnadb", r"no tracker 'wnadb'; did you mean 'wandb'\? \(have: "),
        ("wandb", r"'wandb' is not installed; install its package \(pip install wandb\)"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused(
    tiny, preferences, tmp_path, tracked, name, message
):
    with pytest.raises(RecipeError, match=f"config.report_to: {message}"):
        TRAINERS["dpo"].train(
            preferences, tiny, tmp_path / "out", config=CONFIG | {"report_to": name}
        )
    assert not (tmp_path / "out" / "job.json").exists()


def test_tensorboards_files_stay_with_the_training(monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    with trackers.files_in(Path("out")):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == "out/tensorboard"
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "mine")
    with trackers.files_in(Path("out")):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == "mine"


# -- stopping and going on -----------------------------------------------------------------------


def test_a_killed_training_resumes_to_the_same_weights(trained, tiny, preferences, tmp_path):
    import torch

    out = tmp_path / "out"
    with stopped_at(3):
        TRAINERS["dpo"].train(preferences, tiny, out, config=CONFIG)
    half_written = out / "checkpoints" / "checkpoint-4"
    half_written.mkdir()
    (half_written / "model.safetensors").write_bytes(b"not all of it")
    assert not (out / "config.json").exists()

    record = TRAINERS["dpo"].train(preferences, tiny, out, config=CONFIG, resume=True)

    assert (record["steps"], record["resumed_at_step"]) == (6, 2)
    for name in ("step", "loss", "grad_norm", "learning_rate", "rewards/margins"):
        assert [line[name] for line in logged(out)] == [line[name] for line in logged(trained)]
    for name, weight in weights_of(trained).items():
        assert torch.equal(weight, weights_of(out)[name]), name


WAITING = """
import json, sys
from pathlib import Path
from factory.training.common.child_process import train_in_child_process
from factory.training.config import TrainingConfig
data, model, out, config = sys.argv[1:]
training = TrainingConfig(kind="dpo", config=json.loads(config))
train_in_child_process(training, Path(data), model, Path(out))
"""


def test_a_training_is_killed_with_the_process_that_waits_for_it_and_goes_on_where_it_was(
    tiny, preferences, tmp_path
):
    import torch

    out = tmp_path / "out"
    config = CONFIG | {"max_steps": 60, "save_steps": 10}
    TRAINERS["dpo"].train(preferences, tiny, tmp_path / "whole", config=config)
    command = [sys.executable, "-c", WAITING, str(preferences), str(tiny), str(out)]
    process = subprocess.Popen(
        [*command, json.dumps(config)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as in the tests: sums differ with their number
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        assert any(line.startswith("step 15/") for line in process.stderr)
        with pytest.raises(FactoryError, match="another factory process"), alone_in(out):
            pass
    finally:
        process.kill()
        process.wait()
    process.stderr.read()  # to its end: the training has closed it too
    process.stderr.close()
    assert not (out / "config.json").exists()

    record = TRAINERS["dpo"].train(preferences, tiny, out, config=config, resume=True)

    assert record["steps"] == 60
    assert 10 <= record["resumed_at_step"] < 60
    curves = [
        [(line["step"], line["loss"]) for line in logged(tmp_path / name)]
        for name in ("whole", "out")
    ]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[1]] == list(range(1, 61))
    whole, out = (weights_of(tmp_path / name) for name in ("whole", "out"))
    assert all(torch.equal(weight, out[name]) for name, weight in whole.items())


def test_two_trainings_do_not_write_one_folder(tiny, preferences, tmp_path):
    with (
        alone_in(tmp_path / "out"),
        pytest.raises(FactoryError, match=r"another factory process is working in .*out; wait"),
    ):
        TRAINERS["dpo"].train(preferences, tiny, tmp_path / "out", config=ONE_STEP)
    assert TRAINERS["dpo"].train(preferences, tiny, tmp_path / "out", config=ONE_STEP)["steps"] == 1
    assert not (tmp_path / "out" / ".lock").exists()


def test_two_processes_train_as_one_with_twice_the_batch(tiny, preferences, tmp_path):
    config = CONFIG | {"max_steps": 4}
    TRAINERS["dpo"].train(
        preferences, tiny, tmp_path / "one", config=config | {"per_device_train_batch_size": 4}
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "factory", "train", "dpo", "--data", str(preferences), "--model", str(tiny)]
    command += ["--out", str(tmp_path / "two")]
    for name, value in config.items():
        command += ["--set", f"{name}={value}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.count("trained ") == 1
    for name in ("loss", "grad_norm", "rewards/margins"):
        one, two = ([line[name] for line in logged(tmp_path / n)] for n in ("one", "two"))
        assert two == pytest.approx(one, rel=1e-3, abs=1e-4), name
    assert json.loads((tmp_path / "two" / "training.json").read_text())["steps"] == 4
    assert not (tmp_path / "two" / ".lock").exists()


def test_a_kill_while_the_job_is_written_locks_nobody_out(tiny, preferences, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".lock").touch()
    (out / ".job.json.4242").write_text("{")
    assert TRAINERS["dpo"].train(preferences, tiny, out, config=ONE_STEP)["steps"] == 1
    assert not list(out.glob(".*"))


def test_what_a_config_names_counts_by_its_content(tmp_path):
    def job(config: dict, **changes) -> Job:
        given = Job("ppo", "d", "1", "m", "2", None, config, contents(config))
        return msgspec.structs.replace(given, **changes)

    def model(name: str, weights: bytes) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
        return str(folder)

    one, same, other = model("one", b"1"), model("same", b"1"), model("other", b"2")
    assert not job({"reward_model": one}).difference(job({"reward_model": same}))
    told = job({"reward_model": one}).difference(job({"reward_model": other}))
    assert told == "with another content of config.reward_model"
    entry = {"kind": "reward", "models": {"a": one}}
    assert set(job({"rewards": [entry]}).contents) == {"rewards.0.models.a"}
    assert job({"rewards": [entry]}).difference(job({"rewards": [{**entry, "weight": 2}]}))
    told = job({}, batch=4).difference(job({}, batch=8))
    assert told.startswith("of 8 sequences a step, not 4")
    assert not job({}, batch=4).difference(job({}, batch=None))


def test_going_on_with_another_batch_is_refused(tiny, preferences, tmp_path, monkeypatch):
    with stopped_at(3):
        TRAINERS["dpo"].train(preferences, tiny, tmp_path / "out", config=CONFIG)
    monkeypatch.setitem(options._CPU, "per_device_train_batch_size", 1)  # as another machine has
    with pytest.raises(FactoryError, match="of 2 sequences a step, not 1"):
        TRAINERS["dpo"].train(preferences, tiny, tmp_path / "out", config=CONFIG, resume=True)


def test_a_kill_while_the_result_is_saved_costs_no_step_and_adds_none(tiny, preferences, tmp_path):
    import torch

    out = tmp_path / "out"
    config = CONFIG | {"save_total_limit": 1, "lr_scheduler_type": "constant"}
    done = TRAINERS["dpo"].train(preferences, tiny, out, config=config)
    made = weights_of(out)
    for name in ("training.json", "config.json", "model.safetensors"):
        (out / name).unlink()

    record = TRAINERS["dpo"].train(preferences, tiny, out, config=config, resume=True)

    assert (record["steps"], record["metrics"]) == (done["steps"], done["metrics"])
    assert all(torch.equal(made[name], weight) for name, weight in weights_of(out).items())


def test_an_unfinished_training_is_not_overwritten_unasked(tiny, preferences, tmp_path, capsys):
    config = CONFIG | {"save_steps": 1}
    with stopped_at(1):
        TRAINERS["dpo"].train(preferences, tiny, tmp_path / "out", config=config)
    assert "--resume goes on from" in capsys.readouterr().err
    with pytest.raises(FactoryError, match="checkpoint at step 1; add --resume"):
        TRAINERS["dpo"].train(preferences, tiny, tmp_path / "out", config=config)


def test_resuming_without_a_checkpoint_says_so(tiny, preferences, tmp_path, capsys):
    out, config = tmp_path / "out", CONFIG | {"save_steps": 1}
    with stopped_at(1):
        TRAINERS["dpo"].train(preferences, tiny, out, config=config)
    shutil.rmtree(next(out.rglob("checkpoint-1")))
    TRAINERS["dpo"].train(preferences, tiny, out, config=config, resume=True)
    assert "no whole checkpoint" in capsys.readouterr().err


def test_a_folder_of_another_training_is_refused(trained, tiny, preferences):
    with pytest.raises(FactoryError, match=r"with config.max_steps 6, not 20; name another"):
        TRAINERS["dpo"].train(preferences, tiny, trained, config=CONFIG | {"max_steps": 20})


def test_a_folder_of_something_else_is_refused(tiny, preferences, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(FactoryError, match=r"not a training \(thesis.tex\); name another folder"):
        TRAINERS["dpo"].train(preferences, tiny, tmp_path, config=CONFIG)


def test_a_model_is_published_whole_or_not_at_all(tmp_path):
    folder = TrainingFolder(tmp_path / "out", Job("dpo", "d", "1", "m", "2", None, {}))

    def fail() -> None:
        with folder.held(), folder.publishing() as temporary:
            (temporary / "config.json").write_text("{}")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert {path.name for path in folder.path.iterdir()} == {"job.json", ".lock"}


# -- what is wrong is said before the model loads ------------------------------------------------


def test_missing_columns_are_named_with_what_they_would_do_for(tmp_path):
    data = save_folder([{"prompt": "a", "completion": "b", "label": True}], tmp_path / "kto")
    with pytest.raises(RecipeError) as caught:
        TRAINERS["dpo"].train(data, "no-such-model", tmp_path / "out", config={})
    assert str(caught.value) == (
        f"factory train dpo: the dataset at {data} has no columns 'chosen', 'rejected' "
        "(has: prompt, completion, label); a preference view has them: prompt, chosen, rejected. "
        "These columns are a kto view's: use factory train kto"
    )


def test_one_missing_column_is_one(tmp_path):
    data = save_folder([{"prompt": "a", "rejected": "b"}], tmp_path / "data")
    with pytest.raises(
        RecipeError, match=r"no column 'chosen' \(has: prompt, rejected\); a .* it:"
    ):
        TRAINERS["dpo"].train(data, "no-such-model", tmp_path / "out", config={})


def test_an_empty_dataset_is_refused(tmp_path):
    from datasets import Dataset

    Dataset.from_dict({"prompt": [], "chosen": [], "rejected": []}).save_to_disk(tmp_path / "data")
    with pytest.raises(RecipeError, match="has 0 rows; a run's report counts by reason"):
        TRAINERS["dpo"].train(tmp_path / "data", "no-such-model", tmp_path / "out", config={})


def test_a_folder_that_is_no_dataset_points_to_the_views(tmp_path):
    (tmp_path / "datasets" / "preference").mkdir(parents=True)
    with pytest.raises(RecipeError, match=r"no state.json; a run's views .* has preference"):
        TRAINERS["dpo"].train(tmp_path, "no-such-model", tmp_path / "out", config={})


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="no such file or folder"):
        TRAINERS["dpo"].train(tmp_path / "nothing", "no-such-model", tmp_path / "out", config={})


def test_json_lines_are_a_dataset_too(tiny, tmp_path):
    data = save(ROWS, tmp_path / "pairs.jsonl")
    assert TRAINERS["dpo"].train(data, tiny, tmp_path / "out", config=ONE_STEP)["data"]["rows"] == 8


def test_prompts_that_fill_max_length_are_left_out_and_counted(tiny, tmp_path, capsys):
    long = {**ROWS[0], "prompt": [{"role": "user", "content": "word " * 200}]}
    config = ONE_STEP | {"max_length": 64}
    record = TRAINERS["dpo"].train(
        save_folder([long, *ROWS[:5]], tmp_path / "data"), tiny, tmp_path / "out", config=config
    )
    assert (record["data"]["rows"], record["data"]["rows_used"]) == (6, 5)
    assert "1 of 6 rows left out" in capsys.readouterr().err
    with pytest.raises(RecipeError, match=r"none of the 1 rows is left.*raise config.max_length"):
        TRAINERS["dpo"].train(
            save_folder([long], tmp_path / "long"), tiny, tmp_path / "none", config=config
        )


def test_a_misspelt_option_is_named_with_the_nearest(tiny, preferences, tmp_path):
    with pytest.raises(RecipeError, match="no option 'learning_rat'; did you mean 'learning_rate'"):
        TRAINERS["dpo"].train(preferences, tiny, tmp_path / "out", config={"learning_rat": 1e-5})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "lora", "message"),
    [
        ({"betta": 1}, None, r"config.betta: DPOConfig has no option 'betta'; did you mean 'beta'"),
        ({"max_steps": "few"}, None, r"config.max_steps: expected int, found 'few'"),
        ({"max_length": "x"}, None, r"config.max_length: expected int or nothing, found 'x'"),
        ({"output_dir": "x"}, None, "give --out"),
        ({}, {"rank": 16}, r"lora.rank: LoraConfig has no option 'rank'"),
    ],
)
def test_wrong_options_are_refused(config, lora, message):
    with pytest.raises(RecipeError, match=message):
        TRAINERS["dpo"].check_options(config, lora)


def test_right_options_pass_and_numbers_may_be_text():
    TRAINERS["dpo"].check_options(
        {"learning_rate": "1e-5", "loss_type": "ipo"}, {"r": 16}
    )  # YAML reads 1e-5 as text


def test_what_trl_refuses_is_said_in_its_words(tiny, preferences, tmp_path):
    with pytest.raises(RecipeError, match="TRL refused this training: Label smoothing must be"):
        TRAINERS["dpo"].train(
            preferences, tiny, tmp_path / "out", config=CONFIG | {"loss_type": "exo_pair"}
        )


def test_a_conversation_the_template_refuses_is_said_plainly(tiny, preferences, tmp_path):
    base = copy_without_template(tiny, tmp_path / "base")
    (base / "chat_template.jinja").write_text("{{ raise_exception('no such role') }}")
    with pytest.raises(FactoryError, match="refused a conversation: no such role; look for roles"):
        TRAINERS["dpo"].train(preferences, base, tmp_path / "out", config=ONE_STEP)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_on_a_gpu_half_precision_and_checkpointing_are_the_default(monkeypatch, has_bf16):
    import torch
    from trl import DPOConfig

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    options = resolve(DPOConfig, {"beta": 0.1}, {"beta": 0.2}, is_lora=False)
    assert (options["bf16"], options.get("fp16", False)) == (has_bf16, not has_bf16)
    assert options["gradient_checkpointing"] is True
    assert options["beta"] == 0.2
    assert options["model_init_kwargs"]["dtype"] == "float32"
    assert resolve(DPOConfig, {}, {}, is_lora=True)["model_init_kwargs"]["dtype"] == "auto"
    assert resolve(DPOConfig, {}, {"use_cpu": True}, is_lora=False)["bf16"] is False


def test_a_recipe_names_a_trainer_that_exists():
    assert TrainingConfig(kind="dpo", lora={"r": 16}).view == "preference"
    with pytest.raises(ValidationError):
        TrainingConfig(kind="dop")


# -- the parts -----------------------------------------------------------------------------------


def test_the_training_template_is_the_engines_transcript(model_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.chat_template = transcript_template(tokenizer)
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Bye"},
    ]
    shown = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert shown == transcript(messages)
    answer = {"role": "assistant", "content": "Bye."}
    whole = tokenizer.apply_chat_template([*messages, answer], tokenize=False)
    assert whole == shown + " Bye." + tokenizer.eos_token


def test_rounding_to_bfloat16_keeps_the_expected_value():
    import torch

    # Between 1 and the next bfloat16, 1 + 2**-7, a quarter of the way up.
    weight = torch.full((40_000,), 1 + 2**-9)
    result = rounded(weight, torch.bfloat16, torch.Generator().manual_seed(0))
    assert set(result.tolist()) == {1.0, 1 + 2**-7}
    assert (result > 1).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert rounded(-weight, torch.bfloat16, torch.Generator().manual_seed(0)).equal(-result)


def test_rounding_leaves_an_untrained_weight_as_it_was():
    import torch

    weight = torch.randn(1000).to(torch.bfloat16)
    assert rounded(weight.float(), torch.bfloat16, torch.Generator().manual_seed(0)).equal(weight)


def test_a_line_of_progress():
    logs = {"loss": 0.6931, "rewards/margins": 0.002, "rewards/accuracies": 0.5}
    assert progress_line(5, 20, logs, 3.14) == (
        "step 5/20  loss 0.6931  margin +0.002  acc 0.50  3.1 s/step"
    )


def test_a_loss_that_is_not_a_number_stops_the_training(tmp_path):
    progress = make_progress(tmp_path / "log.jsonl")
    state = SimpleNamespace(global_step=15, max_steps=20, is_world_process_zero=True)
    args = SimpleNamespace(learning_rate=0.5, max_grad_norm=1.0, fp16=True)
    progress.on_train_begin(args, state, None)
    with pytest.raises(FactoryError, match=r"loss was nan at step 15 \(learning_rate 0.5\).*lower"):
        progress.on_log(args, state, None, {"loss": float("nan")})
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 15, "loss": null}\n'


def test_running_out_of_memory_says_what_to_lower():
    import torch

    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    given = {"per_device_train_batch_size": 8, "max_length": 2048}
    said = _in_plain_words(error, "m", given, TRAINERS["dpo"].load().advice)
    assert isinstance(said, FactoryError)
    assert "out of memory (batch 8, max_length 2048)" in str(said)
    assert "halve per_device_train_batch_size" in str(said)


def test_importing_the_trainers_is_instant():
    heavy = "{'torch', 'trl', 'transformers', 'datasets', 'peft', 'numpy', 'pyarrow'}"
    code = f"import sys, factory.training; print({heavy} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


BEFORE_TRL = [
    ("dpo", CONFIG, "finished (6 steps), nothing to do"),
    ("sft", {}, "has no column 'completion'"),
    ("dpo", {"loss_type": "infonca"}, "holds another training, with config."),
    ("kto", {}, "has no columns 'completion', 'label'"),
    ("reward", {}, "holds another training, kind dpo, not reward"),
    ("prm", {}, "has no columns 'completions', 'labels'"),
    ("grpo", {}, "config.rewards: expected a list"),
    ("rloo", {"rewards": [{"kind": "lenth"}]}, "no kind 'lenth'; did you mean 'length'"),
    ("ppo", {"rewards": [], "gama": 1}, "no option 'gama'; did you mean 'gamma'"),
]
TRYING = """
import json, sys
from pathlib import Path
from factory.core.errors import FactoryError
from factory.training import TRAINERS
data, model, out, cases = sys.argv[1:]
for kind, config, _ in json.loads(cases):
    try:
        TRAINERS[kind].train(Path(data), Path(model), Path(out), config=config)
    except FactoryError as error:
        print(error, file=sys.stderr)
    print("--", file=sys.stderr)
    print({"torch", "trl", "transformers"} & set(sys.modules))
"""


def test_what_data_folder_and_rewards_decide_is_said_before_trl_loads(trained, tiny, preferences):
    given = [str(preferences), str(tiny), str(trained), json.dumps(BEFORE_TRL)]
    result = subprocess.run(
        [sys.executable, "-c", TRYING, *given], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["set()"] * len(BEFORE_TRL)
    told = result.stderr.split("--\n")
    assert told.pop() == ""
    for (kind, _, said), words in zip(BEFORE_TRL, told, strict=True):
        assert said in words, kind
