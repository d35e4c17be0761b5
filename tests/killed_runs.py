"""Training runs as programs of their own, on one process or several, that may die without a word after a given step."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

SCRIPT = """
import os, sys
from transformers import TrainerCallback
from handmim.training import {module}
from handmim.training.runs import leave_process_group

recipe, out, deadly = sys.argv[1], sys.argv[2], int(sys.argv[3])

class Death(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == deadly:
            os._exit(9)

class Mortal({module}.{trainer}):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(Death())

{module}.{trainer} = Mortal
{module}.{function}({module}.prepare_recipe(recipe), out)
leave_process_group()
"""


class Runs:
    """Starts runs of one recipe below a folder.

    Args:
        folder: Gets the recipe, the program and the runs' output.
        module: Of `handmim.training`, with `prepare_recipe`.
        trainer: Name of the Trainer that it uses.
        function: Name of what trains there.
        recipe: To be written as YAML.
    """

    def __init__(self, folder: Path, module: str, trainer: str, function: str, recipe: dict[str, Any]) -> None:
        self.folder = folder
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (folder / "script.py").write_text(SCRIPT.format(module=module, trainer=trainer, function=function))

    def start(self, out: str, deadly: int = -1, processes: int = 1) -> int:
        """Train into `out`; the exit status. A run that is not to die after step `deadly` must end well."""
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-port=0"]
            command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        command += [str(self.folder / "script.py"), str(self.folder / "recipe.yaml"), str(self.folder / out)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, str(deadly)], env=environment, capture_output=True, text=True, timeout=600)
        if deadly < 0:
            assert done.returncode == 0, done.stderr[-12000:]
        return done.returncode

    def same_bits(self, first: str, second: str, files: list[str]) -> bool:
        """Whether files of two runs are equal."""
        return all(
            (self.folder / first / name).read_bytes() == (self.folder / second / name).read_bytes() for name in files
        )
