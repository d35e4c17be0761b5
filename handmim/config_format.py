"""What the configurations of all families share: the version of what config.json means, and checks of common fields.

An older package must say that a newer file is beyond it, not misread it.
"""

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from .errors import ModelError

# Raised when a field changes its meaning or a network is built otherwise than the same fields said before; not for a
# new field whose default is what was done before.
FORMAT_VERSION = 1


def check_format_version(config: dict[str, Any], source: object = None) -> None:
    """Whether this package can read a config.json.

    It is asked before any field is looked at: a newer file may have fields, or values of them, that are unknown here. A
    file without a version is of version 1. What is no number is left to the strict check of the field.

    Args:
        config: The contents of config.json.
        source: Folder or Hub id, for the message; None: not known.

    Raises:
        ModelError: The file is of a newer version.
    """
    version = config.get("format_version", 1)
    if isinstance(version, int) and version > FORMAT_VERSION:
        where = f"config.json of {source}" if source else "config.json"
        raise ModelError(
            f"{where} has format version {version}, and this handmim reads versions up to {FORMAT_VERSION}; "
            "update it: pip install -U handmim"
        )


def overridden(
    cls: type[PreTrainedConfig], config: dict[str, Any], kwargs: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A config.json with the fields that `from_pretrained` was given besides, and the arguments that are none.

    transformers would set them after all checks, and without what a constructor makes of them.
    """
    own = cls.__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys()
    given = {name: value for name, value in kwargs.items() if name in own}
    return config | given, {name: value for name, value in kwargs.items() if name not in own}


def validate_format_version(version: int) -> None:
    """The check of the field itself.

    Raises:
        ValueError: It is not from 1 to this package's version.
    """
    if isinstance(version, bool) or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(f"format_version must be from 1 to {FORMAT_VERSION}, got {version}")


def change_field(config: PreTrainedConfig, name: str, value: Any) -> None:
    """Another value of a field, if all of the configuration still fits together.

    Raises:
        ValueError: It does not; nothing is changed.
    """
    before = getattr(config, name)
    try:
        setattr(config, name, value)
        config.validate()
    except (ValueError, StrictDataclassError) as error:  # of the field's value, or of its type
        setattr(config, name, before)
        raise ValueError(str(error.__cause__ or error)) from error


def validate_score(head: bool, hidden_size: int) -> None:
    """The check of the fields `score_head` and `score_hidden_size`, which both families have.

    Raises:
        ValueError: A hidden layer of a score that is not there, or of a negative width.
    """
    if hidden_size < 0 or (hidden_size and not head):
        raise ValueError(f"score_hidden_size must be 0, or with score_head=True a width, got {hidden_size}")


def validate_fit(steps: int, turn: float, possible: bool, needed: str) -> None:
    """The check of the fields `fit_steps` and `fit_turn`, which both families have.

    Args:
        steps, turn: Their values.
        possible: Whether the network has what the fit needs.
        needed: What that is.

    Raises:
        ValueError: A value out of range, or a fit of what is not there.
    """
    if isinstance(steps, bool) or not 0 <= steps <= 100:
        raise ValueError(f"fit_steps must be from 0 to 100, got {steps}")
    if not 0 < turn <= 10:
        raise ValueError(f"fit_turn must be above 0 and at most 10 radians, got {turn}")
    if steps and not possible:
        raise ValueError(f"fit_steps needs {needed}, which this network lacks; set it to 0, got {steps}")
