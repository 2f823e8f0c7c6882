from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from factory.core import weights
from factory.core.errors import EngineError, RecipeError
from factory.engines.vllm import VllmConfig, VllmEngine
from tests.conftest import ROOT

# Converts by writing a file that says who did it; waits for a line on stdin in between.
CONVERTER = """
import os, sys
from factory.core import weights
def convert(gguf, out):
    out.mkdir()
    (out / "config.json").write_text("half")
    print("half", flush=True)
    sys.stdin.readline()
    (out / "config.json").write_text(str(os.getpid()))
weights._convert = convert
print("asking", flush=True)
print(weights.embedded_model() / "config.json", flush=True)
"""


def converter(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CONVERTER],
        cwd=ROOT,
        env={**os.environ, "FACTORY_CACHE": str(cache)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> str:
    return process.communicate("go\n", timeout=60)[0].strip().splitlines()[-1]


def test_two_processes_at_once_convert_once_and_see_it_whole(tmp_path: Path) -> None:
    first = converter(tmp_path)
    assert (read(first), read(first)) == ("asking", "half")
    second = converter(tmp_path)
    assert read(second) == "asking"
    path = go_on(first)
    assert go_on(second) == path
    assert Path(path).read_text() == str(first.pid)


def test_a_conversion_that_was_killed_is_never_used(tmp_path: Path) -> None:
    killed = converter(tmp_path)
    assert (read(killed), read(killed)) == ("asking", "half")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("smollm2")]
    again = converter(tmp_path)
    assert Path(go_on(again)).read_text() == str(again.pid)


def test_the_embedded_model_has_the_right_ends_and_template(model_dir: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)
    assert GenerationConfig.from_pretrained(model_dir).eos_token_id == 2
    assert AutoConfig.from_pretrained(model_dir).pad_token_id == 0
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_a_fingerprint_changes_with_any_byte_that_decides_an_answer(tmp_path: Path) -> None:
    def written(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return weights.fingerprint(tmp_path)

    seen = {
        written("config.json", "{}"),
        written("model.safetensors", "weights"),
        written("model.safetensors", "weightz"),
        written("chat_template.jinja", "x"),
    }
    assert len(seen) == 4
    assert written("README.md", "not a part of the model") in seen


DECIDING = [
    "pytorch_model.bin",
    "model.gguf",
    "consolidated.00.pth",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "qwen.tiktoken",
    "tekken.json",
    "quantize_config.json",
    "modeling_mine.py",
    "additional_chat_templates/tools.jinja",
]


@pytest.mark.parametrize("name", DECIDING)
def test_every_file_that_decides_an_answer_is_in_the_fingerprint(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    seen = [weights.fingerprint(tmp_path)]
    for text in ("one", "two"):
        path.write_text(text)
        seen.append(weights.fingerprint(tmp_path))
    path.rename(path.with_stem("other"))
    seen.append(weights.fingerprint(tmp_path))
    expected = 3 if name in ("merges.txt", "vocab.txt") else 4  # no tokenizer has another name
    assert len(set(seen)) == expected


@pytest.mark.parametrize(
    "name", ["training.json", "job.json", "training_args.bin", "optimizer.pt", "rng_state.pth"]
)
def test_what_a_training_leaves_beside_a_model_is_not_in_its_fingerprint(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = weights.fingerprint(tmp_path)
    (tmp_path / name).write_text("x")
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "model.safetensors").write_text("x")
    assert weights.fingerprint(tmp_path) == before


def test_the_fingerprint_of_a_plain_folder_is_that_of_earlier_versions(tmp_path: Path) -> None:
    for name in (
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ):
        (tmp_path / name).write_text(name)
    # As it was when only such files counted: ledgers of that time stay good.
    assert weights.fingerprint(tmp_path) == "e2cd474a8ba8a52ef92ca5ad707846a9"


def test_a_file_swapped_for_one_of_the_same_size_and_time_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTORY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("factory.core.weights._SETTLED", -1)
    model = tmp_path / "model"
    model.mkdir()
    file = model / "model.safetensors"
    size = (1 << 24) + 1  # large enough to be remembered
    file.write_bytes(b"a" * size)
    stat = file.stat()
    first = weights.fingerprint(model)
    assert (tmp_path / "cache" / "hashes.json").exists()
    with file.open("r+b") as opened:
        opened.write(b"b")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (size, stat.st_mtime_ns)
    assert weights.fingerprint(model) != first


def test_a_model_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(EngineError, match=r"cannot be read.*gone"):
        weights.fingerprint(tmp_path)


def test_what_an_engine_reads_from_elsewhere_is_in_its_fingerprint(tmp_path: Path) -> None:
    for name in ("model", "tokenizer"):
        (tmp_path / name).mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    told = {"tokenizer": str(tmp_path / "tokenizer"), "revision": "main"}

    def found(engine_args: dict[str, str]) -> str:
        config = VllmConfig(model=str(tmp_path / "model"), engine_args=engine_args)
        return VllmEngine(config).fingerprint

    assert found({"revision": "main"}).endswith("{'revision': 'main'}]")  # as of earlier versions
    seen = {found(told)}
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("x")
    seen.add(found(told))
    config_file = tmp_path / "other.json"
    for text in ("one", "two"):
        config_file.write_text(text)
        seen.add(found({**told, "hf_config_path": str(config_file)}))
    assert len(seen) == 4


def test_a_local_model_is_found_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    assert weights.resolve("mine", tmp_path) == tmp_path / "mine"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere"])
def test_a_path_that_is_no_model_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such folder"):
        weights.resolve(name, tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"has no config\.json"):
        weights.resolve("empty", tmp_path)
