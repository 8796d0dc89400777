"""Where a run came from: code, packages, machine, data; as tags."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from clipkit.tracking.redact import redact

__all__ = ["PACKAGES", "git_state", "machine", "package_versions", "provenance"]

PACKAGES = (
    "clipkit-experiments", "torch", "lightning", "torchmetrics", "timm", "transformers", "tokenizers", "datasets",
    "mlflow", "numpy", "pillow",
)  # fmt: skip
_GIT_SECONDS = 2.0


def provenance(data_fingerprint: str | None = None, device: str = "cpu") -> dict[str, str]:
    """Every tag of a run's origin: git state, package versions, machine, command, and the data's fingerprint.

    Args:
        data_fingerprint: What tells the training data from another set.
        device: What the run computes on, ``cpu`` or ``cuda:0`` and the like.
    """
    tags = (
        git_state(Path.cwd())
        | machine(device)
        | {f"version.{name}": found for name, found in package_versions().items()}
    )
    tags["command"] = redact(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    if data_fingerprint is not None:
        tags["data.fingerprint"] = data_fingerprint
    return tags


def git_state(folder: Path) -> dict[str, str]:
    """Commit, branch and whether there are uncommitted changes, of the checkout that ``folder`` lies in; else nothing.

    ``mlflow.source.git.commit`` is the tag that MLflow's run page shows as the version.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {
        "git.commit": commit,
        "git.branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD") or "",
        "git.dirty": "unknown" if changed is None else str(bool(changed)).lower(),
        "mlflow.source.git.commit": commit,
    }


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions; names that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine(device: str = "cpu") -> dict[str, str]:
    """Python, operating system, host, and what the run computes on, with its name."""
    import torch

    tags = {"python": platform.python_version(), "platform": platform.platform(), "host": platform.node()}
    tags["cuda"] = str(torch.version.cuda)
    if device.startswith("cuda"):  # only then: asking would make a CUDA context in a run on the CPU
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        tags["device"] = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    else:
        tags["device"] = f"cpu, {torch.get_num_threads()} threads" if device == "cpu" else device
    return tags


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, timeout=_GIT_SECONDS, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
