"""Moon2Trainer: GradCache gives the plain gradients in the memory of one pass; options that do not go together."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainingArguments

from configuration_moon2 import Moon2Config
from conftest import picture, tiny_model, tiny_processor, vlm_config
from loss_moon2 import Moon2Loss
from modeling_moon2 import Moon2Model
from training_moon2.collator import TripletCollator
from training_moon2.passes import Items, role_views
from training_moon2.trainer import Moon2Trainer
from training_moon2.triplets import ROLES, TripletDataset, load_triplets

# All of the method at work from the first step: gradient through omega, both auxiliary losses, the filter.
OBJECTIVE = dict(objective_weighting="learned", aux_loss_weight=0.5, sparsity_loss_weight=0.1, filter_warmup=0.0)


def with_dropout(dropout: float) -> Moon2Model:
    config = vlm_config("qwen3_vl")
    config.text_config.attention_dropout = dropout
    torch.manual_seed(0)
    return Moon2Model(Moon2Config(vlm_config=config))


def make_trainer(model, mbe2: str, output_dir, grad_cache: bool, chunk: int = 3, unit: str = "items", **options):
    arguments = TrainingArguments(
        str(output_dir), use_cpu=True, report_to="none", remove_unused_columns=False, label_names=[], **options
    )
    return Moon2Trainer(
        model,
        arguments,
        loss=Moon2Loss(**OBJECTIVE),
        grad_cache=grad_cache,
        data_collator=TripletCollator(tiny_processor(), chunk, unit),
        train_dataset=TripletDataset(load_triplets(mbe2, "train", refresh=False), 0.5, 0.5),
    )


def step(trainer: Moon2Trainer, triplets: list[dict]) -> tuple[dict[str, torch.Tensor], int]:
    """Loss and gradients of a step, and the bytes that its forward keeps for the backward."""
    kept = {}

    def note(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    torch.manual_seed(7)
    model = trainer.model.train()
    model.zero_grad()
    inputs = trainer._prepare_inputs(trainer.data_collator(triplets))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = trainer.compute_loss(model, inputs)
    loss.backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return found | {"loss": loss.detach()}, sum(kept.values())


@pytest.mark.parametrize(
    "how, chunk, unit",
    [
        ("plain", 60, "tokens"),
        ("dropout", 3, "items"),
        ("lora", 3, "items"),
        ("activation_checkpointing", 3, "items"),
    ],
)
def test_grad_cache_gives_the_gradients_of_the_plain_step(mbe2, tmp_path, how, chunk, unit):
    """With dropout, several images in an item, texts alone, routing statistics, L_aux and the filter at work."""
    found, kept = [], []
    for grad_cache in (False, True):
        model = with_dropout(0.3 if how == "dropout" else 0.0)
        if how == "lora":
            targets = dict(target_modules=r".*self_attn\.[qv]_proj", modules_to_save=["mlp.gate", "dual_alignment"])
            model = get_peft_model(model, LoraConfig(r=4, lora_dropout=0.2, init_lora_weights=False, **targets))
        trainer = make_trainer(
            model, mbe2, tmp_path, grad_cache, chunk, unit, gradient_checkpointing=how == "activation_checkpointing"
        )
        if how == "activation_checkpointing":
            model.gradient_checkpointing_enable()
        triplets = [trainer.train_dataset[index] for index in range(8)]
        triplets[2]["positive"]["image"] = [picture(40, 30, 1), picture(24, 48, 2)]
        triplets[3]["query"] = {"text": "red mug", "image": None}
        gradients, size = step(trainer, triplets)
        found.append(gradients)
        kept.append(size)
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert found[0]["loss"] != 0 and any(value.abs().max() > 1e-4 for value in found[0].values())
    assert kept[1] < kept[0] / (1.2 if how == "activation_checkpointing" else 4)


def test_dropout_is_drawn_anew_where_the_random_state_is_not_kept(mbe2, tmp_path):
    """The comparison above would notice: other random numbers give other gradients."""
    found = []
    for seed in (7, 8):
        trainer = make_trainer(with_dropout(0.3), mbe2, tmp_path, grad_cache=True)
        torch.manual_seed(seed)
        model = trainer.model.train()
        trainer.compute_loss(
            model, trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
        ).backward()
        found.append(model.dual_alignment.weight.grad.clone())
    assert not torch.allclose(*found, atol=1e-6)


def test_a_pass_is_computed_again_only_for_its_gradient(mbe2, tmp_path):
    calls = []
    trainer = make_trainer(tiny_model(), mbe2, tmp_path, grad_cache=True)
    trainer.model.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    inputs = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    count = sum(map(len, inputs["passes"].values()))
    with torch.no_grad():
        trainer.compute_loss(trainer.model, inputs)
    assert calls == [False] * count
    calls.clear()
    trainer.compute_loss(trainer.model, inputs).backward()
    assert calls == [False] * count + [True] * count


def test_no_graph_is_kept_of_a_pass_that_is_computed_again(mbe2, tmp_path):
    """Memory would grow with the number of passes by it, though it holds no tensors."""
    sizes = []
    for grad_cache in (False, True):
        trainer = make_trainer(tiny_model(), mbe2, tmp_path, grad_cache)
        loss = trainer.compute_loss(trainer.model.train(), trainer.data_collator([trainer.train_dataset[0]]))
        nodes, left = set(), [loss.grad_fn]
        while left:
            node = left.pop()
            if node is not None and node not in nodes:
                nodes.add(node)
                left += [following for following, _ in node.next_functions]
        sizes.append(len(nodes))
    assert sizes[1] < sizes[0] / 4


def test_grad_cache_is_refused_where_weights_are_sharded(mbe2, tmp_path, monkeypatch):
    """Whether they are is asked of accelerate; here only the answer is exchanged, as FSDP needs GPUs."""

    class Sharded(Moon2Trainer):
        def create_accelerator_and_postprocess(self):
            super().create_accelerator_and_postprocess()
            self.is_fsdp_enabled = True

    monkeypatch.setattr("test_trainer.Moon2Trainer", Sharded)
    with pytest.raises(ValueError, match="does not go with FSDP or DeepSpeed ZeRO"):
        make_trainer(tiny_model(), mbe2, tmp_path, grad_cache=True)
    make_trainer(tiny_model(), mbe2, tmp_path, grad_cache=False)


@pytest.mark.parametrize("rate", [None, 0.5, 0.0])
def test_w_star_may_have_a_learning_rate_of_its_own(mbe2, tmp_path, rate):
    """Adam's first step is as long as the learning rate, whatever the gradient."""
    model = with_dropout(0.0)
    options = {"max_steps": 1, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "weight_decay": 0.1}
    trainer = make_trainer(model, mbe2, tmp_path, False, per_device_train_batch_size=4, **options)
    trainer.dual_alignment_learning_rate = rate
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer.train()
    moved = {name: (weight - before[name]).abs() for name, weight in model.named_parameters()}
    expected = torch.full((4, 5), 1e-3 if rate is None else rate)
    torch.testing.assert_close(moved.pop("dual_alignment.weight"), expected, atol=0, rtol=0.1)
    assert 5e-4 < max(move.max() for move in moved.values()) < 2e-3, "all others move at the common rate"
    groups = trainer.optimizer.param_groups
    assert [len(group["params"]) for group in groups[2:]] == ([] if rate is None else [1])
    assert sum(len(group["params"]) for group in groups) == len(before)


def test_searching_for_unused_parameters_is_refused(mbe2, tmp_path):
    with pytest.raises(ValueError, match="ddp_find_unused_parameters does not work with several passes"):
        make_trainer(tiny_model(), mbe2, tmp_path, False, ddp_find_unused_parameters=True)


def test_views_found_in_few_passes_equal_separate_forwards(mbe2):
    """Every view of every role, as `role_views` finds it, is the embedding of that product alone."""
    model, processor = tiny_model(), tiny_processor()
    triplets = [TripletDataset(load_triplets(mbe2, "train"))[index] for index in range(9)]
    kinds = {(triplet["query"]["text"] is None, triplet["query"]["image"] is None) for triplet in triplets}
    assert len(kinds) == 3, "the sample should have text, image and mixed queries"
    batch = TripletCollator(processor, 7)(triplets)
    with torch.no_grad():
        passes = [features for batches in batch["passes"].values() for features in batches]
        outputs = [Items.of(model(**features), features) for features in passes]
        assert len(outputs) > 4 and all(len(output.embeddings) <= 7 for output in outputs)
        items = Items(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))
        for role in ROLES:
            found = role_views(items, batch["rows"][role])
            for row, triplet in enumerate(triplets):
                text, image = triplet[role]["text"], triplet[role]["image"]
                views = {
                    "t": {"text": text} if text else None,
                    "i": {"image": image} if image else None,
                    "mm": {"text": text, "image": image} if text and image else None,
                }
                for name, product in views.items():
                    view = getattr(found, name)
                    assert view.present[row].item() == (product is not None)
                    if product:
                        alone = model(**processor([product]))
                        torch.testing.assert_close(view.embeddings[row], alone.embeddings[0], atol=1e-5, rtol=0)
                        torch.testing.assert_close(view.usage[row], alone.expert_usage[0], atol=1e-5, rtol=0)
                own = model(**processor([views["mm"] or views["i"] or views["t"]]))
                torch.testing.assert_close(found.own[row], own.embeddings[0], atol=1e-5, rtol=0)


def test_a_batch_of_texts_only_and_of_pictures_only(mbe2, tmp_path):
    model, processor = tiny_model(), tiny_processor()
    dataset = TripletDataset(load_triplets(mbe2, "train"))
    trainer = Moon2Trainer(
        model, TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none"), loss=Moon2Loss(),
        data_collator=TripletCollator(processor), train_dataset=dataset,
    )  # fmt: skip
    for missing in ("image", "text"):
        triplets = [dataset[index] for index in range(4)]
        for triplet in triplets:
            for role in ROLES:
                other = "text" if missing == "image" else "image"
                content = triplet[role][other] or triplet["positive"][other]
                triplet[role] = {other: content, missing: None}
        loss = trainer.compute_loss(model, TripletCollator(processor)(triplets))
        loss.backward()
        assert torch.isfinite(loss) and all(
            torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None
        )
