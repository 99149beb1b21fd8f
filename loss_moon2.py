"""The formulas of MOON2.0 as functions of embeddings and expert usage; they know no model and no trainer.

Shapes: B triplets, D dimensions, Z experts, M objectives. Section numbers are those of the paper's method as the README
maps them. All losses are computed in float32, whatever precision the embeddings come in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from common_moon2.loss_options import LossOptions
from configuration_moon2 import INTER_OBJECTIVES, INTRA_OBJECTIVES

# How many similarities `info_nce` holds at once: in float32 4 MiB, which with what the backward pass needs of them is
# little beside a pass of a model. Batches of up to 512 triplets (intra-product: 1,024 x 1,024) are one piece.
MAX_SIMILARITIES = 2**20


class View(NamedTuple):
    """One view (t, i or mm) of B items.

    embeddings (B, D), normalised; usage (B, Z): the view's G~; present (B,) bool: which items have the view. Rows that
    lack it take no part in anything; what stands in them does not matter, not even to the gradient.
    """

    embeddings: torch.Tensor
    usage: torch.Tensor
    present: torch.Tensor


class Role(NamedTuple):
    """One role (query, positive or negative) of B triplets: its three views, and `own` (B, D), the richest of them."""

    t: View
    i: View
    mm: View
    own: torch.Tensor


class Products(NamedTuple):
    """Positives and negatives: the roles, and integer keys (B,) of product and group, equal where these are equal."""

    positive: Role
    negative: Role
    positive_id: torch.Tensor
    negative_id: torch.Tensor
    positive_group: torch.Tensor
    negative_group: torch.Tensor


@dataclass
class LossOutput:
    """loss: the total, a scalar with gradient. Everything else is for reading.

    objective_losses and omega: by objective, scalars; an objective that no row of the batch has is absent from
    objective_losses. phi (B,), weight (B,): the filter's score and the weight of each triplet.
    """

    loss: torch.Tensor
    objective_losses: dict[str, torch.Tensor]
    omega: dict[str, torch.Tensor]
    sparsity: torch.Tensor
    phi: torch.Tensor
    weight: torch.Tensor
    kept: torch.Tensor
    positive_similarity: torch.Tensor
    negative_similarity: torch.Tensor


class Moon2Loss(LossOptions):
    """The training objective of section 3; `LossOptions` says what can be chosen."""

    def __call__(
        self,
        query: Role,
        products: Products,
        dual_alignment: torch.Tensor,
        objectives: list[str],
        aux_loss: torch.Tensor,
        progress: float,
        z_loss: torch.Tensor | float = 0.0,
    ) -> LossOutput:
        """Return the loss of B triplets; NaN if a vector that takes part is.

        Args:
            query, products: the views of queries, positives and negatives.
            dual_alignment: W* (Z, M).
            objectives: names of the M columns of W*.
            aux_loss: L_aux, from the model's router logits.
            progress: how much of the training is done, 0 to 1; moves the filter's margin.
            z_loss: `router_z_loss` of the model's router logits.

        Raises:
            ValueError: matryoshka_dims asks for more dimensions than the embeddings have.
        """
        width, dims = query.own.shape[-1], self.matryoshka_dims or []
        if any(dim > width for dim in dims):
            raise ValueError(
                f"matryoshka_dims has {max(dims)}, but the embeddings have {width} dimensions: a shortened embedding "
                "cannot be longer than the full one."
            )
        with torch.autocast(dual_alignment.device.type, enabled=False):
            phi, weight = dynamic_filter(
                query.own,
                products.positive.own,
                products.negative.own,
                threshold=self.filter_threshold,
                sharpness=self.filter_sharpness,
                margin=self.filter_margin * (1 - progress),
                power=self.filter_power,
            )
            if progress < self.filter_warmup:
                weight = torch.ones_like(weight)
            rows = inter_product_losses(query, products, self.temperature, dims)
            rows = {name: (losses * weight[used], used) for name, (losses, used) in rows.items()}
            rows |= intra_product_losses(products, self.intra_temperature, dims)
            present = {name: rows[name][1] for name in objectives}
            objective_losses = {name: rows[name][0].mean() for name in objectives if present[name].any()}
            if self.objective_weighting == "uniform":
                omega = {name: present[name].any() / len(objectives) for name in objectives}
            elif self.objective_weighting == "queries":
                omega = query_weights(present)
            else:
                usage = anchor_usage(query, products)
                used = {name: usage[name][present[name]] for name in objectives}
                omega = objective_weights(dual_alignment, objectives, used)
            if self.objective_weighting == "detached":
                omega = {name: value.detach() for name, value in omega.items()}
            sparsity = sparsity_loss(dual_alignment)
            loss = sum(omega[name] * value for name, value in objective_losses.items())
            loss = loss + self.aux_loss_weight * aux_loss + self.sparsity_loss_weight * sparsity
            loss = loss + self.z_loss_weight * z_loss
        return LossOutput(
            loss=loss,
            objective_losses=objective_losses,
            omega=omega,
            sparsity=sparsity,
            phi=phi,
            weight=weight,
            kept=(phi >= self.filter_threshold).float().mean(),
            positive_similarity=_similarity(query.own, products.positive.own).mean(),
            negative_similarity=_similarity(query.own, products.negative.own).mean(),
        )


def info_nce(
    anchors: torch.Tensor,
    targets: torch.Tensor,
    positive: torch.Tensor,
    keys: torch.Tensor,
    temperature: float,
    dims: Sequence[int] = (),
) -> torch.Tensor:
    """InfoNCE of each anchor: -log of its positive's share in the softmax over the positive and the negatives.

    The negatives are the targets that have no key in common with the positive. Beyond `MAX_SIMILARITIES` the anchors
    are taken in chunks, which the backward pass computes again, so that memory does not grow with N * K.

    Args:
        anchors (N, D), targets (K, D): normalised embeddings.
        positive (N,): index of each anchor's positive among the targets.
        keys (C, K): C integers for each target, such as its product and its group.
        dims: with some, the losses are the mean of those of the full embeddings and of their first d dimensions,
            normalised again, for each d of dims, none above D (Matryoshka; our addition).

    Returns:
        (N,) losses in float32.
    """
    widths = sorted({anchors.shape[-1], *dims})
    chunk = max(1, MAX_SIMILARITIES // max(1, len(targets) * len(widths)))
    if len(anchors) > chunk:
        losses = [
            checkpoint(info_nce, rows, targets, own, keys, temperature, dims, use_reentrant=False)
            for rows, own in zip(anchors.split(chunk), positive.split(chunk), strict=True)
        ]
        return torch.cat(losses)
    excluded = (keys[:, positive, None] == keys[:, None]).any(0).scatter(1, positive[:, None], False)
    # Added to the logits, not filled in: a NaN stays one, also where it is excluded, so that it shows in the loss.
    mask = torch.zeros(excluded.shape, device=excluded.device).masked_fill_(excluded, -math.inf)
    anchors, targets = anchors.float(), targets.float()
    losses = []
    for width in widths:
        rows, candidates = anchors[:, :width], targets[:, :width]
        if width < anchors.shape[-1]:
            rows, candidates = F.normalize(rows, dim=-1), F.normalize(candidates, dim=-1)
        losses.append(F.cross_entropy(rows @ candidates.T / temperature + mask, positive, reduction="none"))
    return torch.stack(losses).mean(0)


def inter_product_losses(
    query: Role, products: Products, temperature: float, dims: Sequence[int] = ()
) -> dict[str, tuple]:
    """Compare every view of the query with the multimodal positives and negatives of the batch (section 3,
    inter-product).

    A query's negatives are its own negative and all other products of the batch, except those that share a product or
    group id with its positive: listings of one product are not negatives of each other (our choice).

    Returns:
        For each objective the losses (B_m,) and the mask (B,) of the rows that have it.
    """
    targets = torch.cat([products.positive.own, products.negative.own])
    own = torch.arange(len(products.positive.own), device=targets.device)
    keys = _keys(products)
    losses = {}
    for name, view in zip(INTER_OBJECTIVES, (query.t, query.i, query.mm), strict=True):
        rows = view.present
        losses[name] = (info_nce(view.embeddings[rows], targets, own[rows], keys, temperature, dims), rows)
    return losses


def intra_product_losses(products: Products, temperature: float, dims: Sequence[int] = ()) -> dict[str, tuple]:
    """Image view and text view of each positive and negative against each other (section 3, intra-product).

    The other products of the batch are the negatives, except listings of the same product or group; both directions
    are taken (our choice).

    Returns:
        For each objective the losses (B_m,) and the mask (2 B,) of the products, positives first, that have both views.
    """
    sides = products.positive, products.negative
    rows = torch.cat([side.i.present & side.t.present for side in sides])
    image = torch.cat([side.i.embeddings for side in sides])[rows]
    text = torch.cat([side.t.embeddings for side in sides])[rows]
    keys = _keys(products)[:, rows]
    own = torch.arange(len(image), device=image.device)
    losses = info_nce(image, text, own, keys, temperature, dims), info_nce(text, image, own, keys, temperature, dims)
    return {name: (loss, rows) for name, loss in zip(INTRA_OBJECTIVES, losses, strict=True)}


def anchor_usage(query: Role, products: Products) -> dict[str, torch.Tensor]:
    """G~ of each objective's anchors: the view that it reads on its anchor side (our reading of section 2).

    Returns:
        (B, Z) for the inter-product objectives, (2 B, Z) for the intra-product ones.
    """
    image = torch.cat([products.positive.i.usage, products.negative.i.usage])
    text = torch.cat([products.positive.t.usage, products.negative.t.usage])
    return {"t2mm": query.t.usage, "i2mm": query.i.usage, "mm2mm": query.mm.usage, "i2t": image, "t2i": text}


def objective_weights(
    dual_alignment: torch.Tensor, objectives: list[str], usage: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """omega_m = 1 / |B_m| sum over b in B_m, z of p_{z,m} G~_{z,b}; p_{z,.} = softmax of W*_{z,.} (section 2).

    An objective without rows gets weight 0.
    """
    preference = dual_alignment.float().softmax(dim=1)
    return {
        name: (usage[name].float().mean(0) @ preference[:, m] if len(usage[name]) else preference.new_zeros(()))
        for m, name in enumerate(objectives)
    }


def query_weights(present: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """omega by the queries of the batch (our addition): the inter-product objectives are one mean over all views of all
    queries, so that a modality which few queries have does not weigh as much as one that most have.

    Together they weigh what they would with 1 / M each, which is what each intra-product objective does. An objective
    without rows gets weight 0.

    Args:
        present: for each of the M objectives the mask of the rows that have it.
    """
    inter = [name for name in present if name in INTER_OBJECTIVES]
    views = sum(present[name].sum() for name in inter)
    omega = {name: present[name].any() / len(present) for name in present}
    return omega | {name: present[name].sum() / views.clamp(min=1) * len(inter) / len(present) for name in inter}


def sparsity_loss(dual_alignment: torch.Tensor) -> torch.Tensor:
    """L_sparsity: the mean over experts of the entropy (nats) of their preference for objectives (section 2)."""
    log_preference = dual_alignment.float().log_softmax(dim=1)
    return -(log_preference.exp() * log_preference).sum(dim=1).mean()


def router_z_loss(router_logits: torch.Tensor) -> torch.Tensor:
    """Return the mean of log(sum exp)^2 over tokens and layers, of logits (T, layers, Z), in float32 (ST-MoE).

    It keeps logits small, so that the softmax stays soft and exact in bf16 (our addition).
    """
    return router_logits.float().logsumexp(-1).square().mean()


def dynamic_filter(
    query: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    threshold: float,
    sharpness: float,
    margin: float,
    power: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """phi = sigmoid(kappa (q.p - q.n - margin)) and the weights that follow from it (section 4).

    A triplet with phi below the threshold is weighted by phi, to the given power (our addition), not removed; the
    weights are then scaled to mean 1 over the batch (our choice). So a batch that lies below the threshold as a whole
    counts as much as any other, and its triplets in the ratios of their weights, also where these are too small for a
    float32. Embeddings (B, D) are normalised; no gradient flows.

    Returns:
        phi (B,) and weights (B,), in float32.
    """
    score = sharpness * (_similarity(query, positive) - _similarity(query, negative) - margin)
    phi = score.sigmoid()
    # Scaling by the mean is a softmax of logarithms, which divides by no vanished sum.
    log_weight = torch.where(phi >= threshold, torch.zeros_like(phi), power * F.logsigmoid(score))
    return phi, len(phi) * log_weight.softmax(0)


def _similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the cosines (B,) of normalised embeddings (B, D) row by row, in float32 and without gradient."""
    return (a.detach().float() * b.detach().float()).sum(-1)


def _keys(products: Products) -> torch.Tensor:
    """Product and group (2, 2 B) of the 2 B products, positives first."""
    ids = torch.cat([products.positive_id, products.negative_id])
    return torch.stack([ids, torch.cat([products.positive_group, products.negative_group])])
