"""Retrieval on the validation triplets while training: the five directions of MOON2.0, section 6."""

import torch

from evaluation.measure.retrieval import DIRECTIONS, relevant_ranks, retrieval_metrics
from evaluation.models.embed import embed
from training_moon2.triplets import ROLES, TripletDataset

VIEWS = {"t": ("text",), "i": ("image",), "mm": ("text", "image")}
QUERY_VIEWS = {"text": "t", "image": "i", "mixed": "mm"}


class ValidationRetrieval:
    """The queries of some validation triplets, asked of all the products in them.

    A product is right if it, or a listing of its group, is a positive of the query. The corpus is small, so the figures
    are higher than those of `python -m evaluation`: they are for comparing the moments of a run.

    Args:
        dataset: validation triplets, without augmentation.
        sample: so many triplets at most, spread evenly over the data set.
    """

    def __init__(self, dataset: TripletDataset, sample: int):
        self.products: dict[int, dict] = {}
        self.queries: dict[str, dict] = {}
        groups: dict[int, int] = {}
        wanted: dict[str, set[int]] = {}
        for index in torch.linspace(0, len(dataset) - 1, min(sample, len(dataset))).long().unique().tolist():
            triplet = dataset[index]
            for role in ROLES[1:]:
                self.products[triplet[f"{role}_id"]] = triplet[role]
                groups[triplet[f"{role}_id"]] = triplet[f"{role}_group"]
            self.queries[triplet["query_id"]] = triplet["query"]
            wanted.setdefault(triplet["query_id"], set()).add(triplet["positive_group"])
        self.relevant = {
            query_id: [product for product, group in groups.items() if group in wanted[query_id]]
            for query_id in self.queries
        }

    def __call__(self, model, processor, batch_size: int) -> dict[str, float]:
        """Recall@10 of every direction that has queries and candidates, and their mean; shares between 0 and 1.

        Args:
            model: in evaluation mode.

        Raises:
            UserError: a product cannot be prepared, or its vector is not finite.
        """
        corpus, asked, found = {}, {}, {}
        for direction, (modality, view) in DIRECTIONS.items():
            if view not in corpus:
                corpus[view] = _embed(model, processor, self.products, VIEWS[view], batch_size)
            if modality not in asked:
                names = VIEWS[QUERY_VIEWS[modality]]
                exactly = {key: item for key, item in self.queries.items() if _modalities(item) == names}
                asked[modality] = _embed(model, processor, exactly, names, batch_size)
            place = {product: row for row, product in enumerate(corpus[view])}
            relevant = {
                query: [place[product] for product in self.relevant[query] if product in place]
                for query in asked[modality]
            }
            scored = [query for query, rows in relevant.items() if rows]
            if scored:
                ranks = relevant_ranks(
                    torch.stack([asked[modality][query] for query in scored]),
                    torch.stack(list(corpus[view].values())),
                    [relevant[query] for query in scored],
                    torch.tensor(list(corpus[view])).argsort().argsort(),
                )
                found[f"recall_{direction}"] = retrieval_metrics(ranks)["recall@10"]
        return found | ({"recall_mean": sum(found.values()) / len(found)} if found else {})


def _modalities(product: dict) -> tuple[str, ...]:
    return tuple(name for name in ("text", "image") if product[name] is not None)


def _embed(model, processor, products: dict, names: tuple[str, ...], batch_size: int) -> dict:
    """Return the vectors of the products that have all of `names`, showing nothing else."""
    shown = {
        key: {name: product[name] for name in names}
        for key, product in products.items()
        if set(names) <= set(_modalities(product))
    }
    items, keys = list(shown.values()), list(shown)
    lengths = [len(item.get("text") or "") for item in items]
    vectors = embed(model, processor, items, lengths, lambda index: f"Product {keys[index]}", batch_size, leave=False)
    return dict(zip(keys, vectors, strict=True))
