"""What happens around the steps of a run: progress, epochs, signals, and steps that are refused."""

import json
import signal
import threading
from pathlib import Path

import torch
from torch import distributed
from transformers import ProgressCallback, TrainerCallback

from training_moon2.passes import largest

REFUSED_LOG = "refused.jsonl"


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says why and what to do."""


class EpochSetter(TrainerCallback):
    """Tells data set and sampler which epoch it is: augmentation and order change from one to the next."""

    def __init__(self):
        self.parts = []

    def on_epoch_begin(self, args, state, control, **kwargs):
        for part in self.parts:
            part.set_epoch(int(state.epoch))


class Interruption(TrainerCallback):
    """SIGINT or SIGTERM: the step is finished, a checkpoint is saved, training stops. The same one again acts at once.

    Attributes:
        signal (`signal.Signals` or `None`): what came, in any of the processes.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._received, self._handlers = 0, {}

    def on_train_begin(self, args, state, control, **kwargs):
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._receive)

    def _receive(self, number, frame):
        self._received = number
        signal.signal(number, self._handlers[number])

    def on_step_end(self, args, state, control, **kwargs):
        received = self._received
        if args.world_size > 1:  # processes get the signal in different steps but must stop after the same one
            (received,) = largest([received], args.device)
        if received:
            self.signal = signal.Signals(received)
            control.should_save = control.should_training_stop = True

    def restore(self):
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


class RefusedSteps(TrainerCallback):
    """Refuses a step whose loss or gradient is not finite: weights and optimizer stay as they were.

    Every refused step is written to refused.jsonl with the ids of its triplets.

    Args:
        most: so many in a row end the run.
    """

    def __init__(self, most: int):
        if most < 1:
            raise ValueError(f"max_refused_steps is {most}; it must be at least 1.")
        self.most = most
        self.total = self._in_a_row = 0
        self._reason: str | None = None
        self._query_ids: list[str] = []

    def saw(self, query_ids: list[str]):
        """Note the triplets of one batch of the step."""
        self._query_ids += query_ids

    def refuse(self, reason: str):
        """Ask for the step to be refused; all processes ask alike."""
        self._reason = reason

    def spoil(self, model: torch.nn.Module):
        """Give a model whose loss had no backward pass gradients that fp16's gradient scaler refuses: it wants some."""
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, torch.inf)

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        reason, query_ids = self._reason, self._query_ids
        self._reason, self._query_ids = None, []
        if reason is None and not args.fp16:  # with fp16 the gradient scaler refuses steps itself
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
            if not torch.isfinite(norm):
                reason = f"the gradient's norm is {norm.item()}"
        if reason is None:
            self._in_a_row = 0
            return
        if not args.fp16:  # the gradient scaler wants to see the gradients that it refuses
            model.zero_grad()  # without gradients the optimizer changes nothing, not even its own state
        self.total += 1
        self._in_a_row += 1
        if args.world_size > 1:
            parts = [None] * args.world_size
            distributed.all_gather_object(parts, query_ids)
            query_ids = [query_id for part in parts for query_id in part]
        if state.is_world_process_zero:
            entry = {"step": state.global_step + 1, "reason": reason, "query_ids": query_ids}
            with open(Path(args.output_dir) / REFUSED_LOG, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        if self._in_a_row == self.most:
            broken = sorted(name for name, value in model.named_parameters() if not torch.isfinite(value).all())
            advice = "The weights are those of the last good step: lower the learning rate, or look at these rows."
            if broken:
                advice = f"The weights themselves are not finite ({', '.join(broken[:3])}, ...): start from others."
            raise TrainingError(
                f"{self.most} steps in a row were refused, the last at step {state.global_step + 1} because {reason}; "
                f"their triplets are in {Path(args.output_dir) / REFUSED_LOG}. {advice}"
            )


class NoTask(TrainerCallback):
    """Takes their zeros from parameters without a task in a step, for DDP gives every parameter a gradient.

    With one process they have none, so that the optimizer leaves them alone; with zeros, weight decay shrinks them.
    """

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        given = [parameter for parameter in model.parameters() if parameter.grad is not None]
        if not given:  # the step was refused
            return
        norms = torch.stack(torch._foreach_norm([parameter.grad for parameter in given]))
        for parameter, norm in zip(given, norms.tolist(), strict=True):
            if norm == 0:
                parameter.grad = None


class Progress(ProgressCallback):
    """The usual progress bar, with one short line for each log instead of every figure."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.training_bar is None or logs is None:
            return
        if "eval_loss" in logs:
            recalls = ", ".join(
                f"{name.removeprefix('eval_recall_')} {value:.1%}"
                for name, value in logs.items()
                if name.startswith("eval_recall_")
            )
            self.training_bar.write(
                f"step {state.global_step}: validation loss {logs['eval_loss']:.3f}"
                + (f"; Recall@10 {recalls}" if recalls else "")
            )
        if "kept_share" not in logs:
            return
        objectives = [name.removeprefix("omega_") for name in logs if name.startswith("omega_")]
        losses = ", ".join(
            f"{name} {logs[f'loss_{name}']:.2f}x{logs[f'omega_{name}']:.2f}"
            for name in objectives
            if f"loss_{name}" in logs
        )
        refused = f", {logs['refused_steps']} steps refused" if logs.get("refused_steps") else ""
        self.training_bar.write(
            f"step {state.global_step}: loss {logs['loss']:.3f} (each x omega: {losses}), phi {logs['phi']:.2f}, "
            f"kept {logs['kept_share']:.0%}, margin {logs['similarity_margin']:.2f}, "
            f"{logs['triplets_per_second']:,.0f} triplets/s, {logs['tokens_per_second']:,.0f} tokens/s{refused}"
        )
