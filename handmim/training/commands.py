"""The commands of training and data sets: their options here, what they do in the modules they name.

Nothing heavy is imported before a command runs.
"""

from typing import Any


def add_commands(commands: Any) -> None:
    """Add this package's commands to the command line (the sub-parsers of `handmim`)."""
