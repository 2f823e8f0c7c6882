"""The factory beside its peers: the same work on one vLLM server, whole runs, in turns.

    python -m benchmarks.peers [NAME ...] [--prompts 48] [--rounds 3] [--minutes 12]

Each contestant takes the same prompts through an answer, a critique and a revision, as one growing
conversation, with the same requests, temperature and number of tokens (`ignore_eos`: all write the
same length). What counts is the whole run: from the start of its process to its end, with the
finished dataset on disk. The server's prefix cache is emptied before each, and its own counters say
how many calls and tokens there were.

A contestant that fails, takes too long or cannot be installed is said so; the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers import server
from benchmarks.peers.environments import Absent, python_of
from factory.core.yamlfile import dump
from factory.stages.base import render
from factory.stages.critique import CRITIQUE_REQUEST
from factory.stages.revise import REVISION_REQUEST

HERE = Path(__file__).parent
PROMPTS = HERE.parents[1] / "pipelines" / "prompts" / "everyday.jsonl"
CRITIQUE = "Point out everything in your last answer that is wrong, vague or needlessly long."
REVISION = "Rewrite your last answer so that it is right, plain and short."
SEQUENCES = 64  # that the server runs at once: more than there are prompts
LONGEST = 240  # seconds for a run
BASELINE = "plain"


class Run(NamedTuple):
    seconds: float
    done: server.Done


Runs = dict[str, list[Run]]


def job(url: str, prompts: int) -> dict[str, Any]:
    """The work, as the scripts read it."""
    lines = PROMPTS.read_text().splitlines()[:prompts]
    return {
        "url": url,
        "model": server.MODEL,
        "prompts": [json.loads(line)["prompt"] for line in lines],
        "columns": ["answer", "critique", "revision"],
        "requests": [
            render(CRITIQUE_REQUEST, instructions=CRITIQUE),
            render(REVISION_REQUEST, instructions=REVISION),
        ],
        "max_tokens": [96, 64, 96],
        "temperature": 0.8,
        "extra_body": {"ignore_eos": True},
        "concurrency": SEQUENCES,
    }


def recipe(work: dict[str, Any], folder: Path, *, judges: bool) -> Path:
    """The work as a recipe of the factory, with its constitution and prompts beside it."""
    rows = [{"prompt": prompt} for prompt in work["prompts"]]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    compare = "Which answer is plainer and shorter without being wrong?"
    principle = {"id": "plain", "title": "Is right, plain and short", "compare": compare}
    principle |= {"critique": CRITIQUE, "revision": REVISION}
    constitution = {"name": "peers", "version": "1.0.0", "principles": [principle]}
    (folder / "constitution.yaml").write_text(dump(constitution))
    policy = {"engine": "endpoint", "model": work["model"], "base_url": work["url"]}
    stages = [
        {
            "kind": kind,
            "model": "policy",
            "sampling": {
                "temperature": work["temperature"],
                "max_tokens": max_tokens,
                "extra": work["extra_body"],
            },
        }
        for kind, max_tokens in zip(
            ["generate", "critique", "revise"], work["max_tokens"], strict=True
        )
    ]
    views = [{"kind": "sft", "truncated": "keep"}]
    if judges:
        stages.append({"kind": "judge", "model": "policy"})
        views.append({"kind": "preference", "pairs": "revision_vs_initial", "truncated": "keep"})
    made = {"name": "peers", "source": {"path": "prompts.jsonl"}}
    made |= {"constitution": "constitution.yaml", "models": {"policy": policy}}
    made |= {"stages": stages, "views": views}
    (folder / "recipe.yaml").write_text(dump(made))
    return folder / "recipe.yaml"


class Contestant(NamedTuple):
    words: str
    command: Callable[[Path, dict[str, Any], Path], list[Any]]
    """Of a Python, the work and a folder to work in: what to run."""
    packages: tuple[str, ...] = ()
    """What it needs, in an environment of its own. Empty: it runs in this one."""
    is_usual: bool = True


def script(name: str, *options: str) -> Callable[[Path, dict[str, Any], Path], list[Any]]:
    def command(python: Path, work: dict[str, Any], folder: Path) -> list[Any]:
        (folder / "job.json").write_text(json.dumps(work))
        return [python, HERE / name, folder / "job.json", folder, *options]

    return command


def factory(*, judges: bool) -> Callable[[Path, dict[str, Any], Path], list[Any]]:
    def command(python: Path, work: dict[str, Any], folder: Path) -> list[Any]:
        made = recipe(work, folder, judges=judges)
        return [python, "-m", "factory", "run", made, "--out", folder / "run"]

    return command


CONTESTANTS = {
    BASELINE: Contestant("plain asyncio client", script("plain_client.py")),
    "factory": Contestant("factory", factory(judges=False)),
    "judged": Contestant("factory, then judged in both orders", factory(judges=True)),
    "distilabel": Contestant(
        "distilabel 1.5.3",
        script("distilabel_pipeline.py"),
        ("distilabel[openai]==1.5.3", "pillow", "requests"),  # which it imports and does not name
    ),
    "data-designer": Contestant(
        "NeMo Data Designer 0.9.6",
        script("data_designer_columns.py"),
        ("data-designer==0.9.6",),
    ),
    "seeded": Contestant(
        "plain client, each request with a seed",
        script("plain_client.py", "--seeded"),
        is_usual=False,
    ),
}


def run(name: str, python: Path, at: server.Server, prompts: int, folder: Path) -> Run:
    """Run one contestant in a new folder. Raises `RuntimeError` if it does not come to its end."""
    folder.mkdir()
    command = CONTESTANTS[name].command(python, job(at.url, prompts), folder)
    # Nobody calls home, writes beside the folder, or compiles its sources again at every start.
    env = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "NEMO_TELEMETRY_ENABLED": "false",
        "DATA_DESIGNER_HOME": str(folder / "home"),
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    at.forget()
    before = at.done()
    with (folder / "printed.txt").open("w+b") as printed:
        began = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
        try:
            code = process.wait(LONGEST)
            seconds = time.perf_counter() - began
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"it took longer than {LONGEST} s") from None
        finally:
            server.end(process)
        if code:
            printed.seek(0)
            words = printed.read().decode(errors="replace")[-1500:]
            raise RuntimeError(f"it ended with {code}; its last words:\n{words}")
    return Run(seconds, at.done().since(before))


def rounds(pythons: dict[str, Path], at: server.Server, folder: Path, given: Any) -> Runs:
    """The runs of each contestant that came to its end in all of them."""
    runs: Runs = {name: [] for name in pythons}

    def turn(name: str, prompts: int, label: str) -> Run | None:
        try:
            made = run(name, pythons[name], at, prompts, folder / f"{name}-{label}")
        except RuntimeError as error:
            print(f"{name} is left out: {error}", flush=True)
            del runs[name]
            return None
        print(f"{label}: {name:<14} {made.seconds:5.1f} s, {made.done.calls} calls", flush=True)
        return made

    for name in pythons:  # what does not work is known, and every file was read once
        turn(name, 2, "warm-up")
    deadline = time.monotonic() + 60 * given.minutes
    took = 0.0
    for number in range(given.rounds):
        began = time.monotonic()
        if began + took > deadline:
            print(f"{number} rounds: another would not end within {given.minutes:g} minutes")
            break
        order = list(runs)
        first = number % max(len(order), 1)  # nobody is always first
        for name in order[first:] + order[:first]:
            if made := turn(name, given.prompts, f"round {number + 1}"):
                runs[name].append(made)
        took = time.monotonic() - began
    return runs


def table(runs: Runs) -> str:
    baseline = runs.get(BASELINE)
    lines = [
        "| | calls | prompt tokens | output tokens | seconds | median | tokens/s | of the plain client |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, made in runs.items():
        middle = statistics.median(each.seconds for each in made)
        done = made[-1].done
        ratio = "-"
        if baseline:
            # Of the same round: the machine may be slower in one than in another.
            pairs = zip(made, baseline, strict=False)
            ratio = f"{statistics.median(ours.seconds / b.seconds for ours, b in pairs):.2f}"
        cells = [
            CONTESTANTS[name].words,
            f"{done.calls}",
            f"{done.prompt_tokens:,}",
            f"{done.output_tokens:,}",
            ", ".join(f"{each.seconds:.1f}" for each in made),
            f"{middle:.1f}",
            f"{done.output_tokens / middle:.0f}",
            ratio,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CONTESTANTS)}")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=12, help="no round begins that ends later")
    given = parser.parse_args()
    if unknown := set(given.names) - set(CONTESTANTS):
        parser.error(f"no contestant {sorted(unknown)}; there are {', '.join(CONTESTANTS)}")
    pythons = {}
    for name, contestant in CONTESTANTS.items():
        if name in given.names or (not given.names and contestant.is_usual):
            try:
                packages = contestant.packages
                pythons[name] = python_of(name, packages) if packages else Path(sys.executable)
            except Absent as error:
                print(f"{name} is left out: {error}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="factory-peers-"))
    try:
        with server.running(folder / "server.log", SEQUENCES) as at:
            runs = rounds(pythons, at, folder, given)
        print(f"\n{given.prompts} prompts x (answer, critique, revision), {SEQUENCES} sequences\n")
        print(table(runs))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
