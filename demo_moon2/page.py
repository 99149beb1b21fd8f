"""The page: its layout, and what happens on it."""

import time
from pathlib import Path
from types import NoneType

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from common_moon2.cli import UserError
from demo_moon2.catalogue import Catalogue
from demo_moon2.limits import HOURS_KEPT, MAX_TEXT, MAX_WAITING, picture_problem
from demo_moon2.parts import cards, head, heat_panel, message, problem, query_panel
from demo_moon2.query import Reader
from pictures_moon2 import load_picture

STYLE = Path(__file__).parent / "style.css"
EXAMPLES = 4
# The model sees no more of a query's image than this, and the rest of a large one need not be kept.
QUERY_PIXELS = 2_000_000
BUSY = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}

# A click on a card's button, or Enter on it, tells the server which row it carries.
ON_CARD = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-row]');
  if (button) trigger('click', {row: Number(button.dataset.row)});
});
"""
# On a phone the heat-map is out of sight when it comes; the focus goes there, for keyboards and screen readers.
TO_HEAT = """() => {
  const heat = document.querySelector('#heat section.heat');
  if (!heat) return;
  heat.focus({preventScroll: true});
  heat.scrollIntoView({block: window.innerWidth < 700 ? 'start' : 'nearest'});
}"""
# So are the results, below the form, and that they are on their way.
TO_RESULTS = """() => {
  const said = document.getElementById('said');
  if (said && said.getBoundingClientRect().top > window.innerHeight / 2) said.scrollIntoView({block: 'start'});
}"""
THEN_SEARCH = f"(...inputs) => {{ ({TO_RESULTS})(); return inputs; }}"
SHARE = "0: the text alone. 50: the model's own vector of both. 100: the image alone. Between: a mixture."

WAY = "Words are those of the titles (BM25). Without a text, or without a word that is known, vectors decide."


def build_page(catalogue: Catalogue, reader: Reader, results: int, name: str) -> gr.Blocks:
    """Return the page over one catalogue and one model.

    Args:
        results: how many products a search shows.
        name: what the page calls model and catalogue.
    """

    def search(text: str | None, upload: dict | None, share: float, way: str):
        begun = time.perf_counter()
        try:
            picture = _picture(upload, folder)
        except UserError as error:  # without it, the form is empty again
            return problem(str(error)), "", "", "", None
        try:
            _check(text, share, way)
            query = reader.query(text, picture, share / 100)
            # At the ends of the share one of the two is alone, for words as well.
            words, view = (None, "i") if query.view == "mm" and share == 100 else (text, query.view)
            view = "t" if view == "mm" and share == 0 else view
            found = catalogue.search(query.vector, results, way, words, view)
        except UserError as error:
            return problem(str(error)), "", "", "", gr.skip()
        seconds = time.perf_counter() - begun
        said = message(f"The best {len(found.products)} of {len(catalogue):,} products, in {seconds:.2f} s.")
        return said, query_panel(query, share / 100, found.weight), "", cards(catalogue, found), gr.skip()

    def search_again(text: str | None, upload: dict | None, share: float, way: str):
        """Search, unless the share has no meaning yet."""
        if not (text and upload):
            return [gr.skip()] * 5
        return search(text, upload, share, way)

    def search_otherwise(text: str | None, upload: dict | None, share: float, way: str):
        """Search in another way, unless nothing is asked yet."""
        if not (text or upload):
            return [gr.skip()] * 5
        return search(text, upload, share, way)

    def show_heat(event: gr.EventData) -> str:
        row = getattr(event, "row", None)
        try:
            return heat_panel(catalogue, reader, row if type(row) is int else -1)
        except UserError as error:
            return problem(str(error))

    folder, hour = Path(get_upload_folder()).resolve(), 3600
    with gr.Blocks(
        title="MOON2.0: search by text and image",
        analytics_enabled=False,
        delete_cache=(hour, HOURS_KEPT * hour),
        fill_width=True,
    ) as page:
        gr.HTML(head(name, f"{len(catalogue):,}"), elem_id="head", apply_default_css=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=300):
                text = gr.Textbox(
                    label="Text",
                    placeholder="What do you look for?",
                    max_length=MAX_TEXT,
                    autofocus=True,
                    lines=1,
                    max_lines=3,
                )
                upload = gr.Image(
                    label="Image", sources=["upload", "clipboard"], height=220, buttons=[], elem_id="picture"
                )
                share = gr.Slider(0, 100, 50, step=5, label="Share of the image, %", info=SHARE)
                way = gr.Radio(catalogue.ways, value=catalogue.ways[0], label="Search by", info=WAY, elem_id="way")
                button = gr.Button("Search", variant="primary")
                titles = [row for row in catalogue.view if catalogue.title(row)]
                every = max(1, len(titles) // EXAMPLES)
                chosen = [[catalogue.title(row)] for row in titles[::every][:EXAMPLES]]
                examples = gr.Examples(chosen, [text], label="For example") if chosen else None
            with gr.Column(scale=3, min_width=300):
                said = gr.HTML(
                    message("Type something or add an image, then search."), elem_id="said", apply_default_css=False
                )
                panel = gr.HTML(elem_id="query", apply_default_css=False)
                heat = gr.HTML(elem_id="heat", apply_default_css=False)
                found = gr.HTML(elem_id="found", apply_default_css=False, js_on_load=ON_CARD)

        inputs, outputs = [text, upload, share, way], [said, panel, heat, found, upload]
        # What may be opened is decided by `limits`: left to itself, gradio would read the image first.
        asked = {"inputs": inputs, "outputs": outputs, "preprocess": False, **BUSY}
        show = {"show_progress_on": [found], "js": THEN_SEARCH, **asked}
        searched = [gr.on([button.click, text.submit, upload.upload], search, **show)]
        if examples:
            searched.append(examples.load_input_event.then(search, **show))
        for event in searched:
            event.then(None, js=TO_RESULTS)
        share.change(search_again, show_progress="hidden", trigger_mode="always_last", **asked)
        way.change(search_otherwise, show_progress="hidden", trigger_mode="always_last", **asked)
        found.click(show_heat, None, heat, **BUSY).then(None, js=TO_HEAT)
    page.queue(max_size=MAX_WAITING)
    return page


def _picture(upload: dict | None, folder: Path) -> Image.Image | None:
    """Return the query's image, from what gradio knows of an upload; remove a file that is refused.

    Args:
        folder: of uploads. Gradio looks at paths only where a request calls them files, so they are looked at here.
    """
    if upload is None:
        return None
    path = Path(upload.get("path") or "").resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise UserError("The image is no longer here: add it again.")
    said = picture_problem(path)
    if said is None:
        try:
            return load_picture(path, max_pixels=QUERY_PIXELS)
        except ValueError as error:
            said = f"The image cannot be read: {error}."
    path.unlink(missing_ok=True)
    raise UserError(said)


def _check(text: str | None, share: float, way: str) -> None:
    """Check a query; the page's own form sends nothing that is refused here, but others can ask, too."""
    if not isinstance(text, (str, NoneType)) or not isinstance(share, (int, float)) or not isinstance(way, str):
        raise UserError("A query is a text, an image, a number and a way to search.")
    if text and len(text) > MAX_TEXT:
        raise UserError(f"The text has {len(text)} characters; at most {MAX_TEXT} are read.")
