"""A shopper's query as one vector: text, image, or both with a share for each."""

from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from common_moon2.cli import UserError
from evaluation.measure.attention import AttentionMap, attention_map
from evaluation.models.checkpoint import Checkpoint


class Query(NamedTuple):
    """A query as the model sees it.

    Attributes:
        vector: (D,) float32, L2-normalised.
        view: "t", "i", or "mm" where there are both.
        usage: of each view that was embedded, (Z,): the share of each expert in it; sums to 1.
        cut: of how many tokens the text was, if the model did not read all of it.
    """

    vector: np.ndarray
    view: str
    usage: dict[str, np.ndarray]
    cut: int | None


class Reader:
    """A checkpoint that answers one request at a time: heat-maps need another kind of attention than queries."""

    def __init__(self, checkpoint: Checkpoint):
        self.model, self.processor = checkpoint.model, checkpoint.processor
        self._attention = self.model.config._attn_implementation
        self._lock = Lock()

    def query(self, text: str | None, picture: Image.Image | None, share: float = 0.5) -> Query:
        """Embed a query.

        Args:
            text: blank counts as none.
            share: of the image, 0 to 1; it matters only where there are both. See `blend`.

        Raises:
            UserError: there is neither text nor image, or one of them cannot be prepared.
        """
        text = text.strip() if text else None
        product = ({"text": text} if text else {}) | ({} if picture is None else {"image": picture})
        if not product:
            raise UserError("Type what you look for, or add an image.")
        # With both, one pass gives the view of both and, for free, that of the image; the text gets its own row.
        products = [product] if len(product) == 1 else [product, {"text": text}]
        with self._lock, torch.inference_mode():
            try:
                inputs = self.processor(products, return_tensors="pt").to(self.model.device)
            except ValueError as error:
                raise UserError(f"The query cannot be read: {str(error).partition(': ')[2]}") from error
            output = self.model(**inputs)
        own = output.embeddings.float().cpu()
        usage = output.expert_usage.float().cpu().numpy()
        cut = self._cut(text)
        if len(products) == 1:
            view = "t" if text else "i"
            return Query(own[0].numpy(), view, {view: usage[0]}, cut)
        both, words, image = own[0], own[1], output.image_embeddings[0].float().cpu()
        seen = {"t": usage[1], "mm": usage[0], "i": output.image_expert_usage[0].float().cpu().numpy()}
        return Query(blend(words, both, image, share).numpy(), "mm", seen, cut)

    def heatmap(self, photo: Image.Image, title: str) -> AttentionMap:
        """Return what `evaluation.show.heatmap.attention_map` does."""
        with self._lock:
            self.model.set_attn_implementation("eager")
            try:
                return attention_map(self.model, self.processor, photo, title)
            finally:
                self.model.set_attn_implementation(self._attention)

    def _cut(self, text: str | None) -> int | None:
        if text is None:
            return None
        limit = min(self.processor.max_text_length, self.processor.tokenizer.model_max_length)
        encoded = self.processor.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        length = len(encoded["input_ids"])
        return length if length > limit else None


def blend(text: torch.Tensor, both: torch.Tensor, image: torch.Tensor, share: float) -> torch.Tensor:
    """Return the vector of a query of text and image, of which the image has a share.

    In the middle it is the model's own vector of text and image together, which it was trained for (mm -> mm).
    Towards either end that is mixed with the vector of the text, or of the image, and normalised again; at the ends
    nothing else is left. (Our choice: the paper's mixed queries have no such share.)

    Args:
        text, both, image: (D,), L2-normalised.
        share: 0 is the text alone, 0.5 is `both`, 1 is the image alone.

    Returns:
        (D,), L2-normalised.

    Raises:
        UserError: `share` is no number from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise UserError(f"The image's share is {share}; give 0 to 1.")
    end, weight = (text, 1 - 2 * share) if share < 0.5 else (image, 2 * share - 1)
    return normalize(weight * end + (1 - weight) * both, dim=0)
