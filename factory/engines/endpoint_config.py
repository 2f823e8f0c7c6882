"""Options of a model behind an HTTP endpoint."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from factory.core.config import Config
from factory.engines.base import Task, WithoutSecrets


class EndpointConfig(Config):
    """Options of a model that is served over HTTP."""

    engine: Literal["endpoint"]
    model: str
    """Name of the served model. Serve new weights under a new name: the ledger identifies them by it."""
    base_url: str | list[str] = Field(min_length=1)
    """One URL, such as `http://localhost:8000/v1`, or several that serve the same model."""
    task: Task = "generate"
    """The served model's task. `classify` (a reward model) and `token_classify` (a
    process reward model) need a vLLM server started with `--runner pooling`."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key. Local servers need none."""
    concurrency: int = Field(64, ge=1, le=1000)
    """Most calls in flight per URL. The HTTP client can hold 1000."""
    timeout: float = Field(600.0, gt=0)
    """Seconds to wait for a whole answer, per try."""
    max_retries: int = Field(8, ge=0)
    """Further tries after a temporary failure: 408, 409, 429, 5xx, no connection, no answer."""
    chat_template_kwargs: WithoutSecrets = {}
    """Arguments for the chat template, such as `{enable_thinking: false}`, if the server takes them."""

    @field_validator("base_url")
    @classmethod
    def _check_urls(cls, value: str | list[str]) -> str | list[str]:
        for url in [value] if isinstance(value, str) else value:
            # Check for secrets first: a URL with one must not appear in a message.
            if "@" in re.split("[/?#]", url.split("://", 1)[-1])[0]:
                raise ValueError("a URL in a recipe must hold no user or password; use api_key_env")
            if "?" in url or "#" in url:
                raise ValueError(
                    "a URL in a recipe must hold nothing after a '?' or '#', since that may be a "
                    "key and recipes are copied into cards; use api_key_env"
                )
            if not _is_http(url):
                raise ValueError(f"'{url}' is not an http:// or https:// URL")
        return value

    @field_validator("api_key_env")
    @classmethod
    def _check_key_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError(
                "expected the name of an environment variable, e.g. OPENAI_API_KEY, and not the key "
                "itself"
            )
        return value

    @property
    def urls(self) -> list[str]:
        """Each URL once, in order, without a slash at its end."""
        urls = [self.base_url] if isinstance(self.base_url, str) else self.base_url
        return list(dict.fromkeys(url.rstrip("/") for url in urls))


def _is_http(url: str) -> bool:
    if not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port, or half of an IPv6 address
        return False
