"""The linear probe on vectors whose categories a line can, and cannot, tell apart."""

import pytest
import torch

from common_moon2.cli import UserError
from evaluation.measure.classification import linear_probe


def cloud(center: tuple[float, float], count: int, seed: int) -> torch.Tensor:
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(torch.tensor(center) + 0.1 * noise, dim=-1)


def test_what_a_line_separates_is_read():
    train = torch.cat([cloud((1, 0), 20, seed=0), cloud((0, 1), 20, seed=1), cloud((-1, 0), 5, seed=2)])
    train_paths = [["mug"]] * 20 + [["hat"]] * 20 + [[]] * 5
    test = torch.cat([cloud((1, 0), 6, seed=3), cloud((0, 1), 4, seed=4), cloud((1, 0), 2, seed=5)])
    test_paths = [["mug"]] * 6 + [["hat"]] * 4 + [["scarf"]] * 2
    found = linear_probe(train, train_paths, test, test_paths)
    assert (found["labels"], found["train_products"], found["products"], found["unseen_products"]) == (3, 40, 12, 2)
    assert found["metrics"]["accuracy"] == pytest.approx(10 / 12)  # nobody can say "scarf"
    low, high = found["intervals"]["accuracy"]
    assert low < 10 / 12 < high


def test_a_probe_without_anything_to_learn_is_refused():
    vectors = cloud((1, 0), 4, seed=0)
    for train_paths, test_paths in (([["mug"]] * 4, [["mug"]] * 4), ([["mug"], ["hat"]] * 2, [[]] * 4)):
        with pytest.raises(UserError, match="needs train products of two categories"):
            linear_probe(vectors, train_paths, vectors, test_paths)
