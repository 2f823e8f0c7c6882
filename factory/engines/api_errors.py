"""Errors of servers: whether and when to try again, and the message for the user.

In: errors of the `openai` client. Out: `SampleError` if another call may succeed, `EngineError` if
none can. No message contains the API key.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from factory.core.errors import EngineError, SampleError
from factory.engines.routing import Server

if TYPE_CHECKING:
    from openai import APIError

_LONGEST_RETRY_AFTER = 300.0  # seconds; the most we wait, even if a server asks for more
# Statuses that concern the request itself: the same request would fail again.
_OF_THE_REQUEST = frozenset({400, 413, 414, 422})
# ... unless the message is about the account: several providers use 400 for that too.
_OF_THE_ACCOUNT = re.compile(
    r"\b(billing|quota|credits?|balance|payment|spending|insufficient_quota|api[ _-]?key)\b", re.I
)
_REMEDIES = {
    402: "top up the account",
    405: "correct base_url, which usually ends in /v1",
    407: "set the proxy's user and password in HTTPS_PROXY",
    410: "the model or the URL is gone: name another",
    423: "unlock the model or the account",
    425: "it was too early",
    451: "the provider may not serve this here: name another model or provider",
}
_REMEDY = "fix what it complains of"


class Refusal(SampleError):
    """A server refused a request because of its contents or its account."""


def may_pass(error: APIError) -> bool:
    """True if the same call may succeed a little later."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, APIConnectionError)


def retry_after(error: APIError) -> float:
    """Seconds that the server asked us to wait, as a number or a date. 0: it did not."""
    response = getattr(error, "response", None)
    asked = response.headers.get("retry-after", "") if response is not None else ""
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(asked).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    # In this order NaN becomes 0.
    return min(max(0.0, seconds), _LONGEST_RETRY_AFTER)


def words(server: Server, error: APIError) -> str:
    """The server's message, or the cause of the failed connection."""
    from openai import APIStatusError

    if not isinstance(error, APIStatusError):
        cause = error.__cause__ or error
        return server.clean(f"{type(cause).__name__} {cause}")
    said = error.body.get("message") if isinstance(error.body, dict) else None
    return server.clean(f"HTTP {error.status_code}: {said or error.response.text}")


def exhausted(servers: Sequence[Server], last: Server, error: APIError, tries: int) -> Exception:
    """The exception to raise when the last try, on `last`, failed too."""
    from openai import APIConnectionError

    tried = f"tried {tries} times, last {last.url}: {words(last, error)}"
    if isinstance(error, APIConnectionError) and all(s.is_failing for s in servers):
        urls = ", ".join(s.url for s in servers)
        return EngineError(
            f"no server answers at {urls} ({tried}); start the server, or correct base_url"
        )
    return SampleError(f"no completion ({tried})")


def refusal(server: Server, error: APIError, model: str, key_name: str) -> Exception:
    """The exception to raise if trying again cannot help. `key_name`: the key's environment variable."""
    status = getattr(error, "status_code", 0)
    said = words(server, error)
    if 300 <= status < 400:
        response = getattr(error, "response", None)
        leads = response.headers.get("location", "") if response is not None else ""
        return EngineError(
            f"{server.url} redirects to {server.clean(leads) or 'nowhere'} (HTTP {status}), which is "
            "not followed; set base_url to where the model is served"
        )
    if status == 401:  # without the server's message: some quote a part of the key
        state = "was refused" if server.key else "is not set, and this server wants a key"
        return EngineError(f"{server.url}: {key_name} {state} (HTTP 401); set it to a valid key")
    if status == 403:
        return EngineError(f"{server.url}: the key in {key_name} may not do this ({said})")
    if status == 404 and model in server.models:
        return EngineError(
            f"{server.url} has the model '{model}' but cannot generate with it ({said}); serve it "
            "without `--runner pooling`, or set its task in the recipe"
        )
    if status == 404:
        return no_model(server, model, f"; it said {said}")
    if status in _OF_THE_REQUEST and not _OF_THE_ACCOUNT.search(said):
        return Refusal(f"{server.url} refused the request: {said}", is_permanent=True)
    remedy = _REMEDIES.get(status, _REMEDY)
    return Refusal(f"{server.url} refused the request: {said}; {remedy}, then run again")


def no_model(server: Server, model: str, said: str = "") -> EngineError:
    have = ", ".join(server.models) or "none named"
    return EngineError(
        f"{server.url} has no model '{model}' (have: {have}{said}); "
        "correct model, or base_url, which usually ends in /v1"
    )
