"""What tables of several runs share: `handmim` commands that run once each, and cells with spreads."""

import json
import shlex
import statistics
import time
from pathlib import Path

from handmim.cli import main as handmim


class CommandRuns:
    """Runs commands below a folder, each once, and keeps the commands and how long they took.

    What is there already is not computed again, so that a table can be stopped, continued and extended.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.out.mkdir(parents=True, exist_ok=True)
        self.times_file = self.out / "times.json"
        self.times: dict[str, float] = json.loads(self.times_file.read_text()) if self.times_file.exists() else {}

    def run(self, done: Path, *words: object) -> None:
        """`handmim WORDS`, unless the file `done` is there."""
        if done.exists():
            return
        command = [str(word) for word in words]
        line = shlex.join(["handmim", *command])
        print(line, flush=True)
        with (self.out / "commands.txt").open("a") as file:
            file.write(line + "\n")
        start = time.process_time()
        code = handmim(command)
        if code or not done.exists():
            raise SystemExit(f"exit code {code}, no {done}: {line}")
        key = str(done.relative_to(self.out))
        self.times[key] = self.times.get(key, 0.0) + time.process_time() - start
        self.times_file.write_text(json.dumps(self.times, indent=1))


def options(settings: list[str]) -> list[str]:
    """--set for each."""
    return [word for setting in settings for word in ("--set", setting)]


def cell(numbers: list[float]) -> str:
    """Mean +- standard deviation, or the only value; three digits below 1."""
    if not numbers:
        return ""
    mean = statistics.mean(numbers)
    digits = 3 if abs(mean) < 1 else 2
    return f"{mean:.{digits}f}" + (f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else "")


def markdown(head: str, titles: list[str], lines: dict[str, list[list[float]]]) -> str:
    """A table: the name of each line, then for each column the values of its runs."""
    text = [f"| {head} | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    text += [f"| {name} | {' | '.join(map(cell, columns))} |" for name, columns in lines.items()]
    return "\n".join(text)
