"""A dual encoder of the same parts and size, as CLIP has it: text and picture meet only as vectors."""

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from configuration_moon2 import IMAGE, NOT_POOLED, TEXT
from modeling_moon2 import Moon2Model, Moon2Output


class TwoTowers(Moon2Model):
    """The language model reads texts only; a picture is the mean of its visual tokens; mm is the mean of both vectors.

    It speaks `Moon2Output`, so that trainer and evaluation take it. For dense models: expert usage is of texts alone,
    and every other item counts as using all experts alike.
    """

    _auto_class = None  # its folder is read by this class, not by AutoModel

    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor,
        position_types: torch.LongTensor,
        pixel_values: torch.FloatTensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
    ) -> Moon2Output:
        """Embeds B items with one picture at most; arguments as in `Moon2Model`."""
        has_image, has_text = ((position_types == kind).any(1) for kind in (IMAGE, TEXT))
        shape = (len(input_ids), self.config.hidden_size)
        images, texts = (torch.zeros(shape, device=input_ids.device) for _ in range(2))
        usage = torch.full((len(input_ids), self.config.num_experts), 1 / self.config.num_experts)
        if has_image.any():
            visual = self._see({"pixel_values": pixel_values, "image_grid_thw": image_grid_thw}, {})
            pictures = visual["mm_encoder_outputs"]["image"].pooler_output
            means = torch.stack([tokens.float().mean(0) for tokens in pictures])
            images = images.index_copy(0, has_image.nonzero().squeeze(1), F.normalize(means, dim=-1))
        if has_text.any():
            rows = has_text.nonzero().squeeze(1)
            vectors, used = self._read_texts(input_ids[rows], attention_mask[rows], position_types[rows])
            texts, usage = texts.index_copy(0, rows, vectors), usage.index_copy(0, rows, used)
        layers, positions = len(self.moe_layer_indices), input_ids.numel()
        return Moon2Output(
            embeddings=F.normalize(images + texts, dim=-1),
            image_embeddings=images,
            has_image=has_image,
            expert_usage=usage,
            image_expert_usage=torch.full_like(usage, 1 / self.config.num_experts),
            router_logits=(torch.zeros(positions, self.config.num_experts),) * layers,
        )

    def _read_texts(self, input_ids, attention_mask, position_types) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (B, D) and expert usage (B, Z) of the texts of items that have one, without their pictures."""
        kept = [(row == TEXT) & (mask != 0) for row, mask in zip(position_types, attention_mask, strict=True)]
        padded = [
            pad_sequence([row[keep] for row, keep in zip(values, kept, strict=True)], True, value)
            for values, value in ((input_ids, 0), (attention_mask, 0), (position_types, NOT_POOLED))
        ]
        outputs, _, usage = self._read(*padded, {})
        own = (padded[2] == TEXT).unsqueeze(-1).float()
        vectors = (outputs.last_hidden_state.float() * own).sum(1) / own.sum(1)
        return F.normalize(vectors, dim=-1), (usage * own).sum(1) / own.sum(1)
