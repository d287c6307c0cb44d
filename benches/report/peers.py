"""Other products, from npm. The lock file pins their versions and contents."""

import shutil
import subprocess
from pathlib import Path

from programs import CACHE

HERE = Path(__file__).parent / "peers"


def install():
    """Installs the packages in the cache, and returns their directory."""
    directory = CACHE / "npm"
    lock = HERE / "package-lock.json"
    installed = directory / "package-lock.json"
    if not (directory / "complete").exists() or installed.read_bytes() != lock.read_bytes():
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(HERE, directory)
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                       cwd=directory, check=True)
        (directory / "complete").touch()
    return directory / "node_modules"
