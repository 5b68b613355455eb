"""What is installed, found and usable on this machine. It loads no model and prints nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from dataclasses import dataclass
from typing import Final

from omnicap_cli import __version__
from omnicap_cli.core.files.words import gigabytes
from omnicap_cli.engines.registry import ENGINES
from omnicap_cli.errors import OmnicapError

_BASE: Final = ("typer", "orjson", "filelock", "numpy", "pillow", "pypdfium2", "rapidocr", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. `needed` says whether the base install needs it; `fix` is a command."""

    name: str
    ok: bool
    detail: str
    needed: bool = False
    fix: str | None = None


def examine() -> list[Finding]:
    """Look at everything."""
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    found = [Finding(name="omnicap", ok=True, detail=f"{__version__}, {machine}", needed=True)]
    found += [_examine_package(name) for name in _BASE]
    found += [_examine_ocr_models(), *_examine_formats(), _examine_gpus()]
    found += [_examine_engine(name) for name in ENGINES]
    return found


def _examine_package(name: str) -> Finding:
    try:
        return Finding(name=name, ok=True, detail=importlib.metadata.version(name), needed=True)
    except importlib.metadata.PackageNotFoundError:
        fix = f"{sys.executable} -m pip install {name}"
        return Finding(name=name, ok=False, detail="not installed", needed=True, fix=fix)


def _examine_ocr_models() -> Finding:
    from omnicap_cli.engines.rapidocr.engine import builtin_models, find_models

    try:
        models = find_models(builtin_models())
    except OmnicapError as error:
        fix = f"{sys.executable} -m pip install --force-reinstall rapidocr"
        return Finding(name="OCR models", ok=False, detail=error.message, needed=True, fix=fix)
    return Finding(name="OCR models", ok=True, detail=", ".join(file.name for file in models.values()), needed=True)


def _examine_formats() -> list[Finding]:
    from omnicap_cli.media.images import installed_formats

    here = installed_formats()
    fixes = {"AVIF": "pillow", "HEIF": "pillow-heif", "WEBP": "pillow"}
    return [
        Finding(
            name=f"{name} pictures",
            ok=name in here,
            detail="read" if name in here else "not read",
            fix=None if name in here else f"{sys.executable} -m pip install --upgrade {package}",
        )
        for name, package in fixes.items()
    ]


def _examine_gpus() -> Finding:
    if ENGINES["huggingface"].missing:
        found = "an NVIDIA driver, but no torch to use it" if shutil.which("nvidia-smi") else "no NVIDIA driver found"
        return Finding(name="GPU", ok=False, detail=found)
    from omnicap_cli.core.models.machine import read_machine

    try:
        machine = read_machine()
    except OmnicapError as error:
        return Finding(name="GPU", ok=False, detail=error.message, fix=f"{sys.executable} -m pip install -U torch")
    torch = f"torch {machine.torch_version} is built for {machine.built_for or 'the CPU only'}"
    gpus = [f"{gpu.name} ({gigabytes(gpu.free_bytes)} free)" for gpu in machine.gpus]
    gpus += ["Apple GPU"] if machine.has_mps else []
    detail = f"{', '.join(gpus)}; {torch}" if gpus else f"none found, the CPU is used; {machine.gpu_problem or torch}"
    return Finding(name="GPU", ok=bool(gpus), detail=detail)


def _examine_engine(name: str) -> Finding:
    spec = ENGINES[name]
    if not spec.here:
        return Finding(name=f"engine {name}", ok=False, detail="not in this version of omnicap")
    if spec.missing:
        fix = f"{sys.executable} -m pip install 'omnicap[{spec.extra}]'"
        return Finding(name=f"engine {name}", ok=False, detail=f"needs {', '.join(spec.missing)}", fix=fix)
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in spec.packages)
    return Finding(name=f"engine {name}", ok=True, detail=f"ready ({versions})" if versions else "ready")
