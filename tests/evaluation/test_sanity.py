"""The share of attention on the product: a map that follows the mask scores high, an even one scores 1."""

import numpy as np
import pytest

from conftest import tiny_model, tiny_processor
from evaluation.measure.attention import OnProduct, attention_on_products, share_on, summary
from evaluation.show.heatmap import synthetic_products

WHOLE = (0.0, 0.0, 1.0, 1.0)


def test_even_attention_falls_on_the_product_by_its_area():
    mask = np.zeros((40, 40), bool)
    mask[5:17, 8:30] = True
    area, share = share_on(np.ones((3, 5)), WHOLE, mask)
    assert area == share == pytest.approx(12 * 22 / 1600)


def test_attention_counts_by_the_covered_part_of_a_cell():
    mask = np.zeros((40, 40), bool)
    mask[:20, :10] = True  # half of the upper left cell
    assert share_on(np.array([[3.0, 0.0], [0.0, 1.0]]), WHOLE, mask)[1] == pytest.approx(0.5 * 3 / 4)


def test_what_was_cut_off_does_not_count():
    mask = np.zeros((20, 40), bool)
    mask[:, :20] = True
    area, share = share_on(np.ones((2, 2)), (0.25, 0.0, 0.75, 1.0), mask)
    assert area == share == pytest.approx(0.5)
    # Padded to a square below: the grid's lower half lies outside of the photo.
    assert share_on(np.array([[1.0, 3.0], [9.0, 9.0]]), (0.0, 0.0, 1.0, 2.0), mask) == pytest.approx((0.5, 0.25))


def test_the_summary_is_of_ratios():
    means = summary([OnProduct("a", 0.5, 0.75), OnProduct("b", 0.25, 0.125)])
    assert means["ratio"] == pytest.approx(1.0) and means["above_area"] == 0.5
    assert means["ratio_interval_95"] == pytest.approx([0.5, 1.5])


def test_a_real_model_on_the_built_in_catalogue():
    model = tiny_model()
    model.set_attn_implementation("eager")
    found = attention_on_products(model, tiny_processor(), synthetic_products(3))
    assert [one.id.split("-")[0] for one in found] == ["p000000", "p000001", "p000002"]
    assert all(0.05 < one.area < 0.9 and 0 < one.attention < 1 for one in found)
