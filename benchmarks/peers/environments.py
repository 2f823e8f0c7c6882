"""An environment of its own for each peer, made once from the package index and then kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_FOLDER = Path(__file__).parents[2] / "build" / "peers"
_INSTALL_WITHIN = 600  # seconds


class Absent(Exception):
    """The peer cannot be had here."""


def python_of(name: str, packages: Sequence[str]) -> Path:
    """The Python of the environment of that name, which holds the packages, as `distilabel==1.5.3`.

    Raises `Absent` if there is none and it cannot be made.
    """
    folder = _FOLDER / name
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists() or ready.read_text().split() != [*packages]:
        shutil.rmtree(folder, ignore_errors=True)
        print(f"making an environment with {' and '.join(packages)}, once", flush=True)
        _uv("venv", "--python", sys.executable, str(folder))
        _uv("pip", "install", "--python", str(python), "--compile-bytecode", *packages)
        ready.write_text("\n".join(packages))
    return python


def _uv(*arguments: str) -> None:
    command = [sys.executable, "-m", "uv", *arguments, "--quiet"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_WITHIN)
    except subprocess.CalledProcessError as error:
        raise Absent(error.stderr.strip() or f"uv ended with {error.returncode}") from error
    except subprocess.TimeoutExpired as error:
        raise Absent(f"not installed within {_INSTALL_WITHIN} s") from error
