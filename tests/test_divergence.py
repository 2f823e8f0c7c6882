"""The log-ratio between two tiny models, beside one written out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from factory.engines.render import prompt_ids
from factory.evaluation.divergence import answer_ids, log_ratio

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
    assert found == pytest.approx(expected / len(TEXTS), rel=1e-4)
    assert log_ratio(tiny, tiny, conversations, CUT) == 0
    assert log_ratio(tiny, moved, [], []) is None
