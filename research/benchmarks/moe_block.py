"""What the mixture of experts costs: a block against a dense feed-forward layer with as many active parameters.

    python -m research.benchmarks.moe_block [--sizes 192x512 640x1920] [--tokens 64 512 2048] [--repeats 15]

The block has 4 experts of half the dense width, 2 for each token; float32. "Training" is forward and backward, with the
gradients of the input and of all weights. Token routing is random but uneven, as an untrained router has it.
"""

import argparse
import sys

import torch
from transformers import AutoConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextMLP

from common_moon2.cli import whole
from configuration_moon2 import Moon2Config
from modeling_moon2 import Moon2SparseMoeBlock
from research.benchmarks.measure import machine, print_table, ratios, spread, time_paired

IMPLEMENTATIONS = ("grouped_mm", "eager")


def build(hidden_size: int, intermediate_size: int, implementation: str | None, seed: int) -> torch.nn.Module:
    """The dense layer (`None`), or the block that takes its place."""
    torch.manual_seed(seed)
    text_config = {"hidden_size": hidden_size, "intermediate_size": intermediate_size}
    vlm_config = AutoConfig.for_model("qwen3_vl", text_config=text_config)
    dense = Qwen3VLTextMLP(vlm_config.text_config)
    if implementation is None:
        return dense
    half = intermediate_size // 2
    config = Moon2Config(vlm_config=vlm_config, moe_intermediate_size=half, experts_implementation=implementation)
    block = Moon2SparseMoeBlock(config, dense)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=hidden_size**-0.5)
    return block


def run(hidden_size: int, intermediate_size: int, tokens: int, repeats: int, seed: int) -> list[str]:
    """One row of the table."""
    modules = {name: build(hidden_size, intermediate_size, name, seed) for name in (None, *IMPLEMENTATIONS)}
    states = torch.randn(1, tokens, hidden_size, requires_grad=True)
    gradient = torch.randn(1, tokens, hidden_size)
    with torch.no_grad():  # two ways to run the same experts
        torch.testing.assert_close(modules["eager"](states), modules["grouped_mm"](states), atol=1e-4, rtol=1e-4)

    def forward(module):
        with torch.no_grad():
            module(states)

    def train(module):
        module.zero_grad()
        states.grad = None
        module(states).backward(gradient)

    cells = []
    for step in (forward, train):
        # Few tokens take well under a millisecond: many times in a row, then.
        times = max(1, 4096 // tokens)

        def several(module, step=step, times=times):
            for _ in range(times):
                step(module)

        calls = {name: lambda module=module: several(module) for name, module in modules.items()}
        seconds = time_paired(calls, repeats)
        cells += [spread(ratios(seconds[name], seconds[None])) for name in IMPLEMENTATIONS]
    return [f"{hidden_size} x {intermediate_size}, {tokens} tokens", *cells]


def size(text: str) -> tuple[int, int]:
    """ "192x512" -> (192, 512)"""
    width, _, inner = text.partition("x")
    if not (width.isdecimal() and inner.isdecimal() and int(width) * int(inner)):
        raise argparse.ArgumentTypeError(f"{text} is no size; give width and feed-forward width, such as 192x512")
    return int(width), int(inner)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", nargs="+", type=size, default=[(192, 512), (640, 1920)], help="width x dense feed-forward width"
    )
    parser.add_argument("--tokens", nargs="+", type=whole(1), default=[64, 512, 2048])
    parser.add_argument("--repeats", type=whole(1), default=15)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    settings = [(*size, tokens) for size in options.sizes for tokens in options.tokens]
    rows = (run(*setting, options.repeats, options.seed) for setting in settings)
    print(f"Times the dense layer's: median (range) of the rounds. {machine()}, seed {options.seed}\n")
    print_table(["", *(f"{what}, {name}" for what in ("forward", "training") for name in IMPLEMENTATIONS)], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
