"""A finished run, written without an engine, whose pairs tests review."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
import yaml

from factory.core.records import Candidate, Sample, Verdict
from factory.pipeline import traces
from factory.pipeline.manifest import Manifest
from factory.recipe.load import load
from factory.review import server
from factory.review.journal import Journal
from factory.review.queue import Wanted, in_queue, pairs_of
from factory.review.session import Session
from tests.conftest import CONSTITUTION, RECIPE


def made_run(run: Path, samples: Sequence[Sample], **view: Any) -> Path:
    """A run with these samples and one preference view."""
    run.mkdir(parents=True)
    (run / "prompts.jsonl").write_text('{"prompt": "unused"}\n')
    (run / "kind.yaml").write_text(yaml.safe_dump(CONSTITUTION))
    stages = [*RECIPE["stages"][:1], {"kind": "judge", "model": "policy", "pairs": "all_pairs"}]
    views = [{"kind": "preference", "pairs": "all_pairs", **view}]
    recipe = {**RECIPE, "stages": stages, "views": views}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    part = traces.write_part(run, 0, samples)
    count = len(samples)
    Manifest(
        digest="made",
        source_digest="made",
        part_size=10_000,
        state="finished",
        parts=1,
        rows=count,
        samples=count,
        trace_parts=[part],
    ).save(run)
    return run


def judged(index: int, p: float | None, *texts: str, **more: Any) -> Sample:
    """A prompt with two answers, and the judge's P(the first is better)."""
    first, second = texts or (f"Yes, to number {index}.", f"No, not to number {index}.")
    answers = [Candidate(i, t, "generate", "policy", "") for i, t in enumerate((first, second))]
    is_consistent = more.pop("is_consistent", True)
    verdict = Verdict("judge", 0, 1, p, 0.1, is_consistent, 1.0, ["kind-words"], [])
    prompt = [{"role": "user", "content": f"Is {index} a number?"}]
    return Sample(f"p{index}", index, prompt, candidates=answers, verdicts=[verdict], **more)


def session_of(run: Path, journal: Journal, name: str = "anna", share: float = 0.0) -> Session:
    """A reviewer's session on all pairs of a run."""
    recipe = load(run / "recipe.yaml", trains=False)
    items = in_queue(pairs_of(run, recipe, Wanted()), share)
    return Session(run, 10_000, items, journal, name, recipe.constitution)


@contextlib.contextmanager
def served(session: Session) -> Iterator[str]:
    """The address of the session's page, served by a thread."""
    with server.bound(0) as listening:
        token = server.new_token()
        port = listening.getsockname()[1]
        config = uvicorn.Config(server.app(session, token, port), log_level="error")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/{token}/"
        finally:
            running.should_exit = True
            thread.join()


def asked(
    address: str, path: str = "", value: object = None, **headers: str
) -> tuple[int, Any, Mapping[str, str]]:
    """Status, JSON (or text) and headers of an answer. `value`: what is posted."""
    url = urllib.parse.urlsplit(address)
    assert url.hostname is not None
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    try:
        body = None if value is None else json.dumps(value)
        connection.request("GET" if body is None else "POST", url.path + path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        is_json = "json" in (answer.headers["content-type"] or "")
        return answer.status, json.loads(content) if is_json else content.decode(), answer.headers
    finally:
        connection.close()
