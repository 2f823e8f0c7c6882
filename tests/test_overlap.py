"""A held-out prompt that a training has seen is found, however it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from factory.runner.overlap import shared_prompts
from factory.runner.source import Source, SourceConfig, open_source


def source(folder: Path, name: str, *prompts: Any) -> Source:
    path = folder / name
    path.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    return open_source(SourceConfig(path=name), folder)


def shared(folder: Path, training: list[Any], held: list[Any]) -> list[int]:
    both = source(folder, "train.jsonl", *training), source(folder, "held.jsonl", *held)
    return [sample.index for sample in shared_prompts(*both)]


def test_the_same_words_are_the_same_prompt_whatever_the_spacing_and_unicode_form(
    tmp_path: Path,
) -> None:
    training = ["What  is 1 + 1?\n", "Un caf\u00e9?", "\uff11\uff0b\uff12", "other", ""]
    held = ["new", "What is 1 + 1?", "Un cafe\u0301?", "1+2", "What is 1 + 2?", "", "other"]
    assert shared(tmp_path, training, held) == [1, 2, 3, 6]


def test_turns_count_and_the_system_prompt_does_not(tmp_path: Path) -> None:
    def talk(*turns: tuple[str, str]) -> list[dict[str, str]]:
        return [{"role": role, "content": content} for role, content in turns]

    training = [talk(("system", "Be brief."), ("user", "Hi")), talk(("user", "a"), ("user", "b"))]
    held = ["Hi", talk(("system", "Be kind."), ("user", "Hi")), "b", "a b", "a\nb"]
    assert shared(tmp_path, training, held) == [0, 1]


def test_each_repetition_of_a_held_out_prompt_is_named_and_a_clean_one_is_empty(
    tmp_path: Path,
) -> None:
    assert shared(tmp_path, ["a", "b", "a"], ["a", "c", "a"]) == [0, 2]
    assert shared(tmp_path, ["a", "b"], ["c"]) == []
    assert shared(tmp_path, [], ["c"]) == []
