# ruff: noqa: E501
"""Hostile recipes, constitutions and `--set` texts: each must end in one message, and soon.

    python -m benchmarks.hostile_recipes [--count 1000] [--seed 0] [--show 5]

Every case is a shipped recipe, or one that names every kind of stage, with one to three things done
to it that a user, an editor or an attacker may do: values of wrong types and sizes, odd YAML tags,
broken text, aliases that multiply, fields in the wrong place. A case passes if it loads, or ends in
a `RecipeError`, within a second.
"""

from __future__ import annotations

import argparse
import collections
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from factory.core.errors import FactoryError
from factory.recipe.load import load

ROOT = Path(__file__).parents[1]
LIMIT = 1.0  # seconds a case may take

EVERYTHING = """\
name: everything
seed: 3
source: {path: prompts.jsonl, limit: 2, columns: {prompt: question}, system: Be kind.}
constitution: constitution.yaml
max_failure_rate: 0.5
part_size: 16
models:
  policy: {engine: vllm, model: smollm2-135m-instruct, max_model_len: 2048, engine_args: {seed: 1}}
  far: {engine: endpoint, model: far, base_url: ["http://127.0.0.1:9/v1"], timeout: 5.0}
  rm: {engine: endpoint, model: rm, base_url: "http://127.0.0.1:9/v1", task: classify}
  prm: {engine: endpoint, model: prm, base_url: "http://127.0.0.1:9/v1", task: token_classify}
stages:
  - {kind: generate, model: policy, n: 2, sampling: {temperature: 0.7, stop: [a], extra: {}}}
  - {kind: critique, model: policy, few_shot: 1, template: "{{ instructions }}"}
  - {kind: revise, model: policy}
  - {kind: filter, refusals: true, duplicates: true}
  - {kind: judge, model: far, principles: 2}
  - {kind: judge, mode: pointwise, model: far, name: points}
  - {kind: reward, models: {helpful: rm}, combine: minimum}
  - {kind: process, model: prm, split: newline, aggregate: product}
  - {kind: verify, how: exact}
  - {kind: rule, rule: {kind: length, target: 30}}
views:
  - {kind: preference}
  - {kind: sft, pick: best, score: verify}
  - {kind: grpo}
training:
  - {kind: dpo, model: policy, lora: {r: 4}, config: {max_steps: 2}}
evaluation: {source: {path: prompts.jsonl}, model: policy, judge: far, scores: [{kind: verify}]}
"""
CONSTITUTION = """\
name: kind
version: 1.0.0
principles:
  - id: kind-words
    title: Is kind
    critique: Say what is unkind.
    revision: Rewrite it so that it is kind.
    compare: Which answer is kinder?
    weight: 1.0
    applies_when: {tags: [advice]}
examples:
  - {prompt: a, answer: b, critique: c, revision: d}
"""
VALUES = (
    "!!int abc", "!!int ''", "!!float x", "!!bool x", "!!null x", "!!timestamp x", "!!timestamp 2020-99-99",
    "!!binary '*'", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!pairs x", "!!omap x", "!!str {a: 1}",
    "!!map x", "!!seq x", "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!x y", "! y",
    "0x_", "0b_", "0b2", "0o8", "0_", "-_", "1_000", "190:20:30", "1:2:3.4", "._", "+.inf", "-.inf", ".nan", ".NaN",
    '"\\U00110000"', '"\\ud800"', '"\\x00"', '"\\u0007\\e[31m"', '"\\N\\_\\L\\P"', "1e999", "-1e999", "1e-999",
    "123456789012345678901234567890", "-9223372036854775809", "18446744073709551616", "9" * 5000, "0x" + "f" * 5000,
    "0.1", "-1", "0", "1", "2147483648", "4294967296", "1.5", "true", "null", "~", "''", "' '", "[]", "{}", "[[[]]]",
    "{a: {b: {c: {}}}}", "[null]", "[1, a, {}]", "{null: 1}", "{1: 2}", "{true: x}", "{[a]: b}", "{? a : b}",
    "&x [*x]", "&x {a: *x}", "*nowhere", "{<<: 3}", "{<<: [1, 2]}", "{<<: {a: 1}}", "<<", "=", "%", "@", "`", "|", ">",
    "'unclosed", '"unclosed', "[unclosed", "{unclosed", "a: b: c", "- x", "? x", "---", "...", "#", "\t", "x" * 100_000,
    "'{{ 9**9**9**9 }}'", "'{{ \"a\" * 10**10 }}'", "'{% for i in range(10**9) %}{% endfor %}'", "'{{ x.y.z }}'",
    "'{{ ().__class__.__mro__ }}'", "'{% include \"x\" %}'", "'{{'", "'{% raw %}'", "'(a+)+$'", "'['", "'(?P<'",
    "../../../etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/mem", "~nobody/x", "~", "file:///x", "a/b/c/d",
    "'a\\0b'", "trained:", "trained:x", "os:system", ":", "a:", ":a", "builtins:object", "this_is:Nothing",
    "smollm2-135m-instruct", "policy", "far", "HTTP://x", "http://", "http://[::1", "http://a b", "http://x:99999",
    "http://u:p@x/v1", "https://x/v1?api_key=1", "\u202eevil", "é", "e\u0301", "\U0001f600", "\ufeff", "2020-01-01",
)  # fmt: skip
ODD_TEXT = (
    "\0", "\x1b", "\x7f", "\u0085", "\u2028", "\ufeff", "\ud7ff", "\ufffe", "\t", "\r", "- ", ": ", "? ", "&a ", "*a ",
    "!!int ", "<<: ", "%YAML 9.9\n", "---\n", "...\n", "{", "}", "[", "]", ",", "'", '"', "|", ">", "#", "@", "`",
)  # fmt: skip


def bombs() -> dict[str, str]:
    """Whole files that grow when they are read."""
    names = "abcdefghijklmnop"
    bomb = "\n".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9) if before else 'lol'}]"
        for before, name in zip(("", *names), names, strict=False)
    )
    return {
        "alias bomb": f"{bomb}\n{EVERYTHING}",
        "alias bomb in a field": f"{bomb}\nname: *p\n",
        "merge bomb": "\n".join(
            f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}], x{name}: 1}}"
            if before
            else f"{name}: &{name} {{k: 1}}"
            for before, name in zip(("", *names), names, strict=False)
        ),
        "100,000 keys": EVERYTHING + "".join(f"key{i}: {i}\n" for i in range(100_000)),
        "100,000 models": EVERYTHING.replace(
            "stages:", "".join(f"  m{i}: {{model: x}}\n" for i in range(100_000)) + "stages:"
        ),
        "100,000 stages": EVERYTHING.replace(
            "views:", "  - {kind: nothing}\n" * 100_000 + "views:"
        ),
        "100,000 good stages": EVERYTHING.replace(
            "views:", "  - {kind: rank}\n" * 100_000 + "views:"
        ),
        "deep lists": "name: " + "[" * 50_000,
        "deep mappings": "name: " + "{a: " * 5_000 + "}" * 5_000,
        "deep blocks": "\n".join(" " * i + "a:" for i in range(3_000)),
        "many documents": "---\na: 1\n" * 10_000,
        "many anchors": "".join(f"a{i}: &a{i} x\n" for i in range(50_000)),
        "one long line": "name: " + "x" * 5_000_000,
        "spaces": " " * 5_000_000 + "name: x",
        "newlines": "\n" * 1_000_000 + "name",
        "quotes": "name: " + "'" * 100_000,
        "nothing": "",
        "NULs": "\0" * 1000,
        "binary": "".join(map(chr, range(1, 256))),
        "a list": "- a\n- b\n",
        "a number": "7",
    }


def case(seed: int) -> tuple[str, str, list[str]]:
    """(recipe's text, constitution's text, `--set` texts) of one case."""
    rng = random.Random(seed)
    shipped = sorted((ROOT / "pipelines").glob("*.yaml"))
    recipe = EVERYTHING if rng.random() < 0.7 else rng.choice(shipped).read_text()
    constitution, overrides = CONSTITUTION, []
    for _ in range(rng.randint(1, 3)):
        where = rng.random()
        if where < 0.7:
            recipe = _harm(recipe, rng)
        elif where < 0.85:
            constitution = _harm(constitution, rng)
        else:
            overrides.append(_override(recipe, rng))
    return recipe, constitution, overrides


def _harm(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    i = rng.randrange(len(lines))
    line = lines[i]
    match rng.randrange(10):
        case 0 | 1 | 2 | 3:  # another value for a field
            fields = [at for at in range(len(line)) if line.startswith(": ", at)]
            if fields:
                at = rng.choice(fields) + 2
                ends = [len(line), *(k for k in range(at, len(line)) if line[k] in ",}")]
                lines[i] = line[:at] + rng.choice(VALUES) + line[min(ends[-1:] + ends[1:2]) :]
        case 4:
            lines[i] = f"{line.split(':')[0]}: {rng.choice(VALUES)}"
        case 5:
            del lines[i]
        case 6:
            lines.insert(i, rng.choice(lines))
        case 7:
            at = rng.randrange(len(line) + 1)
            lines[i] = line[:at] + rng.choice(ODD_TEXT) + line[at:]
        case 8:
            lines[i] = " " * rng.randrange(5) + line.lstrip()
        case 9:
            lines.insert(
                i,
                f"{rng.choice(['', '  ', '    '])}{rng.choice(VALUES[:60])}: {rng.choice(VALUES)}",
            )
    return "\n".join(lines)


def _override(text: str, rng: random.Random) -> str:
    names = [
        "name",
        "seed",
        "source.limit",
        "source.columns",
        "models.policy",
        "stages.0.n",
        "stages[1]",
    ]
    names += [
        "stages.99.x",
        "views",
        "views.0.kind",
        "training.0.config.a.b",
        "evaluation.source.path",
    ]
    names += [
        "",
        ".",
        "a..b",
        "stages.-1",
        "stages.x",
        "models.policy.engine_args",
        "constitution",
        "part_size",
    ]
    equals = "" if rng.random() < 0.05 else "="
    return f"{rng.choice(names)}{equals}{rng.choice(VALUES)}"


class Hang(BaseException):
    """A case took longer than it may."""


def outcome(
    folder: Path, text: str | bytes, constitution: str, overrides: list[str], limit: float = LIMIT
) -> str:
    """`loads`, `refused`, `hang`, or the traceback's last lines."""
    (folder / "prompts.jsonl").write_text('{"question": "Hi?", "prompt": "Hi?"}\n')
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    (folder / "recipe.yaml").write_bytes(raw)
    (folder / "constitution.yaml").write_bytes(constitution.encode("utf-8", "surrogatepass"))

    def too_long(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, 10 * limit)
    began = time.process_time()
    try:
        recipe = load(folder / "recipe.yaml", overrides)
        # What a run does with a recipe before it asks a model.
        recipe.movable(), recipe.digest({}), recipe.views_digest(), recipe.stage_labels()
        said = "loads"
    except FactoryError as error:
        said = "refused" if str(error).strip() else "an empty message"
        if len(str(error)) > 20_000:
            said = f"a message of {len(str(error))} characters"
        if any(word in str(error) for word in ("Traceback", "object at 0x", "<class")):
            said = f"a riddle: {error}"
    except Hang:
        said = "hang"
    except BaseException as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {str(error)[:100]} ({Path(at.filename).name}:{at.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    seconds = time.process_time() - began
    return said if seconds < limit or said == "hang" else f"slow: {seconds:.1f} s ({said})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=20, help="failures to show")
    options = parser.parse_args()
    import datasets  # noqa: F401  # a name that is no file is looked for on the Hub; loading takes seconds

    outcomes: collections.Counter[str] = collections.Counter()
    shown = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = [(what, (text, CONSTITUTION, [])) for what, text in bombs().items()]
        cases += [
            (str(options.seed + i), case(options.seed + i))
            for i in range(options.count - len(cases))
        ]
        for what, parts in cases:
            said = outcome(folder, *parts)
            is_fine = said in ("loads", "refused")
            outcomes[said if is_fine else said.split(":")[0]] += 1
            if not is_fine and shown < options.show:
                shown += 1
                print(f"{what}: {said}")
    print(", ".join(f"{count} {said}" for said, count in outcomes.most_common()))
    sys.exit(set(outcomes) - {"loads", "refused"} != set())


if __name__ == "__main__":
    main()
