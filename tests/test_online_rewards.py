"""Online rewards: by hand where they are rules, against the stages' models where they are not."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import pytest
import yaml

from factory.core.errors import RecipeError
from factory.engines.render import NEXT_TURN, conversation_ids
from factory.training.online.rewards import build_rewards, parse_rewards
from factory.training.online.rewards.local import LocalScorer
from tests.conftest import CONSTITUTION
from tests.servers import FakeServer, completion
from tests.tiny import save_llama

ASKED = [{"role": "user", "content": "What is 2 + 3?"}]


@pytest.fixture
def make_scorer(tokenizer, tmp_path):
    """The folder of a scoring model with random weights."""

    def make(kind: str, labels: int) -> Path:
        changes = {"num_labels": labels, "initializer_range": 0.5, "max_position_embeddings": 100}
        return save_llama(tmp_path / kind, tokenizer, f"LlamaFor{kind}", **changes)

    return make


def totals(entries, *texts, tokens=None, references=None):
    with build_rewards(entries) as rewards:
        ids = None if tokens is None else [[0] * count for count in tokens]
        scored = rewards.score([ASKED] * len(texts), texts, references, ids)
        assert rewards.left_out == scored.left_out
        return scored.totals


# -- rules ---------------------------------------------------------------------------------------


def test_a_target_length_costs_in_proportion_to_what_is_missed():
    entry = {"kind": "length", "target": 4}
    assert totals([entry], "one two three four", "one", "", "1 2 3 4 5 6") == [0, -0.75, -1, -0.5]


def test_a_maximum_length_is_kept_or_not():
    entry = {"kind": "length", "maximum": 3, "unit": "tokens"}
    assert totals([entry], "a", "b", tokens=[3, 4]) == [1, 0]


def test_what_comes_after_an_engines_stop_is_not_scored():
    with build_rewards([{"kind": "length", "target": 2}]) as rewards:
        texts = ["one two\n\nHuman: three four", "\n\nHuman: five", "one two"]
        assert rewards.score([ASKED] * 3, texts).totals == [-1.5, 0, 0]
        rewards.stop = NEXT_TURN
        assert rewards.score([ASKED] * 3, texts).totals == [0, -1, 0]


def test_a_pattern_is_found_or_not():
    entry = {"kind": "format", "pattern": r"(?s)<think>.*</think>\s*\S"}
    assert totals([entry], "<think>so\nthen</think> 5", "<think>so</think>", "5") == [1, 0, 0]


def test_overlong_answers_are_punished_softly():
    """DAPO: nothing up to 12 - 4 tokens, -1 from 12 on, linear between."""
    entry = {"kind": "overlong", "maximum": 12, "cache": 4}
    assert totals([entry], *"abcde", tokens=[1, 8, 9, 12, 20]) == [0, 0, -0.25, -1, -1]


def test_a_rule_that_counts_tokens_needs_counts():
    with pytest.raises(ValueError, match="reward 'overlong' counts tokens"):
        totals([{"kind": "overlong", "maximum": 12, "cache": 4}], "a")


# -- sums, and what has none ---------------------------------------------------------------------


def test_the_total_is_the_weighted_sum_and_parts_are_raw():
    entries = [
        {"kind": "length", "target": 4, "weight": 2.0},
        {"kind": "pattern", "pattern": "5", "name": "five", "weight": 0.5},
        {"kind": "pattern", "pattern": "x", "name": "only-logged", "weight": 0},
    ]
    with build_rewards(entries) as rewards:
        scored = rewards.score(["What?"], [[{"role": "assistant", "content": "5 it is"}]])
        assert rewards.weights == [2, 0.5, 0]
    assert scored.parts == {"length": [-0.25], "five": [1], "only-logged": [0]}
    assert scored.totals == [2 * -0.25 + 0.5 * 1]


def test_right_wrong_and_unread_answers():
    entries = [
        {"kind": "verify", "how": "gsm8k"},
        {"kind": "length", "maximum": 3, "weight": 0.1},
    ]
    with build_rewards(entries) as rewards:
        assert rewards.needs_reference
        texts = ["#### 5", "#### 6", "five", "#### 5"]
        scored = rewards.score([ASKED] * 4, texts, ["5", "5", "5", None])
        assert scored.parts["verify"] == [1, 0, 0, None]
        assert scored.parts["length"] == [1, 1, 1, 1]
        assert scored.totals == [1.1, 0.1, 0.1, None]  # None is never a sum of the rest
        assert scored.left_out == {"failed:verify": 1}
        rewards.score([ASKED], ["#### 5"], [None])
        assert rewards.left_out == {"failed:verify": 2}


def test_what_an_unread_answer_is_worth_can_be_said():
    # Accuracy and format, as commonly combined: the format counts where the answer is not read.
    verify = {"kind": "verify", "how": "gsm8k"}
    form = {"kind": "format", "pattern": "#### 5"}
    texts, known = ["#### 5", "five"], ["5", "5"]
    assert totals([verify, form], *texts, references=known) == [2, 0]
    assert totals([verify | {"unparsed": -1.0}, form], *texts, references=known) == [2, -1]
    with build_rewards([verify | {"unparsed": None}]) as rewards:
        scored = rewards.score([ASKED] * 2, texts, known)
        assert scored.totals == [1, None]
        assert scored.left_out == {"unparsed:verify": 1}


def test_why_a_completion_could_not_be_scored_is_said_once(capsys):
    totals([{"kind": "verify"}], "5", "6", references=[None, None])
    said = capsys.readouterr().err
    assert said.count("could not score a completion") == 1
    assert "no reference answer to check against" in said


def test_an_unread_part_without_weight_leaves_nothing_out():
    unread = {"kind": "verify", "how": "gsm8k", "weight": 0, "unparsed": None}
    entries = [unread, {"kind": "length", "maximum": 3}]
    assert totals(entries, "five", references=["5"]) == [1]


def test_trl_gets_a_function_a_name_from_one_scoring(monkeypatch):
    unread = {"kind": "verify", "how": "gsm8k", "unparsed": None}
    entries = [unread, {"kind": "overlong", "maximum": 3, "cache": 2}]
    with build_rewards(entries) as rewards:
        calls = []
        score = rewards.score
        monkeypatch.setattr(rewards, "score", lambda *rows: calls.append(rows) or score(*rows))
        verify, overlong = rewards.functions()
        assert (verify.__name__, overlong.__name__) == ("verify", "overlong")
        batch = {
            "prompts": [ASKED] * 3,
            "completions": [
                [{"role": "assistant", "content": t}] for t in ("#### 5", "?", "#### 4")
            ],
            "completion_ids": [[1, 2], [1], [1, 2, 3]],
            "reference": ["5"] * 3,
            "tags": [[]] * 3,
            "trainer_state": None,
        }
        assert verify(**batch) == [1, None, 0]
        assert overlong(**batch) == [-0.5, None, -1]  # TRL would sum what is there
        assert len(calls) == 1
        assert overlong(**batch | {"completions": [*batch["completions"]]}) == [-0.5, None, -1]
        assert len(calls) == 2


# -- models --------------------------------------------------------------------------------------


def test_a_reward_models_score_is_that_of_transformers_on_our_ids(make_scorer, tokenizer):
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = make_scorer("SequenceClassification", 1)
    texts = [f"It is {'very ' * n}five." for n in range(20)]  # more than a batch, of all lengths
    found = totals([{"kind": "reward", "model": str(folder), "weight": 2}], *texts)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    for text, value in zip(texts, found, strict=True):
        ids = conversation_ids(tokenizer, [*ASKED, {"role": "assistant", "content": text}], {})
        with torch.no_grad():
            alone = model(torch.tensor([ids])).logits[0, 0].item()
        assert value == pytest.approx(2 * alone, abs=1e-4)
    assert max(found) - min(found) > 0.01


def test_a_conversation_longer_than_the_model_is_left_out(make_scorer, capsys):
    folder = make_scorer("SequenceClassification", 1)
    found = totals([{"kind": "reward", "model": str(folder)}], "short", "long " * 80)
    assert found[0] is not None
    assert found[1] is None
    assert "do not fit the context" in capsys.readouterr().err


def test_a_process_reward_is_the_product_over_its_steps(make_scorer, tokenizer):
    import torch
    from transformers import AutoModelForTokenClassification

    from factory.engines.base import Scoring
    from factory.engines.render import step_ids

    folder = make_scorer("TokenClassification", 2)
    (folder / "training.json").write_text(
        json.dumps({"steps_as": {"separator": "\n\n", "tag": ""}})
    )
    entry = {"kind": "process", "model": str(folder)}
    found = totals([entry], "2 + 3\n= 5", "5", " ")
    assert found[2] == 0  # no steps
    model = AutoModelForTokenClassification.from_pretrained(folder)
    ids, places = step_ids(tokenizer, ASKED, Scoring(("2 + 3", "= 5"), "\n\n", ""), {})
    with torch.no_grad():
        ps = model(torch.tensor([ids])).logits[0, places].softmax(-1)[:, 1]
    assert found[0] == pytest.approx(ps.prod().item(), rel=1e-4)
    other = totals([entry | {"separator": "\n", "aggregate": "last"}], "2 + 3\n= 5")
    assert other[0] != pytest.approx(ps[-1].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "head"), [("reward", "SequenceClassification"), ("process", "TokenClassification")]
)
def test_an_output_that_is_not_finite_is_left_out_and_earns_nothing(
    make_scorer, monkeypatch, capsys, kind, head
):
    folder = make_scorer(head, 1)
    forward = LocalScorer._forward
    odd = [[math.nan]]
    monkeypatch.setattr(LocalScorer, "_forward", lambda self, batch: [odd] * len(batch))
    with build_rewards([{"kind": kind, "model": str(folder)}]) as rewards:
        scored = rewards.score([ASKED], ["5"])
        monkeypatch.setattr(LocalScorer, "_forward", forward)
        assert rewards.score([ASKED], ["5"]).totals != [None]
    assert (scored.totals, scored.left_out) == ([None], {f"failed:{kind}": 1})
    assert "the model's output is not finite" in capsys.readouterr().err


def test_scoring_models_load_once_and_a_wrong_kind_is_refused(make_scorer, monkeypatch):
    folder = make_scorer("SequenceClassification", 1)
    loads = []
    load = LocalScorer._load
    monkeypatch.setattr(LocalScorer, "_load", lambda self: loads.append(self) or load(self))
    with build_rewards([{"kind": "reward", "model": folder.name}], folder.parent) as rewards:
        assert not loads
        first = rewards.score([ASKED], ["5"]).totals
        assert rewards.score([ASKED], ["5"]).totals == first
    with pytest.raises(RecipeError, match=r"\(LlamaForSequenceClassification\) is not a process"):
        build_rewards([{"kind": "process", "model": str(folder)}])


def rating(low: float, high: float):
    tops = [{"token": "0", "logprob": math.log(low)}, {"token": "1", "logprob": math.log(high)}]
    return completion("1", logprobs={"content": [{**tops[0], "top_logprobs": tops}]})


def test_a_judge_is_asked_by_its_rubric_all_at_once():
    other = {"token": "The", "logprob": -0.1}
    unread = completion("The", logprobs={"content": [{**other, "top_logprobs": [other]}]})
    replies = [*[rating(0.2, 0.6)] * 2, unread]
    together = threading.Barrier(3)  # none is answered before all three are asked

    def wait() -> None:
        if len(server.calls) <= 3:
            together.wait(30)

    with FakeServer(*replies, before=wait) as server:
        entry = {"kind": "judge", "model": "smol", "endpoint": server.url, "high": 1}
        entry |= {"estimator": "logprob"}  # else one call more says whether it can
        entry |= {"rubric": "1: it is kind.", "name": "kind", "weight": 4}
        with build_rewards([entry]) as rewards:
            scored = rewards.score([ASKED] * 3, ["a", "b", "c"])
            again = rewards.score([ASKED], ["d"])  # on the same connections
    assert sorted(scored.totals, key=str) == pytest.approx([3.0, 3.0, None])
    assert scored.left_out == {"unparsed:kind": 1}
    assert again.totals == [None]
    assert all("1: it is kind." in call["messages"][0]["content"] for call in server.calls)


def test_a_constitution_is_a_rubric(tmp_path):
    (tmp_path / "kind.yaml").write_text(yaml.safe_dump(CONSTITUTION))
    with FakeServer(rating(0.5, 0.5)) as server:
        entry = {"kind": "judge", "model": "smol", "endpoint": server.url, "high": 1}
        entry |= {"estimator": "logprob"}
        entry |= {"constitution": "kind.yaml"}
        with build_rewards([entry], tmp_path) as rewards:
            assert rewards.score([ASKED], ["a"]).totals == [0.5]
    assert "1. Is kind\n2. Is plain" in server.calls[0]["messages"][0]["content"]


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (None, r"config.rewards: expected a list such as .* found nothing \(kinds: length, "),
        ([], "expected a list such as .* found an empty list"),
        (["verify"], r"config.rewards\[0\]: expected a mapping with a kind, found 'verify'"),
        ([{"kind": "verfy"}], r"rewards\[0\].kind: no kind 'verfy'; did you mean 'verify'"),
        ([{"how": "math"}], r"rewards\[0\].kind: no kind nothing"),
        (
            [{"kind": "verify", "wieght": 2}],
            r"rewards\[0\].wieght: unknown field; did you mean 'weight'",
        ),
        ([{"kind": "verify", "how": "maths"}], r"rewards\[0\].how: .* did you mean 'math'"),
        ([{"kind": "length"}], "give `target` or `maximum`"),
        ([{"kind": "pattern", "pattern": "("}], "is not a regular expression"),
        (
            [{"kind": "overlong", "maximum": 4, "cache": 5}],
            r"cache: expected at most maximum \(4\)",
        ),
        ([{"kind": "reward"}], r"rewards\[0\].model: this field is required"),
        ([{"kind": "verify", "weight": 0}], "all weights are 0"),
        ([{"kind": "verify"}, {"kind": "verify"}], r"rewards\[1\]: there are two .*name: verify2"),
        ([{"kind": "judge", "model": "m", "endpoint": "x"}], r"rewards\[0\].endpoint: 'x' is not"),
        ([{"kind": "process", "model": "m", "steps": "prm"}], r"\[0\].steps: completions have no"),
    ],
)
def test_wrong_entries_are_refused(entries, message):
    with pytest.raises(RecipeError, match=message):
        parse_rewards(entries)


def test_right_entries_pass_and_load_nothing():
    parts = parse_rewards(
        [
            {"kind": "reward", "model": "no/such", "weight": "0.5"},
            {"kind": "verify", "how": "pattern", "pattern": "is (.*)"},
        ]
    )
    assert list(parts) == ["reward", "verify"]
    assert parts["reward"].weight == 0.5
