"""Checkpoints to the Hub: a folder with everything a repository holds, looked over, and uploaded in one commit.

`publish` takes a checkpoint's folder, `push` a model or processor in memory. Nothing is uploaded that
`checkpoint_safety` has not seen; what transformers' own `push_to_hub` would add (a card without content, pickled
training arguments, optimizer states) never comes along.
"""

import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .checkpoint_safety import check_folder, kind_fault, raise_faults
from .errors import HandMIMError
from .hub_code import PACKAGE, architecture, copy_code, marked_config, marked_processor
from .model_card import CardFacts, card_text, collect_facts
from .model_card_metadata import REPORTS_FOLDER
from .model_card_reports import report_bytes, report_name

CONFIG, PROCESSOR, CARD = "config.json", "preprocessor_config.json", "README.md"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# What a Trainer needs to go on, and nobody else: left out without a refusal.
TRAINER_FILES = re.compile(
    r"(optimizer|scheduler|scaler)\.(pt|bin)|rng_state(_\d+)?\.pth|training_args\.bin|trainer_state\.json|ema\.safetensors"
)
# Should a file get past the checks, the client leaves it behind as well.
NEVER = ["*.bin", "*.ckpt", "*.npy", "*.npz", "*.pickle", "*.pkl", "*.pt", "*.pth", "MANO*", "*/MANO*", "optimizer*"]
NEVER += [".*", "*/.*", "__pycache__/*"]
# Weights of an earlier commit: beside new ones of another number of shards, transformers would load the old.
STALE = ["model.safetensors", "model-*-of-*.safetensors", INDEX, "pytorch_model*.bin*"]
MAX_JSON_BYTES = 1 << 26


class PublishError(HandMIMError, ValueError):
    """A checkpoint that cannot be published, or a Hub that does not take it; the message says what to do."""


# ---------------------------------------------------------------------------------------------------------------------
# The folder


def build_folder(checkpoint: Path, out: Path, *, facts: CardFacts | None, carry_code: bool = True) -> list[Path]:
    """Everything that a repository of a checkpoint holds.

    Args:
        checkpoint: A folder that `save_pretrained` wrote: `release` of a run, or `checkpoint-N` of a Trainer.
        out: Must not exist, or be empty. It is there whole, or not at all.
        facts: For the card, recipe, reports and pictures; None: without them.
        carry_code: Whether the repository can be loaded without the package, with `trust_remote_code=True`.

    Returns:
        The files, sorted.

    Raises:
        PublishError: The checkpoint is not whole, or `out` holds something.
        UnsafeUploadError: Something in it must not be published.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PublishError(f"{out} is there already and holds something; name a new folder")
    check_source(checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp") as temporary:
        folder = Path(temporary) / "folder"
        folder.mkdir()
        _fill(checkpoint, folder, facts, carry_code)
        check_folder(folder)
        if out.exists():
            out.rmdir()
        os.replace(folder, out)
    return sorted(path for path in out.rglob("*") if path.is_file())


def check_source(checkpoint: Path) -> None:
    """Looks at all files of a checkpoint's folder, also at those that stay behind.

    Raises:
        PublishError: It is no checkpoint of ours.
        UnsafeUploadError: It holds pickles or arrays that no Trainer wrote.
    """
    if not checkpoint.is_dir():
        raise PublishError(f"{checkpoint} is no folder; name the folder of a checkpoint, such as RUN/release")
    strange = [path for path in sorted(checkpoint.iterdir()) if path.is_file() and not _of_trainer(path.name)]
    found = [(path.name, kind_fault(path)) for path in strange]
    if not (checkpoint / WEIGHTS).exists() and not (checkpoint / INDEX).exists():
        pickled = [name for name, _ in found if name.endswith((".bin", ".pt", ".pth"))]
        hint = f" but {pickled[0]}: load it and save it again with save_pretrained" if pickled else ""
        raise PublishError(f"{checkpoint} has no {WEIGHTS}{hint or '; save the model with save_pretrained'}")
    raise_faults([f"{name} {fault}" for name, fault in found if fault and "kind that no" not in fault])


def left_out(checkpoint: Path) -> list[str]:
    """Files of a checkpoint's folder that are not published."""
    taken = {CONFIG, PROCESSOR, "recipe.yaml", INDEX, *(path.name for path in _weight_files(checkpoint))}
    return sorted(path.name for path in checkpoint.iterdir() if path.name not in taken)


def _of_trainer(name: str) -> bool:
    return TRAINER_FILES.fullmatch(name) is not None


def _fill(checkpoint: Path, folder: Path, facts: CardFacts | None, carry_code: bool) -> None:
    config = _read_json(checkpoint / CONFIG)
    architecture(config)
    for file in _weight_files(checkpoint):
        shutil.copyfile(file, folder / file.name)
    if (checkpoint / INDEX).is_file() and not (checkpoint / WEIGHTS).is_file():
        shutil.copyfile(checkpoint / INDEX, folder / INDEX)
    _write_json(folder / CONFIG, marked_config(config, carry_code))
    _write_json(folder / PROCESSOR, marked_processor(_processor(checkpoint, config), carry_code))
    _check_weights(folder, config)
    if carry_code:
        copy_code(config, folder)
    if facts is not None:
        _write_facts(folder, dataclasses.replace(facts, carries_code=carry_code))
    licence = "" if facts is None else facts.licence
    if licence.lower() == "apache-2.0" or carry_code:  # the code is under it whatever the weights are
        name = "LICENSE" if licence.lower() == "apache-2.0" else "LICENSE-code"
        (folder / name).write_text(_licence_text(), encoding="utf-8")


def _write_facts(folder: Path, facts: CardFacts) -> None:
    (folder / CARD).write_text(card_text(facts), encoding="utf-8")
    for picture in map(Path, facts.pictures):
        shutil.copyfile(picture, folder / picture.name)
    if facts.recipe is not None:
        import yaml

        text = yaml.safe_dump(dict(facts.recipe), sort_keys=False)
        (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    for report in (*facts.reports, *facts.comparisons):  # under the name and with the check sum that the card states
        (folder / REPORTS_FOLDER).mkdir(exist_ok=True)
        (folder / REPORTS_FOLDER / report_name(report)).write_bytes(report_bytes(report))


def _processor(checkpoint: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Of the checkpoint, or, where a Trainer saved none, the one that `from_pretrained` takes then."""
    if (checkpoint / PROCESSOR).is_file():
        return _read_json(checkpoint / PROCESSOR)
    from .image_processing_handmim import HandMIMImageProcessor

    return json.loads(HandMIMImageProcessor(size=config["image_size"]).to_json_string())


def _weight_files(checkpoint: Path) -> list[Path]:
    """`model.safetensors`, or its shards.

    Raises:
        PublishError: One is missing.
    """
    if (checkpoint / WEIGHTS).is_file():
        return [checkpoint / WEIGHTS]
    index = _read_json(checkpoint / INDEX)
    names = sorted(set(index["weight_map"].values())) if isinstance(index.get("weight_map"), dict) else []
    wrong = [name for name in names if not re.fullmatch(r"model-\d+-of-\d+\.safetensors", str(name))]
    if wrong or not names:
        raise PublishError(f"{checkpoint / INDEX} names no shards of model.safetensors, got {wrong[:3] or index}")
    missing = [name for name in names if not (checkpoint / name).is_file()]
    if missing:
        raise PublishError(f"{checkpoint} lacks {', '.join(missing)}, which its {INDEX} names; save the model again")
    return [checkpoint / name for name in names]


def _check_weights(folder: Path, config: dict[str, Any]) -> None:
    """The weights are those of the model that the configuration describes, all of them and nothing else."""
    import torch
    from safetensors import SafetensorError, safe_open

    import handmim

    shapes: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise PublishError(f"{path.name} is damaged ({error}); save the model again") from error
    kind = getattr(handmim, architecture(config))
    try:
        with torch.device("meta"):
            model = kind(kind.config_class.from_dict(config))
    except (TypeError, ValueError) as error:
        raise PublishError(f"{CONFIG} is no configuration of {kind.__name__}: {error}") from error
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    missing = sorted(wanted.keys() - shapes.keys())
    other = sorted(name for name in wanted.keys() & shapes.keys() if wanted[name] != shapes[name])
    for names, what in ((missing, "lack"), (other, "have other shapes of")):
        if names:
            raise PublishError(
                f"the weights {what} {len(names)} tensors of a {kind.__name__} as {CONFIG} describes it, such as "
                f"{names[0]}; save the model again"
            )


def _licence_text() -> str:
    """The Apache licence: beside the package in a clone, in its metadata once installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    beside = PACKAGE.parent / "LICENSE"
    if beside.is_file() and (PACKAGE.parent / "pyproject.toml").is_file():
        return beside.read_text(encoding="utf-8")
    try:
        text = distribution("handmim").read_text("licenses/LICENSE")
    except PackageNotFoundError:
        text = None
    if text is None:
        raise PublishError("the package's LICENSE was not found; install handmim again")
    return text


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}, not an object")
    except FileNotFoundError as error:
        raise PublishError(f"{path.parent} has no {path.name}; name the folder of a saved model") from error
    except (OSError, ValueError, RecursionError) as error:
        raise PublishError(f"{path} cannot be read ({error}); save the model again") from error
    return value


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# The upload


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

    A card that the repository has already stays, unless `reports` or `notes` bring something new.

    Args:
        checkpoint: Its folder, or the name of the checkpoint in the package.
        repo_id: "organisation/name".
        reports: Files that `handmim evaluate` wrote; the card's figures come from them.
        notes: Markdown for the card; see `model_card.read_notes`.
        licence: SPDX name of the weights' licence; None: the zoo's, for a checkpoint of that name.
        base_model, datasets: For the card; None: the recipe's.
        private: Of a new repository.
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
    folder = find_checkpoint(checkpoint)
    options = {"base_model": base_model, "datasets": datasets}
    check_source(folder)
    facts = collect_facts(folder, reports=reports, notes=notes, repo_id=repo_id, licence=licence, **options)
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
        new_card = bool(reports or notes)
        where = {"private": private, "revision": revision, "token": token}
        upload(staged, repo_id, new_card=new_card, commit_message=commit_message, **where)
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo_id}"


def find_checkpoint(name: str | os.PathLike) -> Path:
    """The folder of a checkpoint that the user named: a folder, or what the package holds."""
    from .hand import EMBEDDED_CHECKPOINT

    if not Path(name).is_dir() and str(name) == EMBEDDED_CHECKPOINT.name:
        return EMBEDDED_CHECKPOINT
    return Path(name).expanduser()


def upload(
    folder: Path,
    repo_id: str,
    *,
    new_card: bool,
    default_processor: bool = False,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    blocking: bool = True,
) -> Any:
    """Uploads a checked folder in one commit; old weights of the repository go in the same one.

    Args:
        folder: What is to be uploaded; files that the repository shall keep are removed from it.
        repo_id: "organisation/name".
        new_card: Whether the card replaces one that is there.
        default_processor: Whether the folder's processor is only a guess, which an existing one precedes.
        private, token, revision, create_pr, commit_message, commit_description: As everywhere in the Hub's client.
        blocking: False: a future is returned.

    Raises:
        PublishError: The Hub did not take it.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _hub_errors(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        kept = ([] if new_card else [CARD]) + ([PROCESSOR] if default_processor else [])
        for name in kept:
            if (folder / name).is_file() and api.file_exists(repo_id, name, revision=revision):
                (folder / name).unlink()
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message or f"Upload {repo_id.rsplit('/', 1)[-1]}",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
            ignore_patterns=NEVER,
            delete_patterns=STALE if (folder / CONFIG).is_file() else None,
            run_as_future=not blocking,
        )


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """What the Hub's client says, as one sentence with what to do."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except HFValidationError as error:
        raise PublishError(f"{repo_id!r} is no name of a repository: it must be ORGANISATION/NAME") from error
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
    except (OSError, RuntimeError) as error:
        raise PublishError(f"the Hub could not be reached for {repo_id} ({str(error)[:200]}); try again") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("httpx", "httpcore", "requests"):
            raise
        raise PublishError(f"the Hub could not be reached for {repo_id} ({error}); is there a network?") from error


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
        saved = Path(temporary) / repo_id.rsplit("/", 1)[-1]
        if processor is not None:
            processor.save_pretrained(saved)
        if model is not None:
            model.save_pretrained(saved, max_shard_size=max_shard_size)
            options.setdefault("base_model", _base_model(model, repo_id))
            return push_folder(saved, repo_id, carry_code=carry_code, **options)
        staged = Path(temporary) / "staged"
        staged.mkdir()
        _write_json(staged / PROCESSOR, marked_processor(_read_json(saved / PROCESSOR), carry_code))
        if carry_code:
            copy_code(None, staged)
        check_folder(staged)
        unknown = options.keys() & {"reports", "notes", "licence", "base_model", "datasets"}
        if unknown:
            raise PublishError(f"{', '.join(sorted(unknown))} are for a model, not for a processor alone")
        return upload(staged, repo_id, new_card=False, **options)


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
    blocking: bool = True,
    **options: Any,
) -> Any:
    """Uploads what `save_pretrained` wrote as `publish` does; an unknown licence is left out of the card.

    Args:
        saved: The folder.
        repo_id: "organisation/name".
        recipe: As it was run; None: `recipe.yaml` of the folder.
        blocking: False: returns a future; the staged copy goes when the upload is done.
        carry_code, reports, notes, licence, base_model, datasets: As `publish` takes them.
        options: As `upload` takes them.
    """
    told = {"licence": licence, "base_model": base_model, "datasets": datasets, "recipe": recipe}
    facts = collect_facts(saved, reports=reports, notes=notes, repo_id=repo_id, **told)
    staged = Path(tempfile.mkdtemp(prefix="handmim-upload-"))
    done = None
    try:
        build_folder(saved, staged / "repository", facts=facts, carry_code=carry_code)
        guessed = not (saved / PROCESSOR).is_file()
        new_card = bool(reports or notes)
        options = options | {"new_card": new_card, "default_processor": guessed, "blocking": blocking}
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


__all__ = ["PublishError", "build_folder", "publish", "push", "push_folder"]
