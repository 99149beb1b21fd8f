"""How long an answer takes, in one process: transformers, sentence-transformers and ONNX Runtime with the same weights.

    python -m research.benchmarks.serving --model moon2 [--titles 1 32] [--repeats 30]

An answer is titles to vectors, tokens included. The ONNX program takes any number of titles and is made for the
occasion, which is not timed; that all ways give the same vectors is checked before anything is. The code inside the
checkpoint is run: use checkpoints that you trust.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor
from transformers.exporters import OnnxConfig, OnnxExporter

from common_moon2.cli import whole
from publishing_moon2.export import Moon2Program, program_inputs
from research.benchmarks.measure import machine, print_table, ratios, spread, time_paired

TITLE = "blue ceramic mug with a wooden handle, 350 ml, number {}"
TOLERANCE = 1e-5


def ways(model: str, folder: str) -> dict[str, Callable[[list[str]], np.ndarray]]:
    """What embeds titles, by name; `folder` gets the ONNX program."""
    import onnxruntime

    plain = AutoModel.from_pretrained(model, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(model, trust_remote_code=True)
    encoder = SentenceTransformer(model, trust_remote_code=True, device="cpu")

    def features(titles: list[str]) -> dict:
        return processor([{"text": title} for title in titles])

    def by_transformers(titles: list[str]) -> np.ndarray:
        with torch.inference_mode():
            return plain(**features(titles)).embeddings.numpy()

    traced = program_inputs(plain, features(["red mug", "blue striped shirt"]))
    OnnxExporter().export(Moon2Program(plain), traced, OnnxConfig(dynamic=True)).save_pretrained(folder)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx", settings)

    def by_onnx(titles: list[str]) -> np.ndarray:
        numbers = {name: value.numpy() for name, value in program_inputs(plain, features(titles)).items()}
        return session.run(["embeddings"], numbers)[0]

    def by_sentence_transformers(titles: list[str]) -> np.ndarray:
        return encoder.encode(titles, batch_size=len(titles))

    return {
        "transformers": by_transformers,
        "sentence-transformers": by_sentence_transformers,
        "ONNX Runtime": by_onnx,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a Moon2 checkpoint")
    parser.add_argument("--titles", nargs="+", type=whole(1), default=[1, 32], help="in a request (default: 1 32)")
    parser.add_argument("--repeats", type=whole(1), default=30, help="rounds (default: %(default)s)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="moon2-serving-") as folder:
        found = ways(options.model, folder)
        rows = [row for count in options.titles for row in _rows(found, count, options.repeats)]
    print(f"Median milliseconds, and how many times as fast as transformers (range of the rounds). {machine()}\n")
    print_table(["", "titles", "ms", "times as fast"], rows)
    return 0


def _rows(found: dict[str, Callable], count: int, repeats: int) -> list[list[str]]:
    titles = [TITLE.format(number) for number in range(count)]
    first, *others = (embed(titles) for embed in found.values())
    for vectors in others:
        np.testing.assert_allclose(vectors, first, atol=TOLERANCE, rtol=0)
    seconds = time_paired({name: lambda embed=embed: embed(titles) for name, embed in found.items()}, repeats)
    return [
        [name, str(count), f"{1000 * statistics.median(own):.1f}", spread(ratios(seconds["transformers"], own))]
        for name, own in seconds.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
