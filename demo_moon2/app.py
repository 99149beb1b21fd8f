"""From a model and a data set to the running page; a Space starts here, `python -m demo_moon2` calls it.

A Space shows the model and data set of `space.json`, which `python -m demo_moon2 push` writes, unless its variables
name others: MOON2_MODEL, MOON2_MODEL_REVISION, MOON2_DATASET, MOON2_DATASET_REVISION.
"""

import atexit
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from common_moon2.cli import UserError
from demo_moon2.arguments import DATASET, MODEL, SHOWN, ServeArguments

CONFIG = Path(__file__).parent / "space.json"


def run(arguments: ServeArguments) -> dict:
    """Serve the page until it is closed."""
    page = serve(arguments)
    page.block_thread()
    return {"url": page.local_url}


def serve(arguments: ServeArguments):
    """Load model and catalogue, embed what the cache has not, and serve the page in a thread.

    Args:
        arguments: without a host, gradio takes that of GRADIO_SERVER_NAME.

    Returns:
        The `gradio.Blocks`; its `local_url` is the address.

    Raises:
        UserError: the model or the data set cannot be used, or the port is taken.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio would report each start to its makers
    # Gradio serves whatever lies in these folders, which by default all pages of a machine share.
    uploads = tempfile.mkdtemp(prefix="moon2-demo-")
    atexit.register(shutil.rmtree, uploads, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"], os.environ["GRADIO_EXAMPLES_CACHE"] = uploads, uploads
    for what, name, usual in (("model", arguments.model, MODEL), ("data set", arguments.dataset, DATASET)):
        if name == usual and not Path(name).is_dir():
            option = f"--{what.replace(' ', '')}"
            raise UserError(f"There is no {what} {name} here: run `make demo`, or name one with {option}.")
    # Gradio reads the variables above when it is imported.
    import gradio as gr
    from starlette.middleware import Middleware

    from demo_moon2.catalogue import open_catalogue
    from demo_moon2.limits import MAX_UPLOAD, Guard
    from demo_moon2.page import STYLE, build_page
    from demo_moon2.query import Reader
    from evaluation.models.encoders import load_encoder
    from evaluation.vectors.hybrid import read_fusion

    encoder = load_encoder(arguments.model, arguments.model_revision)
    fusion = read_fusion(arguments.weights, encoder.fingerprint) if arguments.weights else None
    if encoder.kind != "moon2":
        raise UserError(f"{arguments.model} is a {encoder.kind} model; the page needs a Moon2 checkpoint.")
    catalogue = open_catalogue(
        arguments.dataset,
        encoder,
        arguments.dataset_revision,
        arguments.cache,
        arguments.batch_size,
        arguments.workers,
        fusion,
    )
    if catalogue.left_out:
        print(f"{catalogue.left_out} products have neither title nor image; they are left out.")
    # Of a folder the last part: visitors need not know where it lies.
    names = [
        Path(name).resolve().name if Path(name).is_dir() else name for name in (arguments.model, arguments.dataset)
    ]
    page = build_page(catalogue, Reader(encoder.checkpoint), arguments.results, " on ".join(names))
    # Fonts of the visitor's own system; small print dark enough to be read.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    theme.set(block_info_text_color="*neutral_600", body_text_color_subdued="*neutral_600")
    try:
        page.launch(
            server_name=arguments.host,
            server_port=arguments.port,
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
        raise UserError(f"The page cannot be served: {error}") from error
    print(f"The page is at {page.local_url}", flush=True)
    return page


def read_settings() -> ServeArguments:
    """Return what the Space shows. A variable that is empty counts as not set.

    Raises:
        UserError: space.json is damaged.
    """
    try:
        stored = json.loads(CONFIG.read_text(encoding="utf-8")) if CONFIG.is_file() else {}
    except ValueError as error:
        raise UserError(f"{CONFIG} is not valid JSON: {error}.") from error
    given = {name: os.environ.get(f"MOON2_{name.upper()}") for name in SHOWN}
    for kind in ("model", "dataset"):
        if given[kind]:  # a stored revision is one of what was stored
            stored.pop(f"{kind}_revision", None)
    return ServeArguments(host=None, **stored | {name: value for name, value in given.items() if value})


if __name__ == "__main__":
    try:
        run(read_settings())
    except UserError as error:
        sys.exit(f"error: {error}")
