"""What the Trainers of the package put on the Hub: a published checkpoint, where transformers' own uploads its folder.

That one holds pickled training arguments, and with some strategies optimizer states; its card says nothing of hands.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from handmim.publishing import check_private, push_folder

logger = logging.get_logger(__name__)

# What `Trainer.push_to_hub` takes for its card, by our names. Others of its arguments our card finds out by itself.
CARD_ARGUMENTS = {"license": "licence", "dataset": "datasets", "finetuned_from": "base_model"}
OWN_ARGUMENTS = ("licence", "datasets", "base_model", "reports", "notes", "carry_code")


class PublishingTrainer(Trainer):
    """`transformers.Trainer` whose pushes give what `handmim publish` gives."""

    def save_weights(self, folder: str | os.PathLike) -> None:
        """Write the model that is released."""
        self.accelerator.unwrap_model(self.model).save_pretrained(folder)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """As transformers does before a run; with `hub_private_repo` a repository that is public already is refused."""
        super().init_hf_repo(*args, **kwargs)
        if self.args.hub_private_repo and self.is_world_process_zero():
            check_private(self.hub_model_id, kwargs.get("token") or self.args.hub_token)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Publish the model, its processor and the recipe to `args.hub_model_id`.

        Args:
            commit_message, blocking, token, revision, private: As in transformers.
            kwargs: `licence` (or `license`), `datasets` (or `dataset`), `base_model` (or `finetuned_from`), `reports`,
                `notes`, `carry_code`; see `publishing.push_folder`.

        Returns:
            What the Hub's client says of the commit, or a future of it.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            if private is not None:  # transformers 5.17 takes it from here only
                self.args.hub_private_repo = private
            self.init_hf_repo(token=token)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        with self._staged() as folder:
            return push_folder(
                folder,
                self.hub_model_id,
                commit_message=commit_message,
                blocking=blocking,
                token=token or self.args.hub_token,
                revision=revision or self.args.hub_revision,
                private=private if private is not None else self.args.hub_private_repo,
                **_card_arguments(kwargs),
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """The model of a step; the state to go on from stays on this machine."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            logger.warning_once("hub_strategy: the model is published; optimizer states stay on this machine")
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        with self._staged() as folder:
            job = push_folder(
                folder,
                self.hub_model_id,
                commit_message=f"Training in progress, step {self.state.global_step}",
                blocking=False,
                in_training=True,
                token=self.args.hub_token,
                revision=self.args.hub_revision,
            )
        if busy:
            self.push_in_progress.jobs.append(job)
        else:
            self.push_in_progress = PushInProgress([job])

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """A temporary folder with the released model, its processor and the recipe."""
        with tempfile.TemporaryDirectory(prefix="handmim-trainer-") as temporary:
            folder = Path(temporary) / str(self.hub_model_id).rsplit("/", 1)[-1]
            self.save_weights(folder)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)
            recipe = Path(self.args.output_dir) / "recipe.yaml"
            if recipe.is_file():
                shutil.copyfile(recipe, folder / recipe.name)
            yield folder


def _card_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of transformers' card as those of ours."""
    found = {CARD_ARGUMENTS.get(name, name): value for name, value in given.items()}
    found = {name: value for name, value in found.items() if name in OWN_ARGUMENTS and value is not None}
    if isinstance(found.get("datasets"), str):
        found["datasets"] = [found["datasets"]]
    return found
