"""Push the checkpoints of a run that goes on: the Trainer's `push_to_hub`, `hub_strategy` and the like."""

import os
import shutil
from concurrent.futures import Future
from pathlib import Path

from huggingface_hub import HfApi
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from common_moon2.cli import UserError
from common_moon2.hub import Pushed, refusal
from publishing_moon2.arguments import PushArguments
from publishing_moon2.push import push_model

PUSHING = ".pushing"
logger = logging.get_logger(__name__)


def push_checkpoint(checkpoint: Path, args: TrainingArguments, repo_id: str, step: int) -> Future:
    """Start to upload a complete checkpoint; training goes on, and so it does if the upload fails, with a warning.

    The model goes into the repository, without the optimizer; with `hub_strategy` "checkpoint" or "all_checkpoints" the
    whole checkpoint as well, into a folder. A LoRA checkpoint is no model yet: of it only the latter.
    """
    copy = checkpoint.parent / PUSHING / checkpoint.name
    shutil.rmtree(copy, ignore_errors=True)
    # Links, so that save_total_limit may remove the checkpoint while it is being uploaded.
    shutil.copytree(checkpoint, copy, copy_function=_link)
    return HfApi().run_as_future(_push, copy, args, repo_id, f"Training in progress, step {step}")


def push_final(folder: Path, args: TrainingArguments, repo_id: str) -> Pushed:
    """Upload the finished model.

    Raises:
        UserError: the Hub refuses; the message says why, and how to push again.
    """
    told = PushArguments(model=folder, repo=repo_id, branch=args.hub_revision or "main", private=args.hub_private_repo)
    try:
        return push_model(told, token=args.hub_token)
    except UserError as error:
        raise UserError(
            f"{error} The model is whole in {folder}; to push it: "
            f"python -m evaluation push --model {folder} --repo {repo_id}"
        ) from error


def _push(folder: Path, args: TrainingArguments, repo_id: str, message: str):
    branch = args.hub_revision or "main"
    try:
        if (folder / "config.json").is_file():
            told = PushArguments(model=folder, repo=repo_id, branch=branch, message=message)
            push_model(told, token=args.hub_token)
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            latest = args.hub_strategy == HubStrategy.CHECKPOINT
            HfApi(token=args.hub_token, library_name="moon2").upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                path_in_repo="last-checkpoint" if latest else folder.name,
                revision=branch,
                commit_message=f"{message}: the checkpoint",
                delete_patterns="*",
            )
    except UserError as error:
        logger.warning(f"{folder.name} was not pushed: {error}")
    except Exception as error:  # nothing that the Hub does may end a run
        logger.warning(f"{folder.name} was not pushed: {refusal(repo_id, error, args.hub_token)}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link(source: str, target: str):
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
