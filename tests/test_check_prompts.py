"""What `factory validate` says of prompts and of vLLM's names, before an engine starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from factory.core import weights
from factory.core.errors import RecipeError
from factory.engines import vllm_names
from factory.engines.vllm_names import ENGINE_ARGS, SAMPLING_PARAMS, unknown_name
from factory.recipe.check_prompts import check_prompts
from factory.recipe.recipe import Recipe

Load = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        (
            "models.policy.engine_args={tensor_paralel_size: 2}",
            "vLLM's AsyncEngineArgs has no 'tensor_paralel_size'; did you mean 'tensor_parallel_size'?",
        ),
        (
            "stages.0.sampling.extra={logit_bia: {}}",
            r"stages\[0\].sampling.extra.logit_bia: vLLM's SamplingParams has no 'logit_bia'; "
            "did you mean 'logit_bias'?",
        ),
        ("models.policy.reasoning_parser=deepseek_r2", "did you mean 'deepseek_r1'?"),
    ],
)
def test_names_that_vllm_does_not_have(recipe: Load, override: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        recipe(override)


def test_names_that_it_has_are_found_in_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["max_model_len", "enforce_eager", "quantization", "enable_log_requests"]
    assert unknown_name(names, ENGINE_ARGS, "x") is None
    assert unknown_name(["top_k", "logit_bias", "bad_words"], SAMPLING_PARAMS, "x") is None
    monkeypatch.setattr(vllm_names, "find_spec", lambda _: None)  # no vLLM: nothing is refused
    assert vllm_names._source("sampling_params.py") == []
    vllm_names._fields.cache_clear()
    assert unknown_name(["anything"], SAMPLING_PARAMS, "x") is None
    vllm_names._fields.cache_clear()


def test_extra_of_an_endpoint_is_the_servers_affair(recipe: Load) -> None:
    recipe(
        "models.policy={engine: endpoint, model: m, base_url: 'http://h/v1'}",
        "stages.0.sampling.extra={anything: 1}",
    )


def test_a_context_that_no_prompt_fits(recipe: Load, tmp_path: Path) -> None:
    weights.embedded_model()
    prompts = tmp_path / "long.jsonl"
    prompts.write_text("".join(f'{{"prompt": "{"word " * n}"}}\n' for n in (60, 200)))
    source, room = f"source.path={prompts}", "models.policy.max_model_len"
    assert check_prompts(recipe(source, f"{room}=128")) == []  # 60 words and 24 tokens
    with pytest.raises(RecipeError, match=r"stages\[0\]") as caught:
        check_prompts(recipe(source, f"{room}=80"))
    assert "no prompt fits: the shortest has 6" in str(caught.value)
    assert "max_tokens is 24, and the context of 'policy' is 80" in str(caught.value)
    with pytest.raises(RecipeError, match="is 8192"):  # the model's own
        check_prompts(recipe(source, f"{room}=null", "stages.0.sampling.max_tokens=8190"))


def test_tags_that_no_prompt_has(recipe: Load, project: Path) -> None:
    whole = yaml.safe_load((project / "kind.yaml").read_text())
    whole["principles"][0]["applies_when"] = {"tags": ["red-taem"]}
    whole["principles"][1]["applies_when"] = {"tags": ["missing", "everyday"]}
    (project / "kind.yaml").write_text(yaml.safe_dump(whole))
    rows = ['{"prompt": "Hi", "tags": ["red-team"]}', '{"prompt": "Ho", "tags": ["everyday"]}']
    (project / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    assert check_prompts(recipe()) == [
        "principle 'kind-words' never applies: it is for prompts with the tag 'red-taem', and the "
        "prompts have everyday, red-team; did you mean 'red-team'?"
    ]
