"""Trainings on a disk that fails: checkpoints that are not whole, writes that do not succeed.

`benchmarks/faults_training.py` kills and fails every file operation; here are a few of them.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from factory.core.errors import FactoryError
from factory.training import TRAINERS
from factory.training.common import checkpoints
from tests.tiny import logged, save, stopped_at, weights_of

CONFIG = {
    "max_steps": 4,
    "learning_rate": 3e-3,
    "save_steps": 1,
    "save_total_limit": 3,
    "logging_steps": 1,
}
ROWS = [{"prompt": f"Is {n} a number?", "completion": " Yes, it is."} for n in range(8)]
PPO = {
    "max_steps": 3,
    "save_steps": 1,
    "save_total_limit": 3,
    "rollout_batch_size": 2,
    "max_completion_length": 4,
    "rewards": [{"kind": "length", "target": 2}],
}


# -- what is whole -------------------------------------------------------------------------------


def make(folder: Path, step: int, *, sealed: bool = True) -> Path:
    """A checkpoint as transformers writes it, of one weight."""
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    tensors = len(header).to_bytes(8, "little") + header + bytes(8)
    (made / "model.safetensors").write_bytes(tensors)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with zipfile.ZipFile(made / name, "w") as archive:
            archive.writestr("data", bytes(range(64)))
    (made / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if sealed:
        checkpoints.seal(made)
    return made


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_empty_short_or_gone_sends_back_to_the_checkpoint_before(
    tmp_path, name, sealed
):
    before, last = make(tmp_path, 1, sealed=sealed), make(tmp_path, 2, sealed=sealed)
    assert checkpoints.newest(tmp_path) == (last, {})
    content = (last / name).read_bytes()
    for harmed in (b"", content[:-1], content[: len(content) // 2]):
        (last / name).write_bytes(harmed)
        assert checkpoints.newest(tmp_path)[0] == before
        assert name in checkpoints.newest(tmp_path)[1][last]
    (last / name).unlink()
    assert checkpoints.newest(tmp_path)[0] == before


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_seen_by_the_seal(tmp_path, name):
    before, last = make(tmp_path, 1), make(tmp_path, 2)
    content = bytearray((last / name).read_bytes())
    content[-2] ^= 1
    (last / name).write_bytes(content)
    assert checkpoints.newest(tmp_path) == (
        before,
        {last: f"{name} has changed since it was written"},
    )


def test_a_broken_seal_and_a_part_that_is_gone_are_no_whole_checkpoint(tmp_path):
    last = make(tmp_path, 2)
    (last / checkpoints.SEAL).write_text("{")
    assert "cannot be read" in checkpoints.problem(last)
    (last / checkpoints.SEAL).unlink()
    index = {"weight_map": {"w": "model.safetensors", "v": "model-2.safetensors"}}
    (last / "model.safetensors.index.json").write_text(json.dumps(index))
    assert checkpoints.problem(last) == "model-2.safetensors is gone"


def test_what_is_no_checkpoint_is_none(tmp_path):
    for name in ("checkpoint-x", "checkpoint-", "other-3"):
        (tmp_path / name).mkdir()
    assert checkpoints.newest(tmp_path) == (None, {})
    assert checkpoints.newest(tmp_path / "nothing") == (None, {})


def test_only_the_newest_are_kept(tmp_path):
    made = [make(tmp_path, step) for step in (2, 10, 1)]
    checkpoints.keep_newest(tmp_path, None)
    checkpoints.keep_newest(tmp_path, 0)
    assert len(checkpoints.all_of(tmp_path)) == 3
    checkpoints.keep_newest(tmp_path, 2)
    assert checkpoints.all_of(tmp_path) == [made[1], made[0]]


# -- going on ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return save(ROWS, tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture(scope="module")
def whole(tiny, rows, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    TRAINERS["sft"].train(rows, tiny, out, config=CONFIG)
    return out


@pytest.fixture(scope="module")
def stopped(tiny, rows, tmp_path_factory) -> Path:
    """With checkpoints of steps 1, 2 and 3."""
    out = tmp_path_factory.mktemp("stopped") / "out"
    with stopped_at(3):
        TRAINERS["sft"].train(rows, tiny, out, config=CONFIG)
    assert [checkpoints.step_of(c) for c in checkpoints.all_of(out / "checkpoints")] == [3, 2, 1]
    return out


def assert_same(out: Path, whole: Path) -> None:
    made, wanted = weights_of(out), weights_of(whole)
    assert all(made[name].equal(weight) for name, weight in wanted.items())
    losses = [[(line["step"], line.get("loss")) for line in logged(x)] for x in (out, whole)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("name", "size", "sealed"),
    [
        ("optimizer.pt", 0, True),
        ("model.safetensors", 5000, True),
        ("rng_state.pth", 0, False),
        ("scheduler.pt", 100, False),
        ("config.json", 0, False),
    ],
)
def test_a_training_goes_on_from_the_checkpoint_before_a_broken_one(
    stopped, whole, tiny, rows, tmp_path, capsys, name, size, sealed
):
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    last = out / "checkpoints" / "checkpoint-3"
    os.truncate(last / name, size)
    if not sealed:
        (last / checkpoints.SEAL).unlink()
    record = TRAINERS["sft"].train(rows, tiny, out, config=CONFIG, resume=True)
    assert record["resumed_at_step"] == 2
    said = capsys.readouterr().err
    assert f"{last} is not whole ({name} " in said
    assert "resuming from" in said
    assert_same(out, whole)


def test_where_no_checkpoint_is_whole_a_training_starts_again(stopped, whole, tiny, rows, tmp_path):
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    for checkpoint in checkpoints.all_of(out / "checkpoints"):
        os.truncate(checkpoint / "optimizer.pt", 0)
    assert (
        TRAINERS["sft"].train(rows, tiny, out, config=CONFIG, resume=True)["resumed_at_step"]
        is None
    )
    assert_same(out, whole)


def test_ppo_goes_on_from_the_checkpoint_before_too(tiny, prompts, tmp_path):
    TRAINERS["ppo"].train(prompts, tiny, tmp_path / "whole", config=PPO)
    out = tmp_path / "out"
    assert checkpoints.newest(tmp_path / "whole" / "checkpoints")[0].name == "checkpoint-3"
    with stopped_gathering(2):
        TRAINERS["ppo"].train(prompts, tiny, out, config=PPO)
    os.truncate(out / "checkpoints" / "checkpoint-2" / "trained.safetensors", 1000)
    assert (
        TRAINERS["ppo"].train(prompts, tiny, out, config=PPO, resume=True)["resumed_at_step"] == 1
    )
    made, wanted = weights_of(out), weights_of(tmp_path / "whole")
    assert all(made[name].equal(weight) for name, weight in wanted.items())


@contextmanager
def stopped_gathering(at: int) -> Iterator[None]:
    """ppo stops before it gathers for step `at`, as by Ctrl+C."""
    from factory.training.ppo.experience import Experience

    gather = Experience.gather

    def stop(self, step, beta):
        if step == at:
            raise KeyboardInterrupt
        return gather(self, step, beta)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experience, "gather", stop)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_a_finished_training_that_lost_its_weights_is_not_called_finished(
    whole, tiny, rows, tmp_path
):
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    assert TRAINERS["sft"].train(rows, tiny, out, config=CONFIG)["steps"] == 4
    os.truncate(out / "model.safetensors", 100)
    with pytest.raises(FactoryError, match=r"model.safetensors has 100 bytes, not \d+: .*put the"):
        TRAINERS["sft"].train(rows, tiny, out, config=CONFIG)
    (out / "model.safetensors").unlink()
    with pytest.raises(FactoryError, match=r"model.safetensors is gone"):
        TRAINERS["sft"].train(rows, tiny, out, config=CONFIG, resume=True)


# -- writes that fail ----------------------------------------------------------------------------


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file grows beyond: what Rust and C++ write fails too, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [100_000, 900_000])
def test_a_checkpoint_that_cannot_be_written_is_one_error_and_no_loss(
    whole, tiny, rows, tmp_path, size
):
    """100,000: the weights do not fit; 900,000: the optimizer does not, which is twice as large."""
    out = tmp_path / "out"
    weights = (whole / "model.safetensors").stat().st_size
    assert 100_000 < weights < 900_000 < 2 * weights
    with (
        files_up_to(size),
        pytest.raises(FactoryError, match=r"Make room where .* with --resume starts again"),
    ):
        TRAINERS["sft"].train(rows, tiny, out, config=CONFIG)
    assert (
        TRAINERS["sft"].train(rows, tiny, out, config=CONFIG, resume=True)["resumed_at_step"]
        is None
    )
    assert_same(out, whole)


def test_a_model_that_cannot_be_written_is_one_error_and_no_loss(
    stopped, whole, tiny, rows, tmp_path
):
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    config = CONFIG | {"save_total_limit": 3}
    with files_up_to(100_000), pytest.raises(FactoryError, match=r"goes on from checkpoint-3"):
        TRAINERS["sft"].train(rows, tiny, out, config=config, resume=True)
    assert not (out / "config.json").exists()
    TRAINERS["sft"].train(rows, tiny, out, config=config, resume=True)
    assert_same(out, whole)


@pytest.mark.parametrize(("call", "code"), [("fsync", errno.EIO), ("replace", errno.ENOSPC)])
def test_each_kind_of_call_that_fails_once_is_one_error(
    whole, tiny, rows, tmp_path, monkeypatch, call, code
):
    """At the first, and near the last: of job.json, and of training.json."""
    real = getattr(os, call)
    calls = 0
    fail_at = -1

    def failing(*given, **more):
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(code, os.strerror(code))
        return real(*given, **more)

    monkeypatch.setattr(os, call, failing)
    config = CONFIG | {"max_steps": 1, "save_strategy": "no"}
    TRAINERS["sft"].train(rows, tiny, tmp_path / "counted", config=config)
    total, out = calls, tmp_path / "out"
    for number in (1, total - 1):
        shutil.rmtree(out, ignore_errors=True)
        calls, fail_at = 0, number
        with pytest.raises(FactoryError, match=r"Make room where .* or fix the disk"):
            TRAINERS["sft"].train(rows, tiny, out, config=config)
        fail_at = -1
        TRAINERS["sft"].train(rows, tiny, out, config=config, resume=True)
        made, wanted = weights_of(out), weights_of(tmp_path / "counted")
        assert all(made[name].equal(weight) for name, weight in wanted.items())


def test_a_base_model_cut_short_is_named(tiny, rows, tmp_path):
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    os.truncate(base / "model.safetensors", 5000)
    with pytest.raises(FactoryError, match=r"no whole safetensors file .*base and get its"):
        TRAINERS["sft"].train(rows, base, tmp_path / "out", config=CONFIG)
