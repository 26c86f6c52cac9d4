# SPDX-License-Identifier: Apache-2.0
"""Where the peers live: one virtual environment each in .peers, made once from PyPI with pinned versions."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

PEERS = Path(__file__).resolve().parents[2] / ".peers"
# With torch's own requirements; a peer's own copy of one of them comes first on its path.
_TORCH = (
    "torch", "torchgen", "functorch", "sympy", "mpmath", "networkx", "filelock", "fsspec", "jinja2",
    "markupsafe",
)  # fmt: skip


def make_environment(name: str, requirement: str) -> Path:
    """The folder of the environment, whose `bin` has the peer's commands.

    Args:
        requirement: what pip installs; a change of it makes the environment anew.
    """
    folder = PEERS / name
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != requirement:
        print(f"installing {requirement} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", requirement]
        subprocess.run(pip, check=True, stderr=subprocess.PIPE)
        stamp.write_text(requirement)
    return folder


def lend_torch(folder: Path) -> bool:
    """Let the environment import the torch of this one, so that all systems import the same files.

    It is not installed three times: a folder of links and a .pth file do. False when there is none here.
    """
    try:
        here = Path(str(metadata.distribution("torch").locate_file("")))
    except metadata.PackageNotFoundError:
        return False
    links = folder / "torch"
    links.mkdir(exist_ok=True)
    for name in (*_TORCH, f"torch-{metadata.version('torch')}.dist-info"):
        link = links / name
        if (here / name).exists() and not link.is_symlink():
            link.symlink_to(here / name)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "lent-torch.pth").write_text(f"{links}\n")
    return True
