"""The page of a run in a real browser: it is one file, all its images are seen, and it fits a desktop and a phone."""

import pytest
from browser import SIZES, Visit
from test_benchmark import benchmark_rows
from test_page import evaluated

from conftest import tiny_model, tiny_processor
from evaluation.__main__ import main

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A run with more dimensions and precisions than one, and its page, alone in a folder."""
    folder = tmp_path_factory.mktemp("page")
    tiny_model().save_pretrained(folder / "moon2")
    tiny_processor().save_pretrained(folder / "moon2")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("score", "show.page"):
            patch.setattr(f"evaluation.{module}.DEFAULT_CACHE", folder / "vectors")
        options = ["--dims", "16,8", "--precisions", "float32,binary"]
        run = evaluated(str(folder / "moon2"), benchmark_rows(), folder, *options)
        assert main(["report", str(run)]) == 0
    return (run / "report.html").rename(folder / "alone.html")


@pytest.mark.parametrize("size", SIZES)
def test_the_page_of_a_run(chromium, page, size):
    visit = Visit(chromium, page.as_uri(), size)
    visit.keep("report")
    assert visit.fits()
    expect = playwright.expect
    for plot in ("Recall among the candidates", "Fewer dimensions", "The router's gates", "The softmax", "12 products"):
        expect(visit.tab.locator(f'figure img[alt^="{plot}"]')).to_be_visible()
    shown = visit.tab.locator("img").evaluate_all("all => all.map(one => one.complete && one.naturalWidth > 0)")
    assert len(shown) > 50 and all(shown)
    assert visit.tab.locator(".answer").count() == 36  # six queries in each direction, t2t included
    answer = visit.tab.locator(".answer").first
    expect(answer.locator(".verdict")).to_contain_text("Hit at rank")
    expect(answer.locator(".card.right .rank").first).to_contain_text("✓")
    visit.tab.locator("nav a[href='#i2mm']").click()
    expect(visit.tab.locator("#i2mm")).to_be_in_viewport()
    visit.tab.get_by_text("Attributes, one by one").click()
    expect(visit.tab.locator("details[open] table").first).to_be_visible()
    assert visit.fits()
    visit.close()
