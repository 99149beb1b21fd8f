"""The demo in a real browser, on a desktop's width and on a phone's."""

import time
from pathlib import Path

import pytest
from browser import SIZES, Visit

from conftest import picture, tiny_model, tiny_processor

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="the extra `demo` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from demo_moon2.app import serve  # noqa: E402
from demo_moon2.arguments import ServeArguments  # noqa: E402
from demo_moon2.query import Reader  # noqa: E402

expect = playwright.expect


@pytest.fixture(scope="module")
def address(mbe2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    tiny_model().save_pretrained(folder / "moon2")
    tiny_processor().save_pretrained(folder / "moon2")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("evaluation.vectors.hybrid.FEWEST", 3)  # queries of a small data set
    served = serve(ServeArguments(model=str(folder / "moon2"), dataset=mbe2, cache=folder / "cache"))
    monkeypatch.undo()
    yield served.local_url
    served.close()


class DemoVisit(Visit):
    """A visit to the demo, with the parts of its page."""

    def __init__(self, browser, address: str, size: str):
        super().__init__(browser, address, size)
        self.text = self.tab.get_by_label("Text", exact=True)
        self.search = self.tab.get_by_role("button", name="Search", exact=True)
        self.cards = self.tab.locator(".card")
        self.kind = self.tab.locator("#query strong")
        expect(self.text).to_be_visible()

    def add(self, path: Path) -> None:
        self.tab.locator("#picture input[type=file]").set_input_files(path)


@pytest.fixture(params=SIZES)
def visit(chromium, address, request):
    visit = DemoVisit(chromium, address, request.param)
    yield visit
    visit.close()


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    picture(60, 60, seed=9).save(path)
    return path


def test_text_then_picture_too_then_picture_alone(visit, photo):
    visit.keep("start")
    visit.text.fill("blue mug")
    visit.text.press("Enter")
    expect(visit.cards).to_have_count(12)
    expect(visit.kind).to_have_text("text")
    expect(visit.tab.locator("#query td")).to_have_count(4)
    expect(visit.cards.first.locator("img")).to_be_visible()
    assert visit.fits()
    visit.keep("text")

    visit.add(photo)  # which searches at once
    expect(visit.kind).to_have_text("text and image")
    expect(visit.tab.locator("#query td")).to_have_count(12)
    expect(visit.tab.locator("#query")).to_contain_text("50% image")
    visit.keep("both")
    slider = visit.tab.get_by_role("slider")
    slider.focus()
    slider.press("End")
    expect(visit.tab.locator("#query")).to_contain_text("100% image")
    alone = visit.cards.all_inner_texts()

    visit.text.fill("")
    visit.search.click()
    expect(visit.kind).to_have_text("image")
    assert visit.cards.all_inner_texts() == alone, "a share of 100 % is the image alone"
    assert visit.fits()
    visit.keep("picture")


def test_the_way_to_search_is_a_switch(visit):
    visit.text.fill("blue mug")
    visit.text.press("Enter")
    expect(visit.cards).to_have_count(12)
    both = visit.cards.all_inner_texts()
    expect(visit.tab.get_by_role("radio", name="Vectors and words")).to_be_checked()
    expect(visit.tab.locator("#query")).to_contain_text("its words count")
    visit.keep("vectors-and-words")
    visit.tab.get_by_role("radio", name="Words", exact=True).check()  # which searches at once
    expect(visit.tab.locator("#query")).to_contain_text("its words count 100%")
    expect(visit.cards.first).to_contain_text("mug", ignore_case=True)
    visit.keep("words")
    visit.tab.get_by_role("radio", name="Vectors", exact=True).check()
    expect(visit.tab.locator("#query")).not_to_contain_text("its words count")
    assert visit.cards.all_inner_texts() != both and visit.fits()
    visit.keep("vectors")


def test_the_heat_map_by_keyboard(visit):
    visit.text.fill("blue mug")
    visit.text.press("Enter")
    card = visit.tab.locator(".card:has(button)").first
    title = card.locator(".title").inner_text()
    card.get_by_role("button", name=f"Heat-map of {title}").focus()
    visit.tab.keyboard.press("Enter")
    heat = visit.tab.locator("section.heat")
    expect(heat.get_by_role("heading")).to_have_text(title)
    expect(heat.locator("img")).to_have_count(2)
    expect(heat).to_be_focused()
    expect(heat).to_be_in_viewport()
    assert heat.locator(".words span").all_inner_texts() and visit.fits()
    visit.keep("heat-map")
    visit.search.click()
    expect(heat).to_have_count(0)


def test_all_can_be_reached_by_keyboard(visit):
    visit.text.focus()
    reached = []
    for _ in range(12):
        visit.tab.keyboard.press("Tab")
        reached.append(visit.tab.evaluate("document.activeElement.innerText || document.activeElement.type || ''"))
    order = [next(index for index, what in enumerate(reached) if name in what) for name in ("Click", "range", "Search")]
    assert order == sorted(order)


def test_an_empty_query_and_files_that_are_none(visit, photo, tmp_path):
    visit.search.click()
    alert = visit.tab.locator("#said [role=alert]")
    expect(alert).to_have_text("Type what you look for, or add an image.")
    visit.keep("empty")
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image " * 50)
    visit.add(bad)
    expect(visit.tab.get_by_text("This file is no JPEG, PNG, WEBP, GIF, BMP, AVIF or TIFF image.")).to_be_visible()
    visit.keep("bad-file")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(photo.read_bytes()[:700])
    visit.add(cut)
    expect(alert).to_contain_text("The image cannot be read: ")
    expect(visit.cards).to_have_count(0)
    expect(visit.tab.locator("#picture img")).to_have_count(0)
    visit.keep("cut-file")
    large = tmp_path / "large.jpg"
    large.write_bytes(photo.read_bytes() + bytes(9 << 20))
    visit.add(large)
    expect(visit.tab.get_by_text("maximum", exact=False).first).to_be_visible()
    visit.keep("large-file")
    visit.text.fill("mug")
    visit.search.click()
    expect(visit.cards).to_have_count(12)


def test_an_example_searches(visit):
    visit.tab.locator("button.gallery-item, .gallery button").first.click()
    expect(visit.cards).to_have_count(12)
    assert visit.text.input_value()


def test_waiting_is_shown(visit, monkeypatch):
    answer = Reader.query

    def slowly(*arguments):
        time.sleep(2)
        return answer(*arguments)

    visit.text.fill("mug")
    visit.search.click()
    expect(visit.cards).to_have_count(12)
    monkeypatch.setattr(Reader, "query", slowly)
    visit.search.click()
    expect(visit.tab.locator("#found .wrap.generating, #found .progress-text, #found .eta-bar").first).to_be_attached()
    visit.keep("waiting")
    expect(visit.cards).to_have_count(12)
