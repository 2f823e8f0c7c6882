"""`factory doctor`: what it looks at, and what it says where something is amiss."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from factory.cli import doctor
from factory.cli.doctor import Finding, examine
from factory.core import weights
from factory.core.errors import EngineError
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _a_model_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "embedded_model", lambda: Path("/models/smol"))


def by_name() -> dict[str, Finding]:
    return {finding.what: finding for finding in examine()}


def test_everything_is_looked_at_once() -> None:
    found = [finding.what for finding in examine()]
    looked_at = ["python", "torch", "transformers", "trl", "datasets", "pyarrow", "vllm"]
    assert found[: len(looked_at)] == looked_at
    assert found[-3:] == ["cpu", "disk", "embedded model"]
    assert len(found) == len(set(found))


def test_a_remedy_is_given_for_what_is_not_fine_and_only_for_that() -> None:
    for finding in examine():
        assert finding.found
        assert bool(finding.remedy) is not finding.is_fine


def test_a_package_of_another_version_is_told_with_the_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda p: "0.1" if p == "trl" else real(p))
    trl = by_name()["trl"]
    assert (trl.found, trl.is_fine) == ("0.1", False)
    assert trl.remedy.startswith("the pinned version is ")


def test_nothing_that_is_missing_stops_the_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(doctor, "version", nothing)
    found = by_name()
    for package in ("torch", "trl", "vllm"):
        assert (found[package].found, found[package].is_fine) == ("not installed", False)
    assert "embedded model" in found


def test_a_build_for_cpus_is_the_pinned_version(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = doctor._pinned()["torch"]
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda p: f"{pinned}+cpu" if p == "torch" else real(p))
    assert by_name()["torch"].is_fine


def test_a_model_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Path:
        raise EngineError("the disk is full; free some space")

    monkeypatch.setattr(weights, "embedded_model", fails)
    model = by_name()["embedded model"]
    assert (model.is_fine, model.remedy) == (False, "the disk is full; free some space")


def test_a_small_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "free_bytes", lambda path: 1 << 30)
    disk = by_name()["disk"]
    assert not disk.is_fine
    assert disk.found.startswith("1 GiB free at ")
    assert "FACTORY_CACHE" in disk.remedy


def test_in_a_clone_the_first_two_commands_are_told(tmp_path: Path) -> None:
    told = dict(doctor.in_clone(ROOT))
    assert set(told) == {"make demo", "make test"}
    assert doctor.in_clone(tmp_path) == []
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "factory"\n')
    (tmp_path / "Makefile").write_text("")
    assert "installs into .venv first" in dict(doctor.in_clone(tmp_path))["make demo"]
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "ready-cpu").write_text("")
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    told = dict(doctor.in_clone(tmp_path))
    assert told["make demo"].startswith("installs nothing more")
    assert told["make demo"].endswith("goes on with runs/demo")
    (tmp_path / "pyproject.toml").write_text("[project\n")
    assert doctor.in_clone(tmp_path) == []


def test_without_the_packages_it_says_how_to_get_them(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-S", "-m", "factory", "doctor"],
        cwd=ROOT,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "is not installed for" in ended.stderr
    assert "make install" in ended.stderr
    assert "Traceback" not in ended.stderr
