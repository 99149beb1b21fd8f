"""From a model and a data set to the running page."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from evaluation.errors import EvaluationError

MODEL, DATASET = "moon2", "mbe2"


class Settings(NamedTuple):
    """What the page shows; see the options of `python -m demo_moon2`."""

    model: str = MODEL
    dataset: str = DATASET
    model_revision: str | None = None
    dataset_revision: str | None = None
    cache: Path | None = None
    batch_size: int = 64
    workers: int = 0
    results: int = 12


def serve(settings: Settings, host: str | None = None, port: int | None = None, block: bool = True):
    """Loads model and catalogue, embeds what the cache has not, and serves the page.

    Args:
        host, port: `None`: as gradio chooses (GRADIO_SERVER_NAME, or 127.0.0.1; the first free port from 7860 on).
        block: return only when the page is closed.

    Returns:
        The `gradio.Blocks`; its `local_url` is the address.

    Raises:
        EvaluationError: the model or the data set cannot be used, or the port is taken.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio would report each start to its makers
    # Gradio serves whatever lies in these folders, which by default all pages of a machine share.
    uploads = tempfile.mkdtemp(prefix="moon2-demo-")
    atexit.register(shutil.rmtree, uploads, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"], os.environ["GRADIO_EXAMPLES_CACHE"] = uploads, uploads
    # Here, so that --help and wrong options do not wait for it.
    import gradio as gr
    from starlette.middleware import Middleware

    from demo_moon2.catalogue import open_catalogue
    from demo_moon2.limits import MAX_UPLOAD, Guard
    from demo_moon2.page import STYLE, build_page
    from demo_moon2.query import Reader
    from evaluation.models.encoders import load_encoder

    for kind, name, usual in (("model", settings.model, MODEL), ("data set", settings.dataset, DATASET)):
        if name == usual and not Path(name).is_dir():
            option = {"model": "--model", "data set": "--dataset"}[kind]
            raise EvaluationError(f"There is no {kind} {name} here: run `make demo`, or name one with {option}.")
    encoder = load_encoder(settings.model, settings.model_revision)
    if encoder.kind != "moon2":
        raise EvaluationError(f"{settings.model} is a {encoder.kind} model; the page needs a Moon2 checkpoint.")
    catalogue = open_catalogue(
        settings.dataset, encoder, settings.dataset_revision, settings.cache, settings.batch_size, settings.workers
    )
    if catalogue.left_out:
        print(f"{catalogue.left_out} products have neither title nor picture; they are left out.")
    # Of a folder the last part: visitors need not know where it lies.
    names = [Path(name).resolve().name if Path(name).is_dir() else name for name in (settings.model, settings.dataset)]
    page = build_page(catalogue, Reader(encoder.checkpoint), settings.results, " on ".join(names))
    # Fonts of the visitor's own system; small print dark enough to be read.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    theme.set(block_info_text_color="*neutral_600", body_text_color_subdued="*neutral_600")
    try:
        page.launch(
            server_name=host,
            server_port=port,
            theme=theme,
            css_paths=STYLE,
            max_file_size=MAX_UPLOAD,
            app_kwargs={"middleware": [Middleware(Guard)], "docs_url": None, "redoc_url": None, "openapi_url": None},
            footer_links=[],
            quiet=True,
            run_history=False,
            ssr_mode=False,
            share=False,
            enable_monitoring=False,
            mcp_server=False,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise EvaluationError(f"The page cannot be served: {error}") from error
    print(f"The page is at {page.local_url}", flush=True)
    if block:
        page.block_thread()
    return page
