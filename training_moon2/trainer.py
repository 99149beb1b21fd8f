"""Moon2Trainer: the stock Trainer with the views, the losses and the safeguards of the method."""

import json
import operator
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, rotate_checkpoints
from transformers.utils import PushInProgress

from common_moon2.hub import refusal
from loss_moon2 import LossOutput, Moon2Loss, Products, router_z_loss
from publishing_moon2.checkpoints import push_checkpoint
from training_moon2.arguments import BatchArguments
from training_moon2.batches import TripletSampler
from training_moon2.callbacks import EpochSetter, Interruption, NoTask, RefusedSteps, TrainingError
from training_moon2.checkpoints import STAGING, move, seal, writing
from training_moon2.experts import use_sorted_rows
from training_moon2.figures import FilterRecord, ValidationRetrieval
from training_moon2.passes import Items, Passes, gather, gather_counts, largest, role_views
from training_moon2.triplets import ROLES, TripletDataset
from training_moon2.upcycling import expert_distance

# Written into the output folder: every logged figure, and the least trusted triplets since the last log.
LOG, FILTER_LOG = "log.jsonl", "filter.jsonl"


class NotFiniteError(TrainingError):
    """A loss that is NaN or infinite."""


class Moon2Trainer(Trainer):
    """The stock Trainer with the method's loss: a few passes give all views, the losses read them (MOON2.0, 1 to 4).

    With several processes the views and the routing statistics of all of them are gathered, with gradient: loss and
    gradient are those of one process with the whole batch.

    Args:
        loss: the objective and its options.
        grad_cache: do not keep what the passes compute; each is computed again when its gradient is due, so that the
            memory is that of one pass (`TripletCollator.chunk` sets its size), see `training_moon2.passes.Passes`.
        batches: how triplets are put together to batches.
        dual_alignment_learning_rate: of W*, which then has no weight decay; `None` for that of all weights.
        router_learning_rate_factor: learning rate of the routers, as a multiple of that of all weights.
        max_refused_steps: so many steps in a row with a loss or gradient that is not finite end the run.
        validation: adds its figures to every evaluation.
        dump_filtered: keep what `FilterRecord.dump` needs.
        run: what checkpoints are to be compared with on resuming, see `training_moon2.checkpoints.seal`.
        model, args, kwargs: as for `Trainer`; `data_collator` is a `TripletCollator`.

    Raises:
        ValueError: options that do not go together.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        loss: Moon2Loss,
        grad_cache: bool = False,
        batches: BatchArguments | None = None,
        dual_alignment_learning_rate: float | None = None,
        router_learning_rate_factor: float = 1.0,
        max_refused_steps: int = 5,
        validation: ValidationRetrieval | None = None,
        dump_filtered: bool = False,
        run: dict | None = None,
        **kwargs,
    ):
        if args.ddp_find_unused_parameters:
            raise ValueError(
                "ddp_find_unused_parameters does not work with several passes in one step; leave it out: here every "
                "parameter takes part in every step."
            )
        args.ddp_find_unused_parameters = False
        super().__init__(model, args, **kwargs)
        use_sorted_rows(self.model)
        self.loss = loss
        self.batches = batches or BatchArguments()
        self.validation = validation
        self.filter = FilterRecord(loss.filter_threshold, dump_filtered)
        self.run = run or {}
        self.grad_cache = grad_cache
        self.dual_alignment_learning_rate = dual_alignment_learning_rate
        self.router_learning_rate_factor = router_learning_rate_factor
        self.can_return_loss = True  # so that evaluate() computes the loss without labels
        if grad_cache and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError(
                "grad_cache_chunk does not go with FSDP or DeepSpeed ZeRO: a pass that is computed again in the "
                "backward pass would have to gather the weights that are being released there. Use "
                "activation_checkpointing with smaller batches on more processes, or LoRA without sharding."
            )
        self._epochs = EpochSetter()
        self._refused = RefusedSteps(max_refused_steps)
        self.interruption = Interruption()
        for callback in (self._epochs, self._refused, self.interruption):
            self.add_callback(callback)
        if args.world_size > 1 and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            self.add_callback(NoTask())
        self._staging: str | None = None
        self._figures: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._last_logged = time.perf_counter()

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, TripletDataset):
            return super()._get_train_sampler(train_dataset)
        batch_size = self._train_batch_size * self.args.world_size
        sampler = TripletSampler(dataset, batch_size, self.batches, self.args.seed)
        self._epochs.parts = [dataset, sampler]
        return sampler

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Make the optimizer; W* and the routers are groups of their own if they have another learning rate."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        rates = {}
        if made and self.dual_alignment_learning_rate is not None:
            rates["dual_alignment"] = {"lr": self.dual_alignment_learning_rate, "weight_decay": 0.0}
        if made and self.router_learning_rate_factor != 1:
            rates["mlp.gate."] = {"lr": self.router_learning_rate_factor * self.args.learning_rate}
        weights = dict((self.model if model is None else model).named_parameters())
        for part, options in rates.items():
            own = {id(weight) for name, weight in weights.items() if part in name}
            for group in [*optimizer.param_groups]:  # what is not replaced, such as weight decay, stays as it was
                chosen = [weight for weight in group["params"] if id(weight) in own]
                group["params"] = [weight for weight in group["params"] if id(weight) not in own]
                if chosen:
                    optimizer.add_param_group({**group, **options, "params": chosen})
        return optimizer

    def train(self, *args, **kwargs):
        """Train as in `Trainer`; the signal handlers are given back however it ends."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.interruption.restore()

    def _run_epoch(self, *args, **kwargs):
        """Run an epoch; `Trainer` would train one step too many when a run is resumed after its last step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Train on one batch; one whose loss is not finite adds nothing and has its step refused."""
        self._refused.saw(inputs["query_ids"])
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        except NotFiniteError as error:
            self._refused.refuse(str(error))
            if self.args.fp16:
                self._refused.spoil(model)
            return torch.zeros((), device=self.args.device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the total loss (a scalar) of one batch from `TripletCollator`.

        Raises:
            NotFiniteError: it is NaN or infinite; the message names triplets.
        """
        items, rows, keys = self._embed(model, inputs)
        roles = {role: role_views(items, rows[role]) for role in ROLES}
        unwrapped = self.accelerator.unwrap_model(model)
        config = unwrapped.config
        result = self.loss(
            roles["query"],
            Products(positive=roles["positive"], negative=roles["negative"], **keys),
            unwrapped.dual_alignment.weight,
            config.objectives,
            aux_loss=load_balancing_loss_func(
                tuple(items.router_logits.unbind(1)), config.num_experts, config.num_experts_per_tok
            ),
            progress=self.state.global_step / self.state.max_steps if self.state.max_steps else 0.0,
            z_loss=router_z_loss(items.router_logits) if self.loss.z_loss_weight else 0.0,
        )
        if not torch.isfinite(result.loss):
            broken = ~torch.stack([roles[role].own.isfinite().all(1) for role in ROLES]).all(0)
            broken = broken[self._own(broken, inputs)].tolist()
            named = [query_id for query_id, wrong in zip(inputs["query_ids"], broken, strict=True) if wrong]
            raise NotFiniteError(
                f"the loss is {result.loss.item()}; "
                + (f"no finite vector for the triplets {', '.join(named)}" if named else "all its vectors are finite")
            )
        if model.training:
            self._record(result, items, inputs)
        return (result.loss, {}) if return_outputs else result.loss

    def _embed(self, model, inputs) -> tuple[Items, dict, dict]:
        """Run all passes; with several processes, gather what they gave.

        Returns:
            the items of all passes, the places of each role's items among them, and the products' keys.
        """
        passes, rows, keys = inputs["passes"], inputs["rows"], inputs["keys"]
        parallel = self.args.world_size > 1
        counts = {kind: len(batches) for kind, batches in passes.items()}
        if parallel:
            # Every pass needs all processes: where weights are sharded they gather them, under DDP they share buffers.
            most = largest(list(counts.values()), self.args.device)
            counts = dict(zip(counts, most, strict=True))
        run = Passes(model, sum(counts.values()), self.grad_cache)
        outputs = []
        for kind, batches in passes.items():
            outputs += [run(features) for features in batches]
            if counts[kind] > len(batches):
                filler = self._prepare_inputs(self.data_collator.filler(kind))
                for _ in range(counts[kind] - len(batches)):
                    outputs.append(run(filler).none())
        items = Items(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))
        if parallel:
            device = self.args.device
            item_counts = gather_counts(len(items.embeddings), device)
            token_counts = gather_counts(len(items.router_logits), device)
            triplet_counts = gather_counts(len(inputs["query_ids"]), device)
            before = sum(item_counts[: self.args.process_index])
            places = {
                role: {kind: torch.where(place < 0, place, place + before) for kind, place in kinds.items()}
                for role, kinds in rows.items()
            }
            rows = {
                role: {kind: gather(place, triplet_counts) for kind, place in kinds.items()}
                for role, kinds in places.items()
            }
            keys = {name: gather(key, triplet_counts) for name, key in keys.items()}
            items = Items(
                *(gather(part, item_counts) for part in items[:-1]), gather(items.router_logits, token_counts)
            )
        return items, rows, keys

    def _own(self, gathered: torch.Tensor, inputs) -> slice:
        """Return which rows of what all processes hold, (triplets, ...), are this process's."""
        count = len(inputs["query_ids"])
        if self.args.world_size == 1:
            return slice(0, count)
        start = sum(gather_counts(count, gathered.device)[: self.args.process_index])
        return slice(start, start + count)

    def _record(self, result: LossOutput, items: Items, inputs):
        """Keep the figures of this step until the next log."""
        figures = {f"loss_{name}": value for name, value in result.objective_losses.items()}
        figures |= {f"omega_{name}": value for name, value in result.omega.items()}
        figures |= {
            "omega_sum": sum(result.omega.values()),
            "loss_sparsity": result.sparsity,
            "phi": result.phi.mean(),
            "kept_share": result.kept,
            "positive_similarity": result.positive_similarity,
            "negative_similarity": result.negative_similarity,
            "similarity_margin": result.positive_similarity - result.negative_similarity,
            "tokens": torch.tensor(len(items.router_logits)),
            "triplets": torch.tensor(len(result.phi)),
        }
        compositions = {
            "t": (items.expert_usage, ~items.has_image),
            "i": (items.image_expert_usage, items.has_image),
            "mm": (items.expert_usage, items.has_image & items.has_text),
        }
        for composition, (usage, rows) in compositions.items():
            if rows.any():
                for expert, share in enumerate(usage[rows].mean(0)):
                    figures[f"expert_{expert}_{composition}"] = share
        for name, value in figures.items():
            self._figures[name].append(value.detach())
        phi = result.phi[self._own(result.phi, inputs)].tolist()
        names = (inputs[name] for name in ("query_ids", "positive_ids", "false_positives"))
        self.filter.add(self.state.global_step, phi, *names)

    def log(self, logs: dict[str, float], start_time: float | None = None):
        """Add the mean of every figure since the last log; write everything to log.jsonl, and the least
        trusted triplets to filter.jsonl."""
        extra = {}
        if "loss" in logs and self._figures:
            now = time.perf_counter()
            seconds, self._last_logged = now - self._last_logged, now
            counts = {name: torch.stack(self._figures.pop(name)).sum().item() for name in ("tokens", "triplets")}
            logs |= {name: torch.stack(values).float().mean().item() for name, values in self._figures.items()}
            logs |= {f"{name}_per_second": count / seconds for name, count in counts.items()}
            sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
            distance = None if sharded else expert_distance(self.accelerator.unwrap_model(self.model))
            logs |= {} if distance is None else {"expert_distance": distance}
            if self._refused.total:
                logs["refused_steps"] = self._refused.total
            extra = self.filter.since_last_log(self.args.world_size)
            logs |= {name: extra.pop(name) for name in ("filter_precision", "filter_recall") if name in extra}
            self._figures.clear()
        if "train_loss" in logs and self.is_world_process_zero():
            logs["train_loss"] = self._mean_loss() or logs["train_loss"]
        super().log(logs, start_time)
        if self.is_world_process_zero():
            entry = {"step": self.state.global_step, "epoch": self.state.epoch} | logs
            if extra:
                lowest = {name: logs[name] for name in ("phi", "kept_share")} | {"lowest_phi": extra.pop("lowest_phi")}
                self._append(FILTER_LOG, {"step": self.state.global_step} | lowest)
            self._append(LOG, entry | extra)

    def _mean_loss(self) -> float | None:
        """Return the mean loss of all steps in log.jsonl: `Trainer` knows only those since it was resumed."""
        file = Path(self.args.output_dir) / LOG
        entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
        entries = [entry for entry in entries if "loss" in entry]
        steps = [entry["step"] - before["step"] for before, entry in pairwise([{"step": 0}, *entries])]
        losses = [entry["loss"] for entry in entries]
        return sum(map(operator.mul, losses, steps)) / sum(steps) if sum(steps) else None

    def _append(self, name: str, entry: dict):
        with open(Path(self.args.output_dir) / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs):
        """Evaluate, with retrieval on the validation triplets: every process computes it whole."""
        start = time.perf_counter()
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.validation is not None:
            model = self.accelerator.unwrap_model(self.model).eval()
            recalls = self.validation(model, self.processing_class, self.args.eval_batch_size)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in recalls.items()})
        self._last_logged += time.perf_counter() - start  # triplets per second are those of training
        return output

    def _get_output_dir(self, trial) -> str:
        return self._staging or super()._get_output_dir(trial)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None):
        """Make the repository on the Hub.

        Raises:
            ValueError: the Hub refuses; the message says why.
        """
        try:
            super().init_hf_repo(token, private)
        # The client lets many kinds of errors through: those of its HTTP library, of the system, and RuntimeError.
        except Exception as error:
            name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
            raise ValueError(refusal(name, error, token or self.args.hub_token)) from error

    def _push_from_checkpoint(self, checkpoint_folder: str):
        """Push a checkpoint that is complete, and of its files those that make up a model."""
        if self._staging or not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        running = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if running and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        job = push_checkpoint(Path(checkpoint_folder), self.args, self.hub_model_id, self.state.global_step)
        self.push_in_progress = PushInProgress([*(self.push_in_progress.jobs if running else []), job])

    def _save_checkpoint(self, model, trial):
        """Save a checkpoint, which appears under its name only when it is complete and on the disk.

        Raises:
            CheckpointError: it cannot be written; earlier checkpoints are as they were.
        """
        run_dir = Path(super()._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        best = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        staged = run_dir / STAGING / name
        with writing(staged, remove=self.args.should_save):
            self._staging = str(staged.parent)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            self.accelerator.wait_for_everyone()
            if self.state.best_global_step and (best.exists() or best.name == name):
                self.state.best_model_checkpoint = str(best)
            if self.args.should_save:
                self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
                # A pickle that nobody reads, with hub_token in it.
                (staged / TRAINING_ARGS_NAME).unlink(missing_ok=True)
                seal(staged, self.run)
                move(staged, run_dir / name)
                if self.args.push_to_hub:
                    self._push_from_checkpoint(str(run_dir / name))
                rotate_checkpoints(
                    output_dir=str(run_dir),
                    save_total_limit=self.args.save_total_limit,
                    best_model_checkpoint=self.state.best_model_checkpoint,
                )
        self.accelerator.wait_for_everyone()
