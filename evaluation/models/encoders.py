"""Encoders: any model through one adapter, products in, L2-normalised vectors out."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors import SafetensorError
from tokenizers import Tokenizer
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

# What a user asks a shop for, in the words of an instruction (our choice).
FIND_PRODUCT = "Find a product that matches the query."


@dataclass(frozen=True)
class Peer:
    """How a model is loaded and asked, where its files do not say it; `peers.yaml` has those that we know.

    Attributes:
        loader: "sentence-transformers" or "two-towers" (`get_text_features` and `get_image_features`).
        card: where the rest comes from.
        query_prompt, document_prompt: what queries and products are embedded with; `{instruction}` stands for the
            task. `None` leaves the model's own.
        own_prompts: the model's own prompts are needed, and one without them is refused.
        prompt_joined: `None`: sentence-transformers places the prompt. Otherwise it is written before the text, with
            this between them, and is the text of a product without one.
        image_first: the image comes before the text.
        as_tuple: a product with both is a tuple, and one with either is that alone.
        images: so many of a product are read; more are refused.
        encode: further arguments of `SentenceTransformer.encode`.
        views: those that it has, where sentence-transformers does not know.
        lowercase: texts are.
        own_normalizer: the tokenizer's normalizer is that of tokenizer.json; transformers builds another one.
        adapter_of: the model is a PEFT adapter of this one, pooled at the last token.
        requires: packages that loading it needs beside the project's.
        note: what a reader of its figures should know.
    """

    loader: str = "sentence-transformers"
    card: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    own_prompts: bool = False
    prompt_joined: str | None = None
    image_first: bool = False
    as_tuple: bool = False
    images: int | None = None
    encode: Mapping[str, Any] = field(default_factory=dict)
    views: Sequence[str] = ()
    lowercase: bool = False
    own_normalizer: bool = False
    adapter_of: str | None = None
    requires: Sequence[str] = ()
    note: str = ""

    @property
    def additions(self) -> str:
        """Return what changes vectors, for fingerprints; empty if the model is asked as its files say."""
        told = {"card": None, "requires": (), "note": "", "views": (), "images": None, "own_prompts": False}
        plain = replace(self, loader=Peer.loader, **told)
        return "" if plain == Peer() else str(plain)


def _read_peers() -> dict[str, Peer]:
    text = files(__package__).joinpath("peers.yaml").read_text(encoding="utf-8")
    return {name: Peer(**row) for row in yaml.safe_load(text) for name in row.pop("models")}


PEERS = _read_peers()


def peer_of(name: str) -> Peer:
    """Return what is known of a model: by its Hub id, or of a folder by its own name, as that of a copy."""
    if Path(name).is_dir():
        return {known.split("/")[1]: peer for known, peer in PEERS.items()}.get(Path(name).name, Peer())
    return PEERS.get(name, Peer())


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
        instruction: what queries are for, in words; some models are told.
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
    instruction: str = FIND_PRODUCT

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
    peer = peer_of(name)
    if kind == "auto":
        kind = _kind(folder, name, peer)
    if kind == "moon2":
        return Moon2Encoder(load_checkpoint(name, revision), name)
    try:
        if kind == "two-towers":
            return TwoTowerEncoder(folder, name, commit, peer)
        return SentenceEncoder(folder, name, commit, peer)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, ImportError, SafetensorError) as error:
        needs = f" It needs {' and '.join(peer.requires)}." if peer.requires else ""
        needs += f" Its card: {peer.card}" if peer.card else ""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"The model in {name} cannot be loaded: {reason}{needs}") from error


def _kind(folder: Path, name: str, peer: Peer) -> str:
    is_sentence_model = (folder / "modules.json").exists()
    # A sentence-transformers model may keep its config.json in a module's folder, and an adapter need not have one.
    has_config = (folder / "config.json").exists() or not (is_sentence_model or peer.card)
    model_type = read_config(folder, name).get("model_type") if has_config else None
    if model_type == "moon2":  # which may lie in a folder that is named after its backbone
        return "moon2"
    if peer.card:
        return peer.loader
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


def _sentence_inputs(peer: Peer, products: list[dict]) -> list[dict]:
    """Return dicts, because sentence-transformers takes a string for an image if it looks like a path or address."""
    inputs = []
    for index, product in enumerate(products):
        text, pictures = _read(product, index)
        if peer.images is not None and len(pictures) > peer.images:
            raise ValueError(f"Item {index}: this model reads {peer.images} image of a product, not {len(pictures)}.")
        shown = pictures[0] if len(pictures) == 1 else pictures
        inputs.append(_ordered(peer, text, shown or None))
    return inputs


def _ordered(peer: Peer, text: str | None, image: Any) -> dict:
    """Return what there is of both, in the order in which the model wants it."""
    parts = [("text", text), ("image", image)]
    return {name: part for name, part in (parts[::-1] if peer.image_first else parts) if part is not None}


def _two_tower_inputs(tokenize: Any, process: Any, lowercase: bool, products: list[dict]) -> dict:
    texts, with_text, pictures, owners = [], [], [], []
    for index, product in enumerate(products):
        text, images = _read(product, index)
        if text is not None:
            texts.append(text.lower() if lowercase else text)
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

    One that takes texts and images, but not both in one input, gets the mean of both vectors as its mm view.
    """

    kind = "sentence-transformers"

    def __init__(self, folder: Path, name: str, revision: str | None, peer: Peer):
        self.name, self.revision, self.fingerprint = name, revision, _fingerprint(folder, peer)
        self.peer, self._prepare = peer, partial(_sentence_inputs, peer)
        load = partial(_with_adapter, peer.adapter_of) if peer.adapter_of else _sentence_transformer
        self.model = load(folder).eval()
        if peer.own_normalizer:
            rules = Tokenizer.from_file(str(folder / "tokenizer.json")).normalizer
            self.model.tokenizer.backend_tokenizer.normalizer = rules
        if peer.own_prompts and not all(self.model.prompts.get(role) for role in ("query", "document")):
            raise ValueError("its card asks for prompts of queries and documents, which its files do not have.")
        self._prompts = {
            "query": peer.query_prompt or self.model.prompts.get("query") or None,
            "document": peer.document_prompt or self.model.prompts.get("document") or None,
        }
        supported = {view for view, modality in (("t", "text"), ("i", "image")) if self.model.supports(modality)}
        views = set(peer.views) or supported
        self.joint = "mm" in peer.views or self.model.supports(("image", "text"))
        if self.joint or views == {"t", "i"}:
            views.add("mm")
        self.views = frozenset(views)
        self.dimension = self.model.get_embedding_dimension()
        self.parameters, self.dtype = sum(weight.numel() for weight in self.model.parameters()), _dtype(self.model)
        self.note = "; ".join(filter(None, [peer.note, "" if self.joint or "mm" not in views else MEAN_NOTE]))
        is_known = isinstance(getattr(self.model, "tokenizer", None), PreTrainedTokenizerBase)
        self.longest = self.model.max_seq_length if is_known and "t" in views else None

    def prompt(self, role: str) -> str | None:
        told = self._prompts[role]
        return told and told.replace("{instruction}", self.instruction)

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
        prompt, peer, options = self.prompt(role), self.peer, dict(self.peer.encode)
        call = {"query": self.model.encode_query, "document": self.model.encode_document}[role]
        if options:
            call = self.model.encode  # the others would set its `task`
        if prompt and peer.prompt_joined is None:
            options["prompt"] = prompt
        elif prompt:
            options["prompt"] = ""
            before = f"{prompt}{peer.prompt_joined}"
            told = [before + product["text"] if "text" in product else prompt for product in inputs]
            inputs = [_ordered(peer, text, product.get("image")) for text, product in zip(told, inputs, strict=True)]
        if peer.as_tuple:
            inputs = [tuple(part.values()) if len(part) > 1 else next(iter(part.values())) for part in inputs]
        found = call(inputs, batch_size=len(inputs), show_progress_bar=False, convert_to_tensor=True, **options)
        return normalize(found.float(), dim=-1)


class TwoTowerEncoder(Encoder):
    """A dual encoder of transformers: a text tower and an image tower that end in one space.

    It has no multimodal view of its own: mm is the normalised mean of both vectors (our choice), and a product with
    several images is the mean of theirs.
    """

    views = frozenset(("t", "i", "mm"))
    note = MEAN_NOTE

    def __init__(self, folder: Path, name: str, revision: str | None, peer: Peer):
        self.name, self.revision, self.fingerprint = name, revision, _fingerprint(folder, peer)
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
        self._prepare = partial(_two_tower_inputs, partial(tokenizer, **options), pictures, peer.lowercase)
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


def _fingerprint(folder: Path, peer: Peer) -> str:
    """Return the SHA-256 of what decides vectors: the files, and for a peer what we add to them."""
    own = fingerprint(folder)
    return hashlib.sha256(f"{own} {peer.additions}".encode()).hexdigest() if peer.additions else own


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
