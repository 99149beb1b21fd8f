"""Other models that a Moon2 checkpoint is compared with: how each is loaded, and what it is told.

A record is needed only where the files of a model do not say it. None of these can be downloaded where this project was
written: the records follow the models' cards and mteb's adapters, and have not been run.
"""

from typing import NamedTuple


class Peer(NamedTuple):
    """How a model is loaded and asked.

    Attributes:
        loader: "sentence-transformers" or "two-towers" (`get_text_features` and `get_image_features`).
        query_prompt, document_prompt: the instruction of queries and of products; `None` leaves the model's own.
        adapter_of: the model is a PEFT adapter of this one, pooled at the last token.
        requires: packages that its loading needs beside the project's.
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
