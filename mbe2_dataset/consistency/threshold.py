"""What is kept: a threshold that is applied to stored scores, so that another one needs no model (our choice)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Threshold:
    """An absolute cosine similarity, or the share (0 to 1) of the lowest scores that is dropped."""

    value: float
    is_quantile: bool

    @classmethod
    def parse(cls, text: str) -> "Threshold":
        """A threshold from "0.2" (a cosine similarity) or "5%" (drop the lowest 5 %).

        Raises:
            ValueError: it is neither, or out of range.
        """
        is_quantile = text.strip().endswith("%")
        try:
            value = float(text.strip().removesuffix("%"))
        except ValueError:
            value = math.nan
        if is_quantile and 0 <= value < 100:
            return cls(value / 100, True)
        if not is_quantile and -1 <= value <= 1:
            return cls(value, False)
        raise ValueError(
            f"The threshold {text!r} is no threshold: give a cosine similarity between -1 and 1, such as 0.2, or the "
            "share of the lowest scores to drop, from 0% to below 100%, such as 5%."
        )

    def __str__(self) -> str:
        return f"{self.value * 100:g}%" if self.is_quantile else f"{self.value:g}"


@dataclass(frozen=True, slots=True)
class Selection:
    """`kept` and `reasons` ("" where kept) in the order of the scores; `cut`: the least score that was kept.

    With no score at all there is no cut of a quantile: `cut` is None.
    """

    kept: tuple[bool, ...]
    reasons: tuple[str, ...]
    cut: float | None


def apply_threshold(scores: Sequence[float | None], threshold: Threshold) -> Selection:
    """Keeps every score that reaches the threshold; a missing one (None, NaN or infinite) is never kept.

    Of n scores a quantile q drops the floor(q n) lowest, and fewer where the next one ties with them: equal scores
    share their fate. Missing scores do not count in n.
    """
    cut: float | None = threshold.value
    if threshold.is_quantile:
        present = sorted(score for score in scores if not is_missing(score))
        # The tenth of a millionth undoes the rounding of a share such as 0.29, times 100.
        cut = present[math.floor(threshold.value * len(present) + 1e-7)] if present else None
    reasons = tuple(_reason(score, cut) for score in scores)
    return Selection(tuple(not reason for reason in reasons), reasons, cut)


def is_missing(score: float | None) -> bool:
    return score is None or not math.isfinite(score)


def _reason(score: float | None, cut: float | None) -> str:
    if is_missing(score):
        return "no consistency score"
    return f"consistency {score:.4f} is below {cut:.4f}" if score < cut else ""
