"""The options of the loss, apart from the formulas, so that --help need not import torch."""

import math
from dataclasses import dataclass

from common_moon2.fields import option

OBJECTIVE_WEIGHTINGS = ("learned", "detached", "uniform", "queries")
# What the numbers among the options must be, and why. No comparison holds for NaN, so that it is refused as well.
RANGES = {
    "a positive number": lambda value: 0 < value < math.inf,
    "0 or a positive number": lambda value: 0 <= value < math.inf,
    "a number from 0 to 1": lambda value: 0 <= value <= 1,
}
OPTION_RANGES = {
    "temperature": ("a positive number", "similarities are divided by it"),
    "intra_temperature": ("a positive number", "similarities are divided by it"),
    "aux_loss_weight": ("0 or a positive number", "below 0, the loss would reward overloaded experts"),
    "sparsity_loss_weight": ("0 or a positive number", "below 0, the loss would reward experts that serve everything"),
    "z_loss_weight": ("0 or a positive number", "below 0, the loss would reward routers whose logits grow"),
    "filter_threshold": ("a number from 0 to 1", "phi, which is compared with it, lies there"),
    "filter_sharpness": ("a positive number", "phi must grow with the lead of the positive over the negative"),
    "filter_power": ("a positive number", "the less phi, the less a triplet must count"),
    "filter_margin": ("0 or a positive number", "below 0, the filter would trust triplets whose negative is closer"),
    "filter_warmup": ("a number from 0 to 1", "it is a share of the training"),
}


@dataclass
class LossOptions:
    """The training objective: L = sum of omega_m * L_m + rho * L_aux + varsigma * L_sparsity (section 3),
    and on demand the router z-loss.

    With matryoshka_dims each L_m is the mean over these lengths and the full one, listed or not. The filter, omega and
    the similarities that are reported always read the full embeddings.

    Raises:
        ValueError: an option that makes no sense; the message says why.
    """

    temperature: float = option(0.05, "eps of the inter-product losses (our choice).")
    intra_temperature: float = option(0.05, "eps~ of the intra-product losses (our choice).")
    objective_weighting: str = option(
        "queries",
        "omega: 'learned' (gradient flows, as the paper writes it), 'detached' (acts, but gets no gradient from the "
        "losses), 'uniform' (1 / M) or 'queries' (as uniform, but the inter-product objectives share their part by how "
        "many queries of the batch have them; our default, by research/study/).",
    )
    aux_loss_weight: float = option(0.01, "rho, weight of the load-balancing loss (our choice).")
    sparsity_loss_weight: float = option(0.01, "varsigma, weight of L_sparsity (our choice).")
    z_loss_weight: float = option(
        0.0, "Weight of the router z-loss, the mean squared log of the gates' normaliser (our addition)."
    )
    filter_threshold: float = option(0.6, "delta: triplets with phi below it count less.")
    filter_sharpness: float = option(10.0, "kappa, the slope of phi (our choice).")
    filter_power: float = option(
        1.0, "Triplets below the threshold count phi to this power; above 1, wrong ones count less (our addition)."
    )
    filter_margin: float = option(0.2, "The margin at the start; it decays to 0 (our choice).")
    filter_warmup: float = option(0.05, "Share of training without filtering (our choice).")
    matryoshka_dims: list[int] | None = option(
        None, "Lengths at which the embedding may be cut, trained beside the full one (our addition)."
    )

    def __post_init__(self):
        for name, (kind, reason) in OPTION_RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not RANGES[kind](value):
                raise ValueError(f"{name} is {value}; it must be {kind}: {reason}.")
        if self.objective_weighting not in OBJECTIVE_WEIGHTINGS:
            raise ValueError(
                f"objective_weighting is {self.objective_weighting!r}; there are {', '.join(OBJECTIVE_WEIGHTINGS)}: "
                "omega is trained by the losses, follows W* without being trained by them, is 1 / M, or follows the "
                "queries of the batch."
            )
        dims = self.matryoshka_dims
        if dims is not None:
            whole = isinstance(dims, list | tuple) and all(type(dim) is int and dim > 0 for dim in dims)
            if not whole or not dims or len(set(dims)) < len(dims):
                raise ValueError(
                    f"matryoshka_dims is {dims}; it must be a list of different positive whole numbers: each is how "
                    "many dimensions a shortened embedding keeps, and the loss is the mean over them."
                )
