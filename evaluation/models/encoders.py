"""Encoders: any model through one adapter, products in, L2-normalised vectors out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch.nn.functional import normalize
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from common_moon2.cli import UserError
from evaluation.models.checkpoint import Checkpoint, find_checkpoint, fingerprint, load_checkpoint, read_config
from evaluation.models.embed import embed_batches, moon2_inputs, moon2_output
from pictures_moon2 import load_picture
from processing_moon2 import read_product

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Peer(NamedTuple):
    """How a model is loaded and asked.

    Attributes:
        loader: "sentence-transformers" or "two-towers" (`get_text_features` and `get_image_features`).
        query_prompt, document_prompt: the instruction of queries and of products; `None` leaves the model's own.
        adapter_of: the model is a PEFT adapter of this one, pooled at the last token.
        requires: packages that loading it needs beside the project's.
    """

    loader: str = "sentence-transformers"
    query_prompt: str | None = None
    document_prompt: str | None = None
    adapter_of: str | None = None
    requires: tuple[str, ...] = ()


# What a user asks a shop for, in the words of an instruction (our choice).
FIND_PRODUCT = "Find a product that matches the query."

PEERS = {
    "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct": Peer(query_prompt=FIND_PRODUCT, requires=("torchvision",)),
    "Alibaba-NLP/gme-Qwen2-VL-7B-Instruct": Peer(query_prompt=FIND_PRODUCT, requires=("torchvision",)),
    "Qwen/Qwen3-VL-Embedding-2B": Peer(query_prompt=FIND_PRODUCT, requires=("torchvision",)),
    "Qwen/Qwen3-VL-Embedding-8B": Peer(query_prompt=FIND_PRODUCT, requires=("torchvision",)),
    "VLM2Vec/VLM2Vec-V2.0": Peer(
        query_prompt=FIND_PRODUCT, adapter_of="Qwen/Qwen2-VL-2B-Instruct", requires=("peft", "torchvision")
    ),
    "Marqo/marqo-ecommerce-embeddings-B": Peer(loader="two-towers", requires=("open_clip_torch",)),
    "Marqo/marqo-ecommerce-embeddings-L": Peer(loader="two-towers", requires=("open_clip_torch",)),
}


# Dual encoders that transformers has, and how their text tower was trained to see padding.
TWO_TOWERS = {"clip": True, "chinese_clip": True, "siglip": "max_length", "siglip2": "max_length"}
KINDS = ("auto", "moon2", "sentence-transformers", "two-towers")
TOKENIZED = 4096  # texts whose tokens are counted at a time
MEAN_NOTE = "mm is the normalised mean of the text vector and the image vector"


class Encoder(ABC):
    """A model as the evaluation uses it.

    Attributes:
        name, revision: as the user named it; the Hub commit, `None` for a folder.
        kind: "moon2", "sentence-transformers", or the model type of a dual encoder ("clip", "siglip", ...).
        dimension: D.
        views: those of "t", "i" and "mm" that it can embed.
        fingerprint: SHA-256 of what decides its vectors.
        parameters, dtype: the number and kind of its weights.
        note: what a reader of the figures should know of how the vectors are made; may be empty.
        longest: the tokens that it reads of a text; `None` if it reads all, or if that is not known.
    """

    name: str
    revision: str | None
    kind: str
    dimension: int
    views: frozenset[str]
    fingerprint: str
    parameters: int
    dtype: str
    note: str
    longest: int | None

    def prompt(self, role: str) -> str | None:
        """Return the instruction that queries (or "document"s) are embedded with."""
        return None

    @abstractmethod
    def cut(self, texts: Sequence[str], role: str = "document") -> int:
        """Count the texts that have more than `longest` tokens, of which the encoder silently drops the rest."""

    def encode(
        self,
        products: Sequence[dict],
        batch_size: int = 64,
        workers: int = 0,
        role: str = "document",
        description: str = "embed",
    ) -> torch.Tensor:
        """Return (N, D) float32, L2-normalised, on the CPU, in the order given; show the progress.

        Args:
            products: N product dicts, all of a view that the encoder has.
            batch_size: so many at a time.
            workers: processes that read images while the model computes.
            role: "query" or "document".
            description: what the progress bar says.

        Raises:
            UserError: a product cannot be prepared, or its vector is not finite.
        """
        # A `ProductView` knows the lengths of its texts without reading images.
        lengths = getattr(products, "text_lengths", None) or [len(product.get("text") or "") for product in products]
        describe = getattr(products, "describe", lambda index: f"product {index}")
        forward = partial(self._forward, role)
        return embed_batches(
            self._prepare, forward, products, lengths, describe, batch_size, description, workers, leave=False
        )

    # What `encode` hands to `embed_batches`, as a picklable function and as a method.
    _prepare: Callable[[list[dict]], Any]

    @abstractmethod
    def _forward(self, role: str, inputs: Any) -> torch.Tensor:
        """Return (B, D), L2-normalised, of what `_prepare` has made."""


def load_encoder(name: str, revision: str | None = None, kind: str = "auto") -> Encoder:
    """Load a model as an encoder, on the GPU where there is one. The code inside a checkpoint is run.

    Args:
        name: folder or Hub id of a Moon2 checkpoint, a sentence-transformers model, or a dual encoder of transformers
            (CLIP, SigLIP and the like), or one of `PEERS`.
        revision: branch, tag or commit on the Hub.
        kind: how to load it; "auto" decides by its files.

    Raises:
        UserError: there is no such model, it is of no known kind, or its files are damaged.
    """
    if kind not in KINDS:
        raise UserError(f"There is no kind {kind!r} of encoder; there are {', '.join(KINDS)}.")
    folder, commit = find_checkpoint(name, revision)
    peer = PEERS.get(name)
    if kind == "auto":
        kind = _kind(folder, name, peer)
    if kind == "moon2":
        return Moon2Encoder(load_checkpoint(name, revision), name)
    peer = peer or Peer()
    try:
        if kind == "two-towers":
            return TwoTowerEncoder(folder, name, commit)
        return SentenceEncoder(folder, name, commit, peer)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, ImportError, SafetensorError) as error:
        needs = f" It needs {' and '.join(peer.requires)}." if peer.requires else ""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"The model in {name} cannot be loaded: {reason}{needs}") from error


def _kind(folder: Path, name: str, peer: Peer | None) -> str:
    if peer is not None:
        return peer.loader
    is_sentence_model = (folder / "modules.json").exists()
    # A sentence-transformers model may keep its config.json in a module's folder.
    has_config = (folder / "config.json").exists() or not is_sentence_model
    model_type = read_config(folder, name).get("model_type") if has_config else None
    if model_type == "moon2":
        return "moon2"
    if is_sentence_model:
        return "sentence-transformers"
    if model_type in TWO_TOWERS:
        return "two-towers"
    raise UserError(
        f"{name} holds a {model_type!r} model; the evaluation takes 'moon2', {', '.join(map(repr, TWO_TOWERS))} and "
        "sentence-transformers models (which have a modules.json)."
    )


class Moon2Encoder(Encoder):
    """A Moon2 checkpoint: all three views."""

    kind = "moon2"
    views = frozenset(("t", "i", "mm"))
    note = ""

    def __init__(self, checkpoint: Checkpoint, name: str):
        self.checkpoint, self.name, self.revision = checkpoint, name, checkpoint.revision
        self.dimension = checkpoint.model.config.hidden_size
        self.fingerprint = fingerprint(checkpoint.folder)
        self.parameters, self.dtype = checkpoint.model.num_parameters(), _dtype(checkpoint.model)
        self.longest = min(checkpoint.processor.max_text_length, checkpoint.processor.tokenizer.model_max_length)
        self._prepare = partial(moon2_inputs, checkpoint.processor)

    def cut(self, texts, role="document"):
        options = {"add_special_tokens": False, "split_special_tokens": True}
        return _longer(partial(self.checkpoint.processor.tokenizer, **options), texts, self.longest)

    def _forward(self, role, inputs):
        return moon2_output(self.checkpoint.model, "embeddings", inputs)


def _sentence_inputs(products: list[dict]) -> list[dict]:
    """Return dicts, because sentence-transformers takes a string for an image if it looks like a path or address."""
    inputs = []
    for index, product in enumerate(products):
        text, pictures = _read(product, index)
        shown = pictures[0] if len(pictures) == 1 else pictures
        inputs.append(({} if text is None else {"text": text}) | ({"image": shown} if pictures else {}))
    return inputs


def _two_tower_inputs(tokenize: Any, process: Any, products: list[dict]) -> dict:
    texts, with_text, pictures, owners = [], [], [], []
    for index, product in enumerate(products):
        text, images = _read(product, index)
        if text is not None:
            texts.append(text)
            with_text.append(index)
        pictures += images
        owners += [index] * len(images)
    return {
        "items": len(products),
        "text": dict(tokenize(texts)) if texts else None,
        "with_text": with_text,
        "pictures": dict(process(images=pictures, return_tensors="pt")) if pictures else None,
        "owners": owners,
    }


def _read(product: dict, index: int) -> tuple[str | None, list]:
    text, instruction, sources = read_product(product, index)
    if instruction is not None:
        raise ValueError(f"Item {index}: this encoder takes its instruction as a prompt, not with a product.")
    return text, [load_picture(source) for source in sources]


class SentenceEncoder(Encoder):
    """A sentence-transformers model, for the modalities that it supports.

    One that takes texts and pictures, but not both in one input, gets the mean of both vectors as its mm view.
    """

    kind = "sentence-transformers"
    _prepare = staticmethod(_sentence_inputs)

    def __init__(self, folder: Path, name: str, revision: str | None, peer: Peer):
        self.name, self.revision, self.fingerprint = name, revision, fingerprint(folder)
        load = partial(_with_adapter, peer.adapter_of) if peer.adapter_of else _sentence_transformer
        self.model = load(folder).eval()
        self._prompts = {
            "query": peer.query_prompt or self.model.prompts.get("query") or None,
            "document": peer.document_prompt or self.model.prompts.get("document") or None,
        }
        views = {view for view, modality in (("t", "text"), ("i", "image")) if self.model.supports(modality)}
        self.joint = self.model.supports(("image", "text"))
        if self.joint or views == {"t", "i"}:
            views.add("mm")
        self.views = frozenset(views)
        self.dimension = self.model.get_embedding_dimension()
        self.parameters, self.dtype = sum(weight.numel() for weight in self.model.parameters()), _dtype(self.model)
        self.note = "" if self.joint or "mm" not in views else MEAN_NOTE
        is_known = isinstance(getattr(self.model, "tokenizer", None), PreTrainedTokenizerBase)
        self.longest = self.model.max_seq_length if is_known and "t" in views else None

    def prompt(self, role: str) -> str | None:
        return self._prompts[role]

    def cut(self, texts, role="document"):
        if self.longest is None:
            return 0
        return _longer(self.model.tokenizer, [f"{self.prompt(role) or ''}{text}" for text in texts], self.longest)

    def _forward(self, role, inputs):
        if self.joint or not all(len(product) == 2 for product in inputs):
            return self._vectors(role, inputs)
        parts = [self._vectors(role, [{name: product[name]} for product in inputs]) for name in ("text", "image")]
        return normalize(sum(parts), dim=-1)

    def _vectors(self, role: str, inputs: list[dict]) -> torch.Tensor:
        call = {"query": self.model.encode_query, "document": self.model.encode_document}[role]
        options = {"prompt": self.prompt(role)} if self.prompt(role) else {}
        found = call(inputs, batch_size=len(inputs), show_progress_bar=False, convert_to_tensor=True, **options)
        return normalize(found.float(), dim=-1)


class TwoTowerEncoder(Encoder):
    """A dual encoder of transformers: a text tower and an image tower that end in one space.

    It has no multimodal view of its own: mm is the normalised mean of both vectors (our choice), and a product with
    several pictures is the mean of theirs.
    """

    views = frozenset(("t", "i", "mm"))
    note = MEAN_NOTE

    def __init__(self, folder: Path, name: str, revision: str | None):
        self.name, self.revision, self.fingerprint = name, revision, fingerprint(folder)
        config = read_config(folder, name)
        self.kind = config.get("model_type", "two-towers")
        remote = self.kind not in TWO_TOWERS
        self.model = _whole_model(folder, remote).eval()
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        if remote:
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
            tokenizer, pictures = processor.tokenizer, processor.image_processor
            padding, self.longest = "max_length", tokenizer.model_max_length
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            # The pixels must not depend on whether torchvision is installed.
            pictures = AutoImageProcessor.from_pretrained(folder, backend="pil")
            padding, self.longest = TWO_TOWERS[self.kind], self.model.config.text_config.max_position_embeddings
        self._tokenizer = tokenizer
        options = {"padding": padding, "truncation": True, "max_length": self.longest, "return_tensors": "pt"}
        self._prepare = partial(_two_tower_inputs, partial(tokenizer, **options), pictures)
        self.dimension = self._text(self._prepare([{"text": "a"}])["text"]).shape[1]
        self.parameters, self.dtype = sum(weight.numel() for weight in self.model.parameters()), _dtype(self.model)

    def cut(self, texts, role="document"):
        return _longer(self._tokenizer, texts, self.longest)

    def _forward(self, role, inputs):
        total = torch.zeros(inputs["items"], self.dimension)
        if inputs["text"] is not None:
            total[inputs["with_text"]] += self._text(inputs["text"])
        if inputs["pictures"] is not None:
            options = {name: value.to(self.model.device) for name, value in inputs["pictures"].items()}
            vectors = normalize(_pooled(self.model.get_image_features(**options)), dim=-1)
            owners = torch.tensor(inputs["owners"])
            pictures = torch.zeros_like(total).index_add_(0, owners, vectors)
            total[owners.unique()] += normalize(pictures, dim=-1)[owners.unique()]
        return normalize(total, dim=-1)

    @torch.inference_mode()
    def _text(self, tokens: dict) -> torch.Tensor:
        options = {name: value.to(self.model.device) for name, value in tokens.items()}
        return normalize(_pooled(self.model.get_text_features(**options)), dim=-1)


def _whole_model(folder: Path, remote: bool) -> PreTrainedModel:
    """Load a model as it was saved; transformers would fill in missing weights with random ones.

    Raises:
        ValueError: weights are missing or of another shape; the message names some of them.
    """
    options = {"ignore_mismatched_sizes": True, "output_loading_info": True}  # so that all are known below
    model, info = AutoModel.from_pretrained(folder, trust_remote_code=remote, **options)
    missing, mismatched = sorted(info["missing_keys"]), sorted(key for key, *_ in info["mismatched_keys"])
    wrong = [f"{key} is missing" for key in missing] + [f"{key} is of another shape" for key in mismatched]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"the weights are not those of a {type(model).__name__} with this config: {', '.join(wrong[:3])}{more}."
        )
    return model


def _sentence_transformer(folder: Path) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer  # a Moon2 needs none of it, and it takes seconds to import

    return SentenceTransformer(str(folder), trust_remote_code=True)


def _with_adapter(base: str, folder: Path) -> "SentenceTransformer":
    """Load a backbone with a PEFT adapter, pooled at the last token."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    backbone = Transformer(str(find_checkpoint(base, None)[0]))
    pooling = Pooling(backbone.get_embedding_dimension(), pooling_mode="lasttoken")
    model = SentenceTransformer(modules=[backbone, pooling, Normalize()])
    model.load_adapter(str(folder))
    return model


def _pooled(output: Any) -> torch.Tensor:
    """Return (B, D); transformers returns an object, remote code may return the tensor."""
    return (output if isinstance(output, torch.Tensor) else output.pooler_output).float().cpu()


def _longer(tokenize: Callable[..., dict], texts: Sequence[str], longest: int) -> int:
    """Count the texts with more tokens; in parts, as a catalogue's tokens take more memory than its titles."""
    parts = (list(texts[start : start + TOKENIZED]) for start in range(0, len(texts), TOKENIZED))
    return sum(len(ids) > longest for part in parts for ids in tokenize(part, verbose=False)["input_ids"])


def _dtype(model: "PreTrainedModel | SentenceTransformer") -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")
