"""The formulas of MOON2.0 as functions of embeddings and expert usage; they know no model and no trainer.

Shapes: B triplets, D dimensions, Z experts, M objectives. Section numbers are those of the paper's method as the README
maps them. All losses are computed in float32, whatever precision the embeddings come in.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.nn import functional as F

from configuration_moon2 import INTER_OBJECTIVES, INTRA_OBJECTIVES

OBJECTIVE_WEIGHTINGS = ("learned", "detached", "uniform")


class View(NamedTuple):
    """One view (t, i or mm) of B items.

    embeddings (B, D), normalised; usage (B, Z): the view's G~; present (B,) bool: which items have the view. Rows that
    lack it take no part in anything; what stands in them does not matter.
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


@dataclass
class Moon2Loss:
    """The training objective: L = sum of omega_m * L_m + rho * L_aux + varsigma * L_sparsity (section 3)."""

    temperature: float = field(default=0.05, metadata={"help": "eps of the inter-product losses (our choice)."})
    intra_temperature: float = field(default=0.05, metadata={"help": "eps~ of the intra-product losses (our choice)."})
    objective_weighting: str = field(
        default="detached",
        metadata={
            "help": "omega: 'learned' (gradient flows, as the paper writes it), 'detached' (acts, but gets no gradient "
            "from the losses) or 'uniform' (1 / M)."
        },
    )
    aux_loss_weight: float = field(
        default=0.01, metadata={"help": "rho, weight of the load-balancing loss (our choice)."}
    )
    sparsity_loss_weight: float = field(default=0.01, metadata={"help": "varsigma, weight of L_sparsity (our choice)."})
    filter_threshold: float = field(default=0.6, metadata={"help": "delta: triplets with phi below it count less."})
    filter_sharpness: float = field(default=10.0, metadata={"help": "kappa, the slope of phi (our choice)."})
    filter_margin: float = field(
        default=0.2, metadata={"help": "The margin at the start; it decays to 0 (our choice)."}
    )
    filter_warmup: float = field(default=0.05, metadata={"help": "Share of training without filtering (our choice)."})

    def __post_init__(self):
        for name in ("temperature", "intra_temperature", "filter_sharpness"):
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it divides or scales similarities and must be positive."
                )
        for name in ("aux_loss_weight", "sparsity_loss_weight", "filter_margin"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative.")
        for name in ("filter_threshold", "filter_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share and must lie between 0 and 1.")
        if self.objective_weighting not in OBJECTIVE_WEIGHTINGS:
            raise ValueError(
                f"objective_weighting is {self.objective_weighting!r}; it must be one of "
                f"{', '.join(OBJECTIVE_WEIGHTINGS)}."
            )

    def __call__(
        self,
        query: Role,
        products: Products,
        dual_alignment: torch.Tensor,
        objectives: list[str],
        aux_loss: torch.Tensor,
        progress: float,
    ) -> LossOutput:
        """The loss of B triplets.

        Args:
            query, products: the views of queries, positives and negatives.
            dual_alignment: W* (Z, M).
            objectives: names of the M columns of W*.
            aux_loss: L_aux, from the model's router logits.
            progress: how much of the training is done, 0 to 1; moves the filter's margin.
        """
        with torch.autocast(dual_alignment.device.type, enabled=False):
            phi, weight = dynamic_filter(
                *(role.float() for role in (query.own, products.positive.own, products.negative.own)),
                threshold=self.filter_threshold,
                sharpness=self.filter_sharpness,
                margin=self.filter_margin * (1 - progress),
            )
            if progress < self.filter_warmup:
                weight = torch.ones_like(weight)
            rows = inter_product_losses(query, products, self.temperature)
            rows = {name: (losses * weight[used], used) for name, (losses, used) in rows.items()}
            rows |= intra_product_losses(products, self.intra_temperature)
            usage = anchor_usage(query, products)

            objective_losses = {name: rows[name][0].mean() for name in objectives if rows[name][1].any()}
            omega = objective_weights(
                dual_alignment, objectives, {name: usage[name][rows[name][1]] for name in objectives}
            )
            if self.objective_weighting == "detached":
                omega = {name: value.detach() for name, value in omega.items()}
            elif self.objective_weighting == "uniform":
                omega = {name: torch.full_like(value, 1 / len(objectives)) for name, value in omega.items()}
            sparsity = sparsity_loss(dual_alignment)
            loss = sum(omega[name] * value for name, value in objective_losses.items())
            loss = loss + self.aux_loss_weight * aux_loss + self.sparsity_loss_weight * sparsity
        similarity = (query.own * products.positive.own).sum(-1), (query.own * products.negative.own).sum(-1)
        return LossOutput(
            loss=loss,
            objective_losses=objective_losses,
            omega=omega,
            sparsity=sparsity,
            phi=phi,
            weight=weight,
            kept=(phi >= self.filter_threshold).float().mean(),
            positive_similarity=similarity[0].mean(),
            negative_similarity=similarity[1].mean(),
        )


def info_nce(
    anchors: torch.Tensor, targets: torch.Tensor, positive: torch.Tensor, allowed: torch.Tensor, temperature: float
) -> torch.Tensor:
    """InfoNCE of each anchor.

    Args:
        anchors (N, D), targets (K, D): normalised embeddings.
        positive (N,): index of each anchor's positive among the targets.
        allowed (N, K) bool: which targets count, as positive or as negatives; the positive must.

    Returns:
        (N,) losses: -log of the positive's share in the softmax over the allowed targets.
    """
    logits = anchors.float() @ targets.float().T / temperature
    return F.cross_entropy(logits.masked_fill(~allowed, float("-inf")), positive, reduction="none")


def inter_product_losses(query: Role, products: Products, temperature: float) -> dict[str, tuple]:
    """Every view of the query against the multimodal positives and negatives of the batch (section 3, inter-product).

    A query's negatives are its own negative and all other products of the batch, except those that share a product or
    group id with its positive: listings of one product are not negatives of each other (our choice).

    Returns:
        For each objective the losses (B_m,) and the mask (B,) of the rows that have it.
    """
    targets = torch.cat([products.positive.own, products.negative.own])
    count = len(products.positive.own)
    own = torch.arange(count, device=targets.device)
    same = _same(products, slice(0, count))
    same[own, own] = False
    losses = {}
    for name, view in zip(INTER_OBJECTIVES, (query.t, query.i, query.mm), strict=True):
        rows = view.present
        losses[name] = (info_nce(view.embeddings[rows], targets, own[rows], ~same[rows], temperature), rows)
    return losses


def intra_product_losses(products: Products, temperature: float) -> dict[str, tuple]:
    """Image view and text view of each positive and negative against each other (section 3, intra-product).

    The other products of the batch are the negatives, except listings of the same product or group; both directions
    are taken (our choice).

    Returns:
        For each objective the losses (B_m,) and the mask (2 B,) of the products, positives first, that have both views.
    """
    image = torch.cat([products.positive.i.embeddings, products.negative.i.embeddings])
    text = torch.cat([products.positive.t.embeddings, products.negative.t.embeddings])
    rows = torch.cat(
        [
            products.positive.i.present & products.positive.t.present,
            products.negative.i.present & products.negative.t.present,
        ]
    )
    allowed = ~_same(products, slice(None))
    allowed.fill_diagonal_(True)
    allowed = allowed[rows][:, rows]
    own = torch.arange(len(allowed), device=image.device)
    losses = (
        info_nce(image[rows], text[rows], own, allowed, temperature),
        info_nce(text[rows], image[rows], own, allowed, temperature),
    )
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


def sparsity_loss(dual_alignment: torch.Tensor) -> torch.Tensor:
    """L_sparsity: the mean over experts of the entropy (nats) of their preference for objectives (section 2)."""
    log_preference = dual_alignment.float().log_softmax(dim=1)
    return -(log_preference.exp() * log_preference).sum(dim=1).mean()


def dynamic_filter(
    query: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    threshold: float,
    sharpness: float,
    margin: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """phi = sigmoid(kappa (q.p - q.n - margin)) and the weights that follow from it (section 4).

    A triplet with phi below the threshold is weighted by phi, not removed; the weights are then scaled to mean 1 over
    the batch (our choice). Embeddings (B, D) are normalised; no gradient flows.

    Returns:
        phi (B,) and weights (B,).
    """
    query, positive, negative = query.detach(), positive.detach(), negative.detach()
    phi = torch.sigmoid(sharpness * ((query * positive).sum(-1) - (query * negative).sum(-1) - margin))
    weight = torch.where(phi >= threshold, torch.ones_like(phi), phi)
    return phi, weight / weight.mean()


def _same(products: Products, rows: slice) -> torch.Tensor:
    """Which of the 2 B products (positives first) share a product or group id: (rows, 2 B) bool, itself included."""
    ids = torch.cat([products.positive_id, products.negative_id])
    groups = torch.cat([products.positive_group, products.negative_group])
    return (ids[rows, None] == ids) | (groups[rows, None] == groups)
