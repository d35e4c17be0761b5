"""Checkpoints to the Hub: `publish` takes a folder, `push` a model or processor in memory; one commit each.

Nothing is uploaded that `checkpoint_safety` has not seen; what transformers' own `push_to_hub` would add (a card
without content, pickled training arguments, optimizer states) never comes along.
"""

import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .checkpoint_safety import check_folder
from .hub_code import code_names, copy_code, marked_processor, processor_of
from .model_card import collect_facts
from .open_hand_file import ENTRY
from .repository_card import card_stays, stale_patterns, weights_fingerprint
from .repository_folder import (
    CARD,
    CONFIG,
    INDEX,
    PROCESSOR,
    PublishError,
    build_folder,
    check_source,
    left_out,
    read_json,
    write_json,
)

# Should a file get past the checks, the client leaves it behind as well.
NEVER = ["*.bin", "*.ckpt", "*.npy", "*.npz", "*.pickle", "*.pkl", "*.pt", "*.pth", "MANO*", "*/MANO*", "optimizer*"]
NEVER += [".*", "*/.*", "__pycache__/*"]
# Weights of an earlier commit: beside new ones of another number of shards, transformers would load the old.
STALE = ["model.safetensors", "model-*-of-*.safetensors", INDEX, "pytorch_model*.bin*"]

NO_NAME = "{!r} is no name of a repository: it must be ORGANISATION/NAME"


def publish(
    checkpoint: str | os.PathLike,
    repo_id: str,
    *,
    reports: Sequence[str | Path] = (),
    notes: str | Path | None = None,
    licence: str | None = None,
    base_model: str | None = None,
    datasets: Sequence[str] | None = None,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    carry_code: bool = True,
    dry_run: str | Path | None = None,
    commit_message: str | None = None,
) -> str | Path:
    """Publish a checkpoint's folder.

    A card that the repository has already stays on the weights that it was made for, unless `reports` or `notes` bring
    something new, or `licence`, `datasets` or `base_model` something else; see `repository_card.card_stays`.

    Args:
        checkpoint: Its folder, or the name of the checkpoint in the package.
        repo_id: "organisation/name".
        reports: Files that `handmim evaluate` wrote; the card's figures come from them.
        notes: Markdown for the card; see `model_card.read_notes`.
        licence: SPDX name of the weights' licence; None: the zoo's, for a checkpoint in the package or of that name
            and network.
        base_model, datasets: For the card; None: the recipe's.
        private: Whether nobody else may see it; a repository that is public already is refused then.
        revision: Branch; made if it is not there.
        token: Of the Hub; None: the one that was logged in with.
        carry_code: See `build_folder`.
        dry_run: A folder to write instead of uploading.
        commit_message: None: a plain one.

    Returns:
        The repository's address, or the folder of a dry run.

    Raises:
        PublishError, UnsafeUploadError, CardError, ModelError: Nothing was uploaded.
    """
    if "/" not in _checked_name(repo_id):
        raise PublishError(NO_NAME.format(repo_id))
    folder = find_checkpoint(checkpoint)
    options = {"reports": reports, "notes": notes, "licence": licence, "base_model": base_model, "datasets": datasets}
    check_source(folder)
    facts = collect_facts(folder, repo_id=repo_id, revision=revision, **options)
    if not facts.licence:
        raise PublishError(
            f"the licence of {repo_id} is not known: it is no checkpoint of the zoo. Say what data and starting "
            "weights allow: --licence Apache-2.0, --licence CC-BY-NC-4.0, ..."
        )
    if dry_run is not None:
        build_folder(folder, Path(dry_run), facts=facts, carry_code=carry_code)
        return Path(dry_run)
    with tempfile.TemporaryDirectory(prefix="handmim-publish-") as temporary:
        staged = Path(temporary) / "repository"
        build_folder(folder, staged, facts=facts, carry_code=carry_code)
        where = {"private": private, "revision": revision, "token": token}
        upload(staged, repo_id, told=_told(**options), commit_message=commit_message, **where)
    from huggingface_hub import constants

    address = f"{constants.ENDPOINT}/{repo_id}"
    return f"{address}/tree/{quote(revision, safe='')}" if revision else address


def _checked_name(repo_id: str) -> str:
    """A repository's name, which is also a folder's: with an organisation, or alone, which the Hub takes as the user's.

    Raises:
        PublishError: It is none, or leads out of the folder that it is to name.
    """
    parts = repo_id.split("/")
    if len(parts) > 2 or not all(re.fullmatch(r"[\w.-]+", part) and part.strip(".") for part in parts):
        raise PublishError(NO_NAME.format(repo_id))
    return repo_id


def find_checkpoint(name: str | os.PathLike) -> Path:
    """The folder of a checkpoint that the user named: a folder, or what the package holds."""
    from .checkpoints import checkpoint_source

    return Path(checkpoint_source(name)).expanduser()


def upload(
    folder: Path,
    repo_id: str,
    *,
    told: Collection[str] = (),
    in_training: bool = False,
    default_processor: bool = False,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    blocking: bool = True,
) -> Any:
    """Uploads a checked folder in one commit; old weights of the repository go in the same one, and what only its old
    card had.

    Args:
        folder: What is to be uploaded; files that the repository shall keep are removed from it.
        repo_id: "organisation/name".
        told: What of the card the user gave; see `repository_card.card_stays`.
        in_training: Whether a run goes on: a card that would be refused stays, with a warning.
        default_processor: Whether the folder's processor is only a guess, which an existing one precedes.
        private, token, revision, create_pr, commit_message, commit_description: As everywhere in the Hub's client.
        blocking: False: a future is returned.

    Raises:
        PublishError: The Hub did not take it, it is public against the user's wish, or its card may neither stay nor
            go.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _hub_errors(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private:
            check_private(repo_id, token)
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        there = _files_there(api, repo_id, revision)
        stale = STALE if (folder / CONFIG).is_file() else []
        if (folder / CARD).is_file():
            stale = stale + _make_room(folder, _card_there(api, repo_id, revision, there), there, told, in_training)
        if default_processor and PROCESSOR in there:
            (folder / PROCESSOR).unlink()
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message or f"Upload {repo_id.rsplit('/', 1)[-1]}",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
            ignore_patterns=NEVER,
            delete_patterns=stale or None,  # of these the client spares what the folder holds
            run_as_future=not blocking,
        )


def check_private(repo_id: str, token: str | bool | None = None) -> None:
    """A repository that was there before keeps who may see it, whatever `create_repo` is told.

    Raises:
        PublishError: Everybody sees it.
    """
    from huggingface_hub import HfApi

    if not HfApi(token=token).repo_info(repo_id).private:
        raise PublishError(
            f"{repo_id} is a public repository, and you asked for a private one; nothing was uploaded. Make it private "
            "in its settings on the Hub, take another name, or publish without --private (private=True)"
        )


def _files_there(api: Any, repo_id: str, revision: str | None) -> dict[str, str]:
    """A repository's files: name -> SHA-256, of large ones (weights), else ""."""
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repo_id, recursive=True, revision=revision)
    return {entry.path: entry.lfs.sha256 if entry.lfs else "" for entry in entries if isinstance(entry, RepoFile)}


def _card_there(api: Any, repo_id: str, revision: str | None, there: Mapping[str, str]) -> str | None:
    if CARD not in there:
        return None
    return Path(api.hf_hub_download(repo_id, CARD, revision=revision)).read_text(encoding="utf-8", errors="replace")


def _make_room(
    folder: Path, card: str | None, there: Mapping[str, str], told: Collection[str], in_training: bool
) -> list[str]:
    """Takes the new card out of the folder if the old one stays; else names what goes with the old one."""
    new = (folder / CARD).read_text(encoding="utf-8")
    if card is not None and _card_stays(card, new, there, told, in_training):
        (folder / CARD).unlink()
        return []
    code = sorted(code_names()) if f"{ENTRY}.py" in there else []  # files of such names may else be anybody's
    return [*stale_patterns(card, new), *code]


def _card_stays(card: str, new: str, there: Mapping[str, str], told: Collection[str], in_training: bool) -> bool:
    try:
        return card_stays(card, new, told=told, weights_there=weights_fingerprint(there))
    except PublishError as error:
        if not in_training:
            raise
        warnings.warn(f"{error}. While the training goes on the weights are uploaded and the card stays", stacklevel=2)
        return True


def _told(**given: Any) -> set[str]:
    """Which of the card's facts the user gave."""
    return {name for name, value in given.items() if value}


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """What the Hub's client says, as one sentence with what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError

    try:
        yield
    except HFValidationError as error:
        raise PublishError(NO_NAME.format(repo_id)) from error
    except LocalTokenNotFoundError as error:
        raise PublishError(f"to publish {repo_id} log in first: hf auth login, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        advice = {
            401: "log in with a token that may write: hf auth login, or set HF_TOKEN",
            403: "this account may not write there; use your own name or an organisation that you belong to",
            404: "check the name and the revision",
        }.get(status, "try again later")
        raise PublishError(f"the Hub refused {repo_id} ({str(error).splitlines()[0]}); {advice}") from error
    except (HTTPError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise PublishError(f"the Hub could not be reached for {repo_id} ({reason}); is there a network?") from error


# ---------------------------------------------------------------------------------------------------------------------
# Models and processors in memory


def push(
    repo_id: str,
    *,
    model: Any = None,
    processor: Any = None,
    max_shard_size: int | str = "50GB",
    tags: Sequence[str] | None = None,
    carry_code: bool = True,
    **options: Any,
) -> Any:
    """What `push_to_hub` of a model, a processor or a pipeline does.

    Args:
        repo_id: "organisation/name".
        model: With its weights; None: the processor alone, to a repository that has or will get a model.
        processor: None: one for the model's input size, unless the repository has one.
        max_shard_size: Of a file of weights.
        tags: Not used: the card's tags say what the checkpoint is.
        carry_code: See `build_folder`.
        options: As `push_folder` takes them.

    Returns:
        What the Hub's client says of the commit.
    """
    with tempfile.TemporaryDirectory(prefix="handmim-push-") as temporary:
        saved = Path(temporary) / _checked_name(repo_id).rsplit("/", 1)[-1]
        if processor is not None:
            processor.save_pretrained(saved)
        if model is not None:
            model.save_pretrained(saved, max_shard_size=max_shard_size)
            loaded_from = _base_model(model, repo_id)
            return push_folder(saved, repo_id, carry_code=carry_code, loaded_from=loaded_from, **options)
        staged = Path(temporary) / "staged"
        staged.mkdir()
        values = read_json(saved / PROCESSOR)
        write_json(staged / PROCESSOR, marked_processor(values, carry_code))
        if carry_code:
            copy_code(None, staged, processor_of(values))
        check_folder(staged)
        unknown = options.keys() & {"reports", "notes", "licence", "base_model", "datasets"}
        if unknown:
            raise PublishError(f"{', '.join(sorted(unknown))} are for a model, not for a processor alone")
        return upload(staged, repo_id, **options)


def push_folder(
    saved: Path,
    repo_id: str,
    *,
    carry_code: bool = True,
    reports: Sequence[str | Path] = (),
    notes: str | Path | None = None,
    licence: str | None = None,
    base_model: str | None = None,
    datasets: Sequence[str] | None = None,
    recipe: dict[str, Any] | None = None,
    loaded_from: str | None = None,
    blocking: bool = True,
    **options: Any,
) -> Any:
    """Uploads what `save_pretrained` wrote as `publish` does; an unknown licence is left out of the card.

    Args:
        saved: The folder.
        repo_id: "organisation/name".
        recipe: As it was run; None: `recipe.yaml` of the folder.
        loaded_from: The base model, where the user named none.
        blocking: False: returns a future; the staged copy goes when the upload is done.
        carry_code, reports, notes, licence, base_model, datasets: As `publish` takes them.
        options: As `upload` takes them.
    """
    told = {"reports": reports, "notes": notes, "licence": licence, "base_model": base_model, "datasets": datasets}
    known = told | {"base_model": base_model or loaded_from, "recipe": recipe}
    facts = collect_facts(saved, repo_id=repo_id, revision=options.get("revision"), **known)
    staged = Path(tempfile.mkdtemp(prefix="handmim-upload-"))
    done = None
    try:
        build_folder(saved, staged / "repository", facts=facts, carry_code=carry_code)
        guessed = not (saved / PROCESSOR).is_file()
        options = options | {"told": _told(**told), "default_processor": guessed, "blocking": blocking}
        done = upload(staged / "repository", repo_id, **options)
        return done
    finally:
        if blocking or done is None:
            shutil.rmtree(staged, ignore_errors=True)
        else:
            done.add_done_callback(lambda _: shutil.rmtree(staged, ignore_errors=True))


def _base_model(model: Any, repo_id: str) -> str | None:
    """The Hub id that a model was loaded from, if it was another one than it goes to."""
    name = str(model.config.name_or_path or "")
    known = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists() and name != repo_id
    return name if known else None


__all__ = ["PublishError", "build_folder", "check_source", "left_out", "publish", "push", "push_folder"]
