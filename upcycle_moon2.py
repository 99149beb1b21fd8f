"""Makes a Moon2 of a trained vision-language model: `python -m upcycle_moon2 --model Qwen/Qwen3-VL-2B-Instruct ...`.

Its feed-forward layers become the experts (MOON2.0, section 2). With experts as wide as those layers the new model
computes what the old one did, so it is a sound place for training to start from.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModel, PreTrainedConfig

from common_moon2.cli import answer, exit_codes
from common_moon2.fields import FieldParser, option
from configuration_moon2 import Moon2Config
from modeling_moon2 import Moon2Model
from processing_moon2 import Moon2Processor

EXAMPLES = (
    "python upcycle_moon2.py --model Qwen/Qwen3-VL-2B-Instruct --output_dir moon2-init --num_experts 4 --verify",
    "python upcycle_moon2.py --model Qwen/Qwen3-VL-2B-Instruct --output_dir moon2-init --moe_layers 1 3 5",
    "python -m upcycle_moon2 --model my-llava --output_dir moon2-init --moe_intermediate_size 512 --json",
)


@dataclass
class ExpertArguments:
    """The experts of a new model; `Moon2Config` says what is left out."""

    num_experts: int | None = option(None, "Z, experts of a layer; left out: 4.")
    num_experts_per_tok: int | None = option(None, "Experts for a token; left out: 2.")
    moe_intermediate_size: int | None = option(None, "Width of an expert; left out: that of a dense layer.")
    shared_expert_intermediate_size: int | None = option(
        None, "Width of an expert that every token passes; left out: there is none."
    )
    moe_layers: list[int] | None = option(None, "Layers with experts; left out: all.")
    router: str | None = option(None, "'token' or 'composition' (of the item's modalities); left out: token.")

    def experts(self) -> dict:
        """Return what is given, as `Moon2Config` and `Moon2Model.from_backbone` take it."""
        names = ExpertArguments.__dataclass_fields__
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class UpcycleArguments(ExpertArguments):
    """What to convert, and where to."""

    model: str = option(help="A transformers vision-language model: Hub id or folder.")
    output_dir: str = option(help="The Moon2 folder to write (--output is the same).", aliases=["--output"])
    overwrite: bool = option(False, "Write into the folder although it is not empty.")
    json: bool = option(False, "Print the answer as JSON, and nothing else, on stdout.")
    revision: str | None = option(None, "Branch, tag or commit on the Hub.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option("auto", "Of the weights; auto: as stored.")
    device_map: str | None = option(None, "As in transformers: auto, cpu, cuda:0, ...")
    max_pixels: int | None = option(None, "Larger pictures are scaled down to this; left out: 1048576 (1024 x 1024).")
    verify: bool = option(False, "Compare with the dense model on a sentence (takes its memory once more).")


def upcycle(model: str, max_pixels: int | None = None, **options) -> tuple[Moon2Model, Moon2Processor]:
    """Make the model and processor from a dense checkpoint.

    Args:
        model: Hub id or folder.
        max_pixels: see `Moon2Processor`; `None` leaves its default.
        options: as for `Moon2Model.from_backbone`.

    Raises:
        ValueError, OSError: there is no such checkpoint, or it cannot take experts.
    """
    revision = {name: options[name] for name in ("revision",) if options.get(name) is not None}
    if is_moon2(model, **revision):
        raise ValueError(f"{model} is a Moon2 already; there is nothing to convert.")
    pixels = {} if max_pixels is None else {"max_pixels": max_pixels}
    converted = Moon2Model.from_backbone(model, **options)
    return converted, Moon2Processor.from_backbone(model, converted.config.vlm_config, **pixels, **revision)


def is_moon2(model: str, revision: str | None = None) -> bool:
    """Tell whether a folder or Hub id holds a Moon2.

    Raises:
        ValueError: there is no such model.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(model, revision=revision)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"The model {model} is neither a folder nor available on the Hub: {reason}") from error
    return config.get("model_type") == Moon2Config.model_type


@torch.no_grad()
def largest_difference(model: Moon2Model, processor: Moon2Processor, dense: str, **options) -> tuple[float, float]:
    """Compare the last hidden states of the converted and of the dense model on a sentence.

    Returns:
        the largest absolute difference, and the largest absolute value of the dense states.
    """
    inputs = processor([{"text": "Red striped ceramic mug, 350 ml"}]).to(model.device)
    ours = model.eval()(**inputs).last_hidden_state.float().cpu()
    vlm = AutoModel.from_pretrained(dense, **options).eval()
    sequence = {name: inputs[name].to(vlm.device) for name in ("input_ids", "attention_mask")}
    theirs = vlm(**sequence).last_hidden_state.float().cpu()
    return (ours - theirs).abs().max().item(), theirs.abs().max().item()


def build_parser() -> FieldParser:
    return FieldParser(
        UpcycleArguments,
        prog="python -m upcycle_moon2",
        usage="%(prog)s --model MODEL --output_dir FOLDER [--option value ...]",
        description="Makes a Moon2 of a trained vision-language model. " + __doc__.split("\n\n")[1],
        examples=EXAMPLES,
    )


@exit_codes(ValueError, OSError)
def main(argv: list[str]) -> None:
    """Convert and save; return the exit code."""
    (arguments,) = build_parser().read(argv)
    answer(lambda: carry_out(arguments), arguments.json)


def carry_out(arguments: UpcycleArguments) -> dict:
    """Convert and save.

    Returns:
        What became of it.

    Raises:
        ValueError, OSError: there is no such checkpoint, it cannot take experts, or the folder cannot be written.
    """
    output = Path(arguments.output_dir)
    if output.is_file():
        raise ValueError(f"--output_dir {output} is a file; give a folder.")
    if not arguments.overwrite and output.is_dir() and any(output.iterdir()):
        raise ValueError(f"The folder {output} is not empty: choose another one, or write into it with --overwrite.")
    names = ("revision", "dtype", "device_map")
    options = {name: value for name, value in asdict(arguments).items() if name in names and value is not None}
    model, processor = upcycle(arguments.model, arguments.max_pixels, **options, **arguments.experts())
    facts = {"output_dir": str(output), "model_type": model.config.vlm_config.model_type, "dtype": str(model.dtype)}
    facts |= {"moe_layers": list(model.moe_layer_indices), "parameters": model.num_parameters()}
    facts |= {"active_parameters": model.num_active_parameters()}
    if arguments.verify:
        difference, size = largest_difference(model, processor, arguments.model, **options)
        facts |= {"largest_difference": difference, "largest_state": size}
        print(f"Largest difference of the last hidden states to the dense model: {difference:.1e} (states up to "
              f"{size:.1f}; {model.dtype})")  # fmt: skip
    model.save_pretrained(output)
    processor.save_pretrained(output)
    print(
        f"In {output}/: a {model.config.vlm_config.model_type} with experts in layers "
        f"{', '.join(map(str, model.moe_layer_indices))}; {model.num_parameters() / 1e6:,.1f} M parameters, "
        f"{model.num_active_parameters() / 1e6:,.1f} M active for a token, {model.dtype}."
    )
    width = model.config.moe_intermediate_size
    facts["same_function"] = width in (None, model.config.get_text_config().intermediate_size)
    if not facts["same_function"]:
        print("Its experts are narrower than the dense layers: train it before use, it does not compute what they did.")
    return facts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
