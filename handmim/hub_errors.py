"""What goes wrong on the way to a checkpoint, as one sentence that names the repository and says what to do.

The Hub's client and transformers wrap each other's errors; the cause is looked for along the whole chain. A folder that
exists is always a folder: then nothing here speaks of the Hub.
"""

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import _CACHED_NO_EXIST, constants, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
    StrictDataclassError,
)
from safetensors import SafetensorError

from .errors import HandMIMError, ModelError
from .mano_files import ManoFileError, ManoFileNotFoundError
from .zoo import near_names

# "org/name", or a name alone; what the Hub allows in them.
REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
# Of the options of a loader those that say where files come from.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# What the loaders raise: files, the network, JSON, strict configurations, weights.
LOADER_ERRORS = (
    OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, HTTPError, SafetensorError, StrictDataclassError,
    EntryNotFoundError, RevisionResolutionError,
)  # fmt: skip


@contextmanager
def checkpoint_errors(source: str | os.PathLike, **hub_kwargs: Any) -> Iterator[None]:
    """Whatever a loader says about a checkpoint, as one sentence.

    Args:
        source: Folder or Hub id.
        hub_kwargs: As the loader gets them; `revision`, `cache_dir` and `local_files_only` are read.

    Raises:
        ModelError: There is no such checkpoint, it cannot be reached, or it is damaged.
    """
    name = os.fspath(source)
    _check_name(name)
    try:
        yield
    except (HandMIMError, ManoFileError, ManoFileNotFoundError):
        raise
    except AttributeError as error:
        damage = _config_damage(name, hub_kwargs)
        if damage is None:
            raise
        raise ModelError(_damaged(name, damage, hub_kwargs)) from error
    except LOADER_ERRORS as error:
        raise ModelError(_sentence(error, name, hub_kwargs)) from error


def has_file(source: str | os.PathLike, file: str, **hub_kwargs: Any) -> bool:
    """Whether a checkpoint has a file, which is in the cache then.

    Raises:
        OSError: Nobody knows: the Hub does not answer, and the cache has neither the file nor a note of its absence.
    """
    from transformers.utils import cached_file

    known = {key: value for key, value in hub_kwargs.items() if key in HUB_OPTIONS}
    try:
        return cached_file(source, file, **known) is not None
    except OSError as error:
        if "does not appear to have" in str(error) or _cached(os.fspath(source), file, hub_kwargs) is _CACHED_NO_EXIST:
            return False
        raise


def commit_hash(source: str | os.PathLike, **hub_kwargs: Any) -> str | None:
    """The commit on the Hub that a checkpoint's config.json, which must have been loaded, came from; None: a folder."""
    file = _cached(os.fspath(source), "config.json", hub_kwargs)
    found = re.search(r"/snapshots/([0-9a-f]{40})/", Path(file).as_posix()) if isinstance(file, str) else None
    return found and found[1]


def _cached(name: str, file: str, hub_kwargs: dict[str, Any]) -> Any:
    """Path of a file in the cache, `_CACHED_NO_EXIST` if the repository is known to have none, else None."""
    known = {key: hub_kwargs[key] for key in ("cache_dir", "revision") if hub_kwargs.get(key)}
    file = "/".join(part for part in (hub_kwargs.get("subfolder"), file) if part)
    return None if os.path.isdir(name) else try_to_load_from_cache(name, file, **known)


def _check_name(name: str) -> None:
    """That a name is a folder or may be one on the Hub, before anybody is asked.

    Raises:
        ModelError: It is neither.
    """
    if os.path.isdir(name):
        return
    path = Path(name)
    if path.is_file():
        raise ModelError(f"no checkpoint could be loaded from {name!r}: it is a file; name the folder that it is in")
    looks_local = name.startswith((".", "~", "/")) or path.is_absolute() or "\\" in name or name.endswith("/")
    if looks_local or name.count("/") > 1:
        raise ModelError(f"no checkpoint could be loaded from {name!r}: there is no such folder")
    if not REPO_ID.fullmatch(name):
        raise ModelError(
            f"no checkpoint could be loaded from {name!r}: there is no such folder, and it is no name on the Hub, "
            "which would be ORG/NAME of letters, digits, '-', '_' and '.'"
        )


def _sentence(error: Exception, name: str, hub_kwargs: dict[str, Any]) -> str:
    damage = _damage(error) or _config_damage(name, hub_kwargs)
    if damage:
        return _damaged(name, damage, hub_kwargs)
    if isinstance(error, StrictDataclassError):
        return f"the checkpoint {name} has a config.json that does not fit: {_one_line(error)}"
    reason = None if os.path.isdir(name) else _hub_reason(error, name, hub_kwargs)
    return f"no checkpoint could be loaded from {name!r}: {reason or _first_line(error)}"


# ---------------------------------------------------------------------------------------------------------------------
# damaged files


def _damaged(name: str, damage: str, hub_kwargs: dict[str, Any]) -> str:
    local = os.path.isdir(name)
    again = "download it again" if local else f"remove {_cache(name, hub_kwargs)} or pass force_download=True"
    return f"the checkpoint {name} {damage}; {again}"


def _damage(error: Exception) -> str | None:
    """What is damaged, if the loader came as far as to read it."""
    if isinstance(error, OSError) and "is not a valid JSON file" in str(error):
        file = re.search(r"[\w.-]+\.json", str(error))
        return f"has a damaged {file[0] if file else 'JSON file'}"
    chain = causes(error)
    if any(isinstance(link, HTTPError | LocalEntryNotFoundError | RevisionResolutionError) for link in chain):
        return None
    if isinstance(error, SafetensorError | RuntimeError | EOFError | UnicodeDecodeError):
        return f"is damaged ({_first_line(error)})"
    return None


def _config_damage(name: str, hub_kwargs: dict[str, Any]) -> str | None:
    """Loaders say all sorts of things about a config.json that holds something else than an object."""
    file: Any = os.path.join(name, "config.json")
    if not os.path.isdir(name):
        file = _cached(name, "config.json", hub_kwargs)
    if not isinstance(file, str) or not os.path.isfile(file):
        return None
    try:
        whole = isinstance(json.loads(Path(file).read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        whole = False
    return None if whole else "has a damaged config.json"


# ---------------------------------------------------------------------------------------------------------------------
# the Hub


def _hub_reason(error: Exception, name: str, hub_kwargs: dict[str, Any]) -> str | None:
    """Why the Hub or its cache did not give the files, and what to do; None: something else is wrong."""
    chain = causes(error)
    find = lambda *kinds: next((link for link in chain if isinstance(link, kinds)), None)  # noqa: E731
    if full := next((link for link in chain if getattr(link, "errno", None) in _DISK), None):
        return _DISK[full.errno].format(cache=hub_kwargs.get("cache_dir") or constants.HF_HUB_CACHE)
    if "Consistency check failed" in str(error):
        return "the download was cut short; try again, with force_download=True if it stays so"
    if find(GatedRepoError):
        return f"access is restricted; ask for it on {_page(name)}, then log in with `hf auth login` or set HF_TOKEN"
    if find(RevisionNotFoundError):
        revision = hub_kwargs.get("revision")
        return f"the repository has no revision {revision!r}; {_page(name)}/commits/main lists them"
    status = _status(find(HfHubHTTPError))
    if find(RepositoryNotFoundError):
        return _not_found(name)
    if status == 401:
        return "the Hub refuses the token; log in again with `hf auth login`, or correct or unset HF_TOKEN"
    if status == 403:
        return f"the token may not read it; give it the right, or ask for access on {_page(name)}"
    if status is not None and (status >= 500 or status == 429):
        return f"the Hub answers {status}, and the cache does not have it; try again later"
    if find(HFValidationError):
        return _one_line(error)
    return _unreachable(chain, name, hub_kwargs) or _incomplete(error, name)


_DISK = {
    errno.ENOSPC: "no space is left in {cache}; free some, or name another place with HF_HOME or cache_dir",
    errno.EDQUOT: "the quota is used up in {cache}; free some, or name another place with HF_HOME or cache_dir",
    errno.EROFS: "{cache} cannot be written; name another place with HF_HOME or cache_dir",
    errno.EACCES: "{cache} may not be written; name another place with HF_HOME or cache_dir",
}


def _not_found(name: str) -> str:
    """The Hub does not tell a stranger whether a private repository exists."""
    near = near_names(name)
    hint = f"; checkpoints of the zoo with near names: {', '.join(near)}" if near else ""
    return (
        f"the Hub has no such repository that you may read; check the name, or if it is private log in with "
        f"`hf auth login` or set HF_TOKEN{hint}"
    )


def _unreachable(chain: list[BaseException], name: str, hub_kwargs: dict[str, Any]) -> str | None:
    """Neither the Hub nor the cache has been of use."""
    kinds = (LocalEntryNotFoundError, RevisionResolutionError, OfflineModeIsEnabled, HTTPError)
    if not any(isinstance(link, kinds) for link in chain):
        return None
    near = near_names(name)
    hint = f"; checkpoints of the zoo with near names: {', '.join(near)}" if near and "/" not in name else ""
    revision = hub_kwargs.get("revision")
    what = "it" if revision is None else f"revision {revision!r}"
    if hub_kwargs.get("local_files_only") or constants.is_offline_mode():
        switch = "local_files_only" if hub_kwargs.get("local_files_only") else "HF_HUB_OFFLINE=1"
        cache = hub_kwargs.get("cache_dir") or constants.HF_HUB_CACHE
        return f"the cache {cache} does not have {what}, and {switch} forbids to download it; do so once without{hint}"
    return f"{constants.ENDPOINT} cannot be reached, and the cache does not have {what}; check the network{hint}"


def _incomplete(error: Exception, name: str) -> str | None:
    """The repository is there, but not what makes it a checkpoint."""
    found = re.search(r"does not appear to have (?:a file|files?) named (.+?)(?:\. |$)", str(error))
    if "Unrecognized model" in str(error) or (found and "config.json" in found[1]):
        return f"the repository has no config.json of a hand model; {_page(name)} shows what it has"
    if found:
        return f"the repository has no weights (model.safetensors); {_page(name)} shows what it has"
    return None


def causes(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from, or during, the outermost first."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _page(name: str) -> str:
    return f"{constants.ENDPOINT}/{name}"


def _cache(name: str, hub_kwargs: dict[str, Any]) -> Path:
    """Where the client keeps a repository."""
    return Path(hub_kwargs.get("cache_dir") or constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")[:200]
