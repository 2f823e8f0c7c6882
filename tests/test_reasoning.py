"""Models that think: their thoughts are told from their answers, in process and served alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from factory.core.records import Sample
from factory.engines.reasoning import (
    CLOSE,
    HARMONY,
    KNOWN,
    OPEN,
    Marks,
    Said,
    begun,
    cut,
    marks_after,
    marks_before,
    marks_in,
    thinks,
    thought_tokens,
)
from factory.pipeline.progress import Progress
from factory.pipeline.run import run
from factory.pipeline.traces import read_samples
from factory.recipe.recipe import Recipe
from tests import servers
from tests.thinking import ANSWER, CHAIN, TEMPLATE, THOUGHT, save_chained, thinking_tokenizer

QWEN = Marks(OPEN, CLOSE, "\n")

# -- marks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("<think>\nSo.\n</think>\n\nYes", "either", Said("So.", "Yes", 1)),
        ("So.\n</think>\n\nYes", "thought", Said("So.", "Yes", 1)),
        ("<think>So.</think>Yes", "thought", Said("So.", "Yes", 1)),  # opened twice
        ("So. But then", "thought", Said("So. But then", None, 0)),  # it never ended
        ("<think>\nSo", "either", Said("So", None, 0)),
        ("Yes", "either", Said(None, "Yes")),
        (" Yes</think>", "either", Said(None, " Yes</think>")),
        ("<think> is a tag", "answer", Said(None, "<think> is a tag")),
        ("<think></think>Yes", "either", Said(None, "Yes", 1)),  # an empty thought is none
        ("<think>a</think>\n<think>b</think>Yes", "either", Said("a\n\nb", "Yes", 2)),
        ("<think>a</think></think>Yes", "either", Said("a", "Yes", 2)),
        ("<think>a</think>Use <think>b</think>", "either", Said("a", "Use <think>b</think>", 1)),
    ],
)
def test_a_text_is_split_where_the_prompt_leaves_it(text: str, where: Any, said: Said) -> None:
    assert QWEN.split(text, where) == said


def test_a_thought_that_never_ended_is_a_cut_answer() -> None:
    assert Said("But", None).finished("stop") == ("", "length")
    assert Said("So.", "Yes").finished("stop") == ("Yes", "stop")


def test_stop_strings_are_the_answers() -> None:
    given, ours = QWEN.stops(["Human:", CLOSE], "thought")
    assert (given, ours) == ([CLOSE], ["Human:"])
    assert cut(Said("Human: no", "Yes. Human: hi"), "length", ours) == (
        Said("Human: no", "Yes. "),
        "stop",
    )
    assert QWEN.stops(["Human:"], "answer") == (["Human:"], [])


@pytest.mark.parametrize(
    ("prompt", "prefix", "laid_out"),
    [
        ("assistant\n", begun("So.", "Yes"), "<think>\nSo.\n</think>\n\nYes"),
        ("assistant\n<think>\n", begun("So.", "Yes"), "So.\n</think>\n\nYes"),
        ("assistant\n", "Yes", "<think>\n\n</think>\n\nYes"),
        ("assistant\n<think>\n\n</think>\n\n", "Yes", "Yes"),
        ("assistant\n", "", ""),
    ],
)
def test_words_go_into_the_answer(prompt: str, prefix: str, laid_out: str) -> None:
    pieces, _ = QWEN.layout(prompt, prefix)
    assert "".join(piece.text for piece in pieces) == laid_out


def test_gpt_oss_thinks_in_another_channel() -> None:
    text = (
        "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>Yes"
    )
    assert HARMONY.split(text, "either") == Said("So.", "Yes", 1)
    pieces, where = HARMONY.layout("<|start|>assistant", "Yes")
    assert [piece.text for piece in pieces] == ["<|channel|>final<|message|>", "Yes"]
    assert where == "answer"
    assert marks_after("...<|start|>assistant") is HARMONY


def test_marks_are_found_in_the_template_and_nowhere_else() -> None:
    assert marks_in("{{ m.content.split('</think>')[-1] }}") == KNOWN[0]
    assert marks_in({"default": "x", "tools": "[THINK]"}) == KNOWN[4]
    assert marks_in("{{ m.content }}") is None
    assert marks_in(None) is None
    assert marks_before("<think>So.</think>Yes", "stop") == KNOWN[0]
    assert marks_before("<think> is a tag.", "stop") is None


def test_whether_a_model_thinks_shows_in_its_prompts() -> None:
    opened, left, closed = "<think>\n", "assistant\n", "<think>\n\n</think>\n\n"
    assert thinks(QWEN, opened, off=closed, on=opened)  # DeepSeek-R1
    assert thinks(QWEN, left, off=closed, on=left)  # Qwen3
    assert not thinks(QWEN, closed, off=closed, on=opened)  # Qwen3 with enable_thinking: false
    assert not thinks(QWEN, left, off=left, on=opened)  # its thinking is off unless asked for


def test_tokens_of_a_thought_end_with_its_mark() -> None:
    words = ["So", "it", "is", CLOSE, "Yes", "it", "is"]
    said = Said("So it is", "Yes it is", 1)
    assert thought_tokens(range(7), said, CLOSE, lambda ids: " ".join(words[i] for i in ids)) == 4
    assert thought_tokens(range(7), Said("So", None), CLOSE, str) == 7
    assert thought_tokens(range(7), Said(None, "Yes"), CLOSE, str) == 0


# -- a tiny model that thinks --------------------------------------------------------------------


@pytest.fixture(scope="module")
def thinker(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thinker")
    return save_chained(folder, thinking_tokenizer(tokenizer), CHAIN)


@pytest.fixture(scope="module")
def served(thinker: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Waits for the thinker's server."""
    # What a server's template does at the end of a prompt is asked once: it must be the same for all.
    always = tmp_path_factory.mktemp("template") / "always.jinja"
    always.write_text(
        TEMPLATE.replace("{% elif messages[0].content.startswith('Open') %}", "{% else %}")
    )
    with servers.vllm_server(str(thinker), "--chat-template", str(always)) as ready:
        yield ready


@pytest.fixture(params=["in process", "served"])
def model(request: pytest.FixtureRequest, thinker: Path, served: Callable[[], str]) -> str:
    """The thinker, as a recipe writes it. The server starts while the first case runs."""
    if request.param == "served":
        return f"{{engine: endpoint, model: smol, base_url: '{served()}'}}"
    memory = "engine_args: {kv_cache_memory_bytes: 67108864}"
    return f"{{model: '{thinker}', dtype: float32, max_model_len: 512, {memory}}}"


@pytest.mark.engine
def test_everything_that_reads_answers_sees_answers(
    recipe: Callable[..., Recipe], tmp_path: Path, model: str
) -> None:
    """In process the first sample's prompt opens the thought and the second's leaves that to the model;
    the server opens both. A candidate
    whose thought is cut says nothing, and nobody judges it."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Open it."}\n{"prompt": "Hi."}\n')
    cut_short = "{kind: generate, model: policy, n: 1, sampling: {max_tokens: 4}}"
    made = recipe(
        f"source.path={prompts}",
        f"models.policy={model}",
        "stages.0.sampling={temperature: 0.0, max_tokens: 32, stop: [' No']}",
        "stages.0.n=1",
        "stages.1.sampling={temperature: 0.0, max_tokens: 32}",
        "stages.2.sampling={temperature: 0.0, max_tokens: 32}",
        "stages.3.sampling={max_tokens: 64}",
        f"stages.4={cut_short}",
        "stages.5={kind: judge, name: score, mode: pointwise, model: policy, sampling: {max_tokens: 64}}",
        "views=[{kind: sft, name: dropped, pick: all}, "
        "{kind: sft, name: kept, pick: all, reasoning: keep}]",
    )
    out = tmp_path / "run"
    manifest = run(made, out, progress=Progress(is_quiet=True))
    samples = list(read_samples(out))
    for sample in samples:
        answer, revision, short = sample.candidates
        assert (answer.text, answer.reasoning) == ("We, I do.", THOUGHT)
        assert (revision.text, revision.reasoning) == (ANSWER, THOUGHT)
        assert (short.text, short.finish_reason) == ("", "length")
        assert short.reasoning
        assert 0 < answer.reasoning_tokens < answer.output_tokens
        assert short.reasoning_tokens == short.output_tokens == 4
        [critique] = sample.critiques
        assert (critique.text, critique.reasoning) == (ANSWER, THOUGHT)
        assert THOUGHT not in critique.request
        readings = sample.verdicts[0].readings
        assert {r.reasoning for r in readings} == {THOUGHT}
        # Both orders name the first answer, after the thought: it goes by the place.
        assert [r.p for r in readings] == pytest.approx([1.0, 0.0] * 2, abs=0.01)
        assert [score.candidate for score in sample.scores] == [0, 1]
    assert manifest.stages["generate"].reasoning_tokens == sum(
        sample.candidates[0].reasoning_tokens for sample in samples
    )
    check_rows(out, samples)


def check_rows(out: Path, samples: list[Sample]) -> None:
    from datasets import load_from_disk

    answers = [candidate.text for sample in samples for candidate in sample.candidates[:2]]
    dropped = load_from_disk(str(out / "datasets" / "dropped"))
    assert [row["completion"][0]["content"] for row in dropped] == answers
    kept = load_from_disk(str(out / "datasets" / "kept"))
    assert all(THOUGHT in str(row["completion"]) for row in kept)


@pytest.mark.engine
def test_an_online_reward_sees_the_answer_of_a_policy_that_thinks(thinker: Path) -> None:
    from transformers import AutoTokenizer

    from factory.engines.vllm_reasoning import answer_reader

    tokenizer = AutoTokenizer.from_pretrained(thinker)
    read = answer_reader(tokenizer, {})
    assert read is not None

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return found

    assert read(ids(f"<think>So</think>{ANSWER}<|im_end|>")) == ANSWER
    assert read(ids("<think>So")) == ""
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert answer_reader(tokenizer, {}) is None
