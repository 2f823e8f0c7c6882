"""The log-ratio between two tiny models, beside one written out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from factory.align import divergence
from factory.align.divergence import answer_ids, log_ratio
from factory.engines.render import prompt_ids

ASKED = {"role": "user", "content": "Is 2 a number?"}
TEXTS = ["Yes, it is.", "", "Yes, and it"]
CUT = [False, False, True]


@pytest.fixture(scope="module")
def moved(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other weights."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("moved") / "model"))
    model = AutoModelForCausalLM.from_pretrained(tiny)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    model.save_pretrained(folder)
    return folder


def test_an_answer_ends_with_the_token_that_ended_it(tiny: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    prompt = prompt_ids(tokenizer, [ASKED], {})
    for text, is_cut in zip(TEXTS, CUT, strict=True):
        messages = [ASKED, {"role": "assistant", "content": text}]
        found = answer_ids(tokenizer, messages, {}, is_cut=is_cut)
        end = [] if is_cut else [tokenizer.eos_token_id]
        assert found == (prompt, tokenizer.encode(text) + end)


def test_the_log_ratio_is_the_mean_over_answers_of_the_sum_over_tokens(
    tiny: Path, moved: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (moved, tiny)]
    expected = 0.0
    for text, is_cut in zip(TEXTS, CUT, strict=True):
        ids = prompt_ids(tokenizer, [ASKED], {})
        answer = tokenizer.encode(text) + ([] if is_cut else [tokenizer.eos_token_id])
        for sign, model in zip((1, -1), models, strict=True):
            with torch.no_grad():
                logp = model(torch.tensor([ids + answer])).logits[0].log_softmax(-1)
            places = range(len(ids) - 1, len(ids) + len(answer) - 1)
            expected += sign * sum(
                logp[at, token].item() for at, token in zip(places, answer, strict=True)
            )
    conversations = [[ASKED, {"role": "assistant", "content": text}] for text in TEXTS]
    assert expected != pytest.approx(0, abs=0.1)
    found = log_ratio(tiny, moved, conversations, CUT)
    assert found is not None
    assert found.value == pytest.approx(expected / len(TEXTS), rel=1e-4)
    assert found.low < found.value < found.high
    same = log_ratio(tiny, tiny, conversations, CUT)
    assert same is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert log_ratio(tiny, moved, [], []) is None


@pytest.fixture(scope="module")
def near(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models saved in bfloat16 that differ by one weight in three thousand, by its last bit."""
    import torch
    from transformers import AutoModelForCausalLM

    folders = []
    for name in ("old", "new"):
        folder = Path(shutil.copytree(tiny, tmp_path_factory.mktemp(name) / "model"))
        model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16)
        if name == "new":
            with torch.no_grad():
                for weight in model.parameters():
                    weight.view(-1)[::3001] *= 1 + 2**-7
        model.save_pretrained(folder)
        folders.append(folder)
    return folders[0], folders[1]


def test_models_saved_in_bfloat16_are_compared_in_float32(near: tuple[Path, Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(near[0])
    texts = [f"Yes, {k} is one of the numbers that I know." for k in range(12)]
    conversations = [[ASKED, {"role": "assistant", "content": text}] for text in texts]
    expected = []
    models = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval() for folder in near
    ]
    for messages in conversations:
        prompt, answer = answer_ids(tokenizer, messages, {}, is_cut=True)
        with torch.no_grad():
            before, after = (
                model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
                for model in models
            )
        at = torch.tensor(answer)[:, None]
        change = after.log_softmax(-1).gather(1, at) - before.log_softmax(-1).gather(1, at)
        expected.append(float(change.sum()))
    found = log_ratio(*near, conversations, [True] * len(texts))
    assert found is not None
    truth = sum(expected) / len(expected)
    # In bfloat16 the mean was off by more than itself.
    assert found.value == pytest.approx(truth, abs=0.02 * abs(truth) + 1e-5)


def test_a_long_answer_is_computed_in_pieces(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    prompt, answer = list(range(5, 20)), list(range(30, 60))
    whole = divergence.log_probability(model, prompt, answer)
    held = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, __, logits: held.append(logits.shape[1]))
    vocabulary = model.config.vocab_size
    monkeypatch.setattr(divergence, "MOST_LOGITS", 7 * vocabulary + 1)
    assert divergence.log_probability(model, prompt, answer) == pytest.approx(whole, rel=1e-6)
    assert held == [7, 7, 7, 7, 2]  # of 30 tokens; none of the prompt's


def test_half_the_memory_gives_what_float32_gives(near: tuple[Path, Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([list(range(5, 40))])
    in_half = AutoModelForCausalLM.from_pretrained(near[0], dtype="auto").eval()
    before = {name: weight.clone() for name, weight in in_half.named_parameters()}
    whole = AutoModelForCausalLM.from_pretrained(near[0], dtype=torch.float32).eval()
    divergence.compute_in_float32(in_half)
    with torch.no_grad():
        logits = in_half(ids).logits
        assert torch.equal(logits, whole(ids).logits)
    assert logits.dtype == torch.float32
    for name, weight in in_half.named_parameters():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, before[name])
