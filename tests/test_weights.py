from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from factory import weights
from factory.errors import RecipeError
from tests.conftest import ROOT

# Converts by writing a file that says who did it; waits for a line on stdin in between.
CONVERTER = """
import os, sys
from factory import weights
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
