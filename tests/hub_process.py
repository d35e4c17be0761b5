"""Fresh Python processes that talk to the Hub of the tests: HF_ENDPOINT is read once, when the client is imported."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hub_server import HubServer

# Runs first in a process that must not have the package, its children included: Python imports a `sitecustomize` that
# it finds on PYTHONPATH. Finders that an editable install may have added go; the one for sys.path finds no `handmim`.
HIDE_PACKAGE = """
import sys
from importlib.machinery import PathFinder

found = PathFinder.find_spec
def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] == "handmim" else found(name, path, target)
PathFinder.find_spec = classmethod(find_spec)
sys.meta_path[:] = [f for f in sys.meta_path if not hasattr(f, "find_spec") or not f.find_spec("handmim", None)]
"""

# The proof, before the script: neither an import nor a search finds the package.
PROVE_HIDDEN = """
import importlib.util
try:
    import handmim
except ModuleNotFoundError:
    assert importlib.util.find_spec("handmim") is None
else:
    raise SystemExit("the package is not hidden")
"""
RUN = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
TIMEOUT_SECONDS = 300


def run_with_hub(
    hub: "HubServer",
    script: str,
    *args: object,
    package: bool = True,
    offline: bool = False,
    cache: Path,
    token: str | None = "the hub's",
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh process whose Hub is the server of the tests.

    The process has no home directory of its own, no proxy and no other setting of the Hub's client than these; it works
    in `cache`, where nothing of this repository lies.

    Args:
        hub: Running, or stopped: then there is no network.
        script: Python source.
        args: `sys.argv[1:]` of the script.
        package: False: `import handmim` fails, though it is installed.
        offline: Sets HF_HUB_OFFLINE=1.
        cache: HF_HOME: what was downloaded stays here for the next process.
        token: HF_TOKEN; None: nobody is logged in.
        check: Fail, with what the process printed, unless its exit code is 0.
    """
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / "script.py"
    file.write_text(script, encoding="utf-8")
    environment = _environment(hub.url, cache) | {"HF_HUB_OFFLINE": "1" if offline else "0"}
    if token is not None:
        environment["HF_TOKEN"] = hub.token if token == "the hub's" else token
    first = ""
    if not package:
        (cache / "hidden").mkdir(exist_ok=True)
        (cache / "hidden" / "sitecustomize.py").write_text(HIDE_PACKAGE, encoding="utf-8")
        environment["PYTHONPATH"] = str(cache / "hidden")
        first = PROVE_HIDDEN
    command = [sys.executable, "-c", first + RUN, str(file), *map(str, args)]
    result = subprocess.run(
        command, env=environment, cwd=cache, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert not check or result.returncode == 0, f"the process failed:\n{result.stdout}\n{result.stderr}"
    return result


def _environment(url: str, cache: Path) -> dict[str, str]:
    """This process's environment without what would change the client, and with what it needs."""
    ours = ("HF_", "HUGGING", "TRANSFORMERS_", "HANDMIM_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
    return kept | {
        "HF_ENDPOINT": url,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HANDMIM_CACHE": str(cache / "handmim"),
        "HOME": str(cache),
        "OMP_NUM_THREADS": "1",
    }
