"""The model card: README.md of a pushed model, from what its run and its evaluation wrote down.

Nothing is said that these files do not say: a part whose file is missing is left out.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from huggingface_hub import ModelCardData
from safetensors import safe_open

from common_moon2.shipped_code import SHIPPED_CODE
from configuration_moon2 import Moon2Config
from evaluation.errors import EvaluationError
from modeling_moon2 import Moon2Model
from publishing_moon2.card_parts import (
    RECIPE,
    RUN,
    STATE,
    arrow,
    compression_section,
    eval_results,
    expert_usage,
    results_section,
    speed_section,
    table,
    training_section,
)

RESULTS = "results.json"
# figure -> what it shows; `--heatmap` and `--expert_usage` of the push.
FIGURES = {
    "expert_usage": (
        "Experts",
        "Mean share of the routing that each expert gets, by what an item has; lines: the middle half of items.",
    ),
    "heatmap": ("Attention", "What the words of a title attend to in the photo. Attention is not an explanation."),
}
TAGS = ("moon2", "sentence-transformers", "multimodal", "e-commerce", "retrieval", "mixture-of-experts")
SIGNED = re.compile(r"\n<!-- Written by `python -m evaluation push`; digest of the text above: ([0-9a-f]{16}) -->\n$")
CITATION = """```bibtex
@misc{moon2,
  title = {MOON2.0: Dynamic Modality-balanced Multimodal Representation Learning for E-commerce Product Understanding},
  eprint = {2511.12449},
  archivePrefix = {arXiv},
  year = {2025}
}
```"""


@dataclass(frozen=True)
class Publication:
    """What the files of a model do not say.

    Attributes:
        repo_id: the name by which the examples load it.
        revision: the commit that they pin; `None`: a folder, which has none.
        license: an identifier of the Hub ("apache-2.0", "cc-by-4.0" ...) or "other"; `None`: not stated.
        license_name, license_link: of a licence without an identifier.
        base_model, dataset: Hub ids of what it was made from, where the Hub has them.
        figures: of `FIGURES`, those that are there -> their paths beside the card.
    """

    repo_id: str
    revision: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    base_model: str | None = None
    dataset: str | None = None
    figures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if (self.license == "other") != (self.license_name is not None):
            raise EvaluationError(
                "--license_name is for a licence that the Hub has no identifier of, together with --license other."
            )
        if self.license_link is not None and self.license != "other":
            raise EvaluationError("--license_link only means something with --license other.")


def model_card(folder: Path, publication: Publication, results: dict | None = None) -> str:
    """The text of README.md, signed: see `is_untouched`.

    Args:
        folder: a checkpoint; recipe.yaml, run.json and trainer_state.json beside it are read where they are there.
        results: the content of results.json.

    Raises:
        EvaluationError: the recipe or the state of the run cannot be read.
    """
    config = Moon2Config.from_pretrained(folder)
    recipe = _read(folder / RECIPE, yaml.safe_load) or {}
    run, state = (_read(folder / name, json.loads) or {} for name in (RUN, STATE))
    name = publication.repo_id.split("/")[-1]
    parts = [
        f"# {name}\n\n{_what_it_is(trained=bool(recipe or state))}",
        f"## Use\n\n{_use(folder, config, publication)}",
        f"## Model\n\n{_model(folder, config)}",
    ]
    if recipe or state:
        parts.append(f"## Training\n\n{training_section(recipe, run, state, publication.dataset)}")
    if results:
        parts.append(f"## Results\n\n{results_section(results)}")
        if results.get("compression"):
            parts.append(f"## Fewer dimensions and bits\n\n{compression_section(results['compression'])}")
        if results["run"].get("embedding", {}).get("items_per_second"):
            parts.append(f"## Speed\n\n{speed_section(results['run'])}")
    if usage := expert_usage(state):
        parts.append(f"## Use of the experts\n\n{usage}")
    for figure, path in publication.figures.items():
        title, caption = FIGURES[figure]
        parts.append(f"## {title}\n\n![{title}]({path})\n\n{caption}")
    parts += [
        f"## Limits and risks\n\n{_limits(results)}",
        f"## Licence\n\n{_licence(publication)}",
        f"## Citation\n\nThe method is the paper's:\n\n{CITATION}",
    ]
    facts = metadata(publication, results)
    return sign(f"---\n{facts.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def lacking(publication: Publication, results: dict | None) -> list[str]:
    """What a card could have and has not, each with what to do: for who is about to publish it."""
    found = {
        "any figure (score the model with `python -m evaluation`, then give --results)": results is not None,
        "fewer dimensions and bits (score it with --dims and --precisions)": "compression" in (results or {}),
        "a heat-map (--heatmap, a PNG of `python -m evaluation heatmap`)": "heatmap" in publication.figures,
        "a picture of how experts are used (--expert_usage, or `python -m evaluation report RESULTS` before)": (
            "expert_usage" in publication.figures
        ),
        "the licence of the weights (--license)": publication.license is not None,
    }
    return [what for what, there in found.items() if not there]


def sign(text: str) -> str:
    """The text with its digest at the end, in a comment."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{text}\n<!-- Written by `python -m evaluation push`; digest of the text above: {digest} -->\n"


def is_untouched(card: str) -> bool:
    """Whether a card is as `model_card` wrote it, so that nobody's work is lost with it."""
    found = SIGNED.search(card)
    return found is not None and sign(card[: found.start()]) == card


def metadata(publication: Publication, results: dict | None) -> ModelCardData:
    """What the Hub reads: the block of YAML on top of the card."""
    evaluations = None if results is None else list(eval_results(results))
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="feature-extraction",
        license=publication.license,
        license_name=publication.license_name,
        license_link=publication.license_link,
        base_model=publication.base_model,
        datasets=None if publication.dataset is None else [publication.dataset],
        tags=list(TAGS),
        model_name=publication.repo_id.split("/")[-1] if evaluations else None,
        eval_results=evaluations or None,
    )


def _what_it_is(trained: bool) -> str:
    return (
        "One vector for an e-commerce product, from its title, its pictures, or both, to find products that belong "
        "together by cosine. A vision-language model whose feed-forward layers are a mixture of experts, built "
        f"{'and trained ' if trained else ''}as in [MOON2.0](https://arxiv.org/abs/2511.12449) by an independent "
        "implementation. These are not the weights of the paper's authors, and no figure here is theirs."
    )


def _use(folder: Path, config: Moon2Config, publication: Publication) -> str:
    code = sum((folder / name).is_file() for name in SHIPPED_CODE)
    name, revision = publication.repo_id, publication.revision
    pin = "" if revision is None else f', revision="{revision}"'
    option = "" if revision is None else f" \\\n    --model_revision {revision}"
    why = (
        ""
        if revision is None
        else f"The examples name a commit: loading runs the {code} Python files beside the weights, and in a commit "
        "they cannot change after you have read them. The weights are safetensors.\n\n"
    )
    saved = config.transformers_version
    needs = f"It was saved with transformers {saved}; older versions may not load it.\n\n" if saved else ""
    return f"""{needs}{why}With transformers:

```python
import torch
from transformers import AutoModel, AutoProcessor

pinned = dict(trust_remote_code=True{pin})
model = AutoModel.from_pretrained("{name}", **pinned).eval()
processor = AutoProcessor.from_pretrained("{name}", **pinned)

products = [
    {{"text": "Blue ceramic mug"}},  # a title
    {{"image": "mug.jpg"}},  # a picture: path, PIL image, array or bytes
    {{"text": "Blue ceramic mug", "image": ["mug.jpg"]}},  # both
]
with torch.no_grad():
    vectors = model(**processor(products)).embeddings  # (3, D), L2-normalised
print(vectors @ vectors.T)  # cosine similarities
```

With sentence-transformers, which gives the same vectors (text, pictures and both, as above):

```python
from sentence_transformers import SentenceTransformer

encoder = SentenceTransformer("{name}", trust_remote_code=True{pin})
found = encoder.similarity(encoder.encode_query("blue mug"), encoder.encode_document(["Blue ceramic mug", "Red shirt"]))
print(found)
```

A whole catalogue (columns `id`, `text`, `image`) on the command line of the project:

```bash
python -m evaluation embed --model {name}{option} \\
    --dataset products.parquet --output vectors
```"""


def _model(folder: Path, config: Moon2Config) -> str:
    with torch.device("meta"):  # counted, not loaded
        model = Moon2Model(config)
    text, layers = config.vlm_config.get_text_config(), model.moe_layer_indices
    experts = f"{config.num_experts}, of which a token takes {config.num_experts_per_tok}"
    if config.shared_expert_intermediate_size:
        experts += ", and one that all tokens take"
    rows = [
        ["parameters", f"{model.num_parameters():,}"],
        ["parameters active for a token", f"{model.num_active_parameters():,}"],
        ["dimensions of a vector", f"{text.hidden_size:,}"],
        ["backbone", f"`{config.vlm_config.model_type}`, {text.num_hidden_layers} decoder layers"],
        ["experts", experts],
        ["layers with experts", f"{len(layers)} of {text.num_hidden_layers}"],
        ["router", config.router],
        ["objectives", ", ".join(arrow(name) for name in config.objectives)],
        ["type of the weights", ", ".join(_weight_types(folder))],
    ]
    return table(["", ""], rows)


def _weight_types(folder: Path) -> list[str]:
    types = set()
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, "pt") as file:
            types |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - it is no dict
    return sorted(types)


def _limits(results: dict | None) -> str:
    lines = [
        "It knows the kinds of products, the languages and the styles of photos that it was trained on; others may "
        "come out worse. Measure it on your own catalogue before you rely on it.",
        "Similar vectors mean that two products look or read alike, not that a claim about either is true. It repeats "
        "what is one-sided in its training data, and wrong titles or text in pictures can mislead it.",
        "It is made for products. It is not made to recognise or compare people who appear in photos.",
        "Scores depend on the gallery: among more, or more similar, products they fall.",
    ]
    if results is None:
        lines.insert(0, "No evaluation is published with these weights.")
    return "\n".join(f"- {line}" for line in lines)


def _licence(publication: Publication) -> str:
    code = "The Python files are Apache-2.0."
    if publication.license is None:
        return f"{code} The licence of the weights has not been stated: ask who published them."
    name = publication.license_name or publication.license
    return (
        f"{code} The weights: " + (f"[{name}]({publication.license_link})" if publication.license_link else name) + "."
    )


def _read(file: Path, parse) -> dict | None:
    if not file.is_file():
        return None
    try:
        return parse(file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise EvaluationError(f"{file} cannot be read, so the model card cannot quote it: {error}") from error
