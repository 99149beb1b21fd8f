"""Write a Moon2 as a stock Qwen3-VL-MoE, which transformers and vLLM load without this project's code.

It computes the same hidden states. Stock servers pool all positions, so it takes no instructions: its chat template
refuses them, and texts with a word that the tokenizer would take for a special token.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from transformers import AutoConfig
from transformers.utils import cached_file

from commands_moon2 import answer, exit_codes
from configuration_moon2 import Moon2Config
from modeling_moon2 import Moon2Model
from processing_moon2 import Moon2Processor
from recipe_moon2 import FieldParser
from serving_moon2.stock import stock_config

AutoConfig.register(Moon2Config.model_type, Moon2Config, exist_ok=True)  # so that no checkpoint's own code is asked for
PROMPTS = "config_sentence_transformers.json"
EXAMPLES = ("python -m serving_moon2 convert --model moon2 --output moon2-qwen3-vl-moe",)
GUARD = """
{%- for message in messages -%}
  {%- if message.role == "system" -%}
    {{- raise_exception("This server would pool an instruction too: leave out 'system' messages.") -}}
  {%- endif -%}
  {%- set parts = message.content|map(attribute="text", default="") -%}
  {%- set parts = [message.content] if message.content is string else parts -%}
  {%- for text in parts -%}
    {%- for word in SPECIAL if word in text -%}
      {{- raise_exception("This server would take " ~ word ~ " in a text for a special token: leave it out.") -}}
    {%- endfor -%}
  {%- endfor -%}
{%- endfor -%}
"""
OURS = ("auto_map", "processor_class", "is_local", "local_files_only")  # settings that the stock classes do not have
# From these vLLM knows how to pool; it would take the last position otherwise.
LIBRARY = "sentence_transformers.sentence_transformer.modules"
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{LIBRARY}.pooling.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{LIBRARY}.normalize.Normalize"},
]


@dataclass
class ConvertArguments:
    """What to convert, and where to."""

    model: str = field(kw_only=True, metadata={"help": "A Moon2 with a qwen3_vl backbone: Hub id or folder."})
    output: str = field(kw_only=True, metadata={"help": "The folder to write; it must not exist, or be empty."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit on the Hub."})
    json: bool = field(default=False, metadata={"help": "Print the answer as JSON, and nothing else, on stdout."})


def convert(arguments: ConvertArguments) -> dict:
    """Write the checkpoint, and say what it cannot do.

    Returns:
        Where it is, its parameters, and in `lost_instructions` the saved prompts of the Moon2, by name.

    Raises:
        ValueError, OSError: the model is none that a Qwen3-VL-MoE can be, or the folder cannot be written.
    """
    source, output = {"revision": arguments.revision}, Path(arguments.output)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise ValueError(f"--output {output} exists and is not empty: choose another folder.")
    try:
        config = AutoConfig.from_pretrained(arguments.model, trust_remote_code=False, **source)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The model {arguments.model} is neither a folder nor on the Hub: {reason}") from error
    if not isinstance(config, Moon2Config):
        raise ValueError(f"{arguments.model} is no Moon2 but a {config.model_type}: there is nothing to convert.")
    stock = stock_config(config)
    hidden, width = stock.text_config.hidden_size, stock.text_config.moe_intermediate_size
    if hidden in (width, 2 * width):
        raise ValueError(
            f"The experts are {width} wide and the hidden states {hidden}: from these shapes transformers cannot tell "
            "that a Qwen3-VL-MoE's experts are stored transposed. Serve the checkpoint as it is, with the plugin."
        )
    processor = Moon2Processor.from_pretrained(arguments.model, **source)
    if processor.image_token != "<|image_pad|>":
        raise ValueError(f"Pictures are marked by {processor.image_token}; a Qwen3-VL-MoE knows <|image_pad|> only.")
    weights = Moon2Model.from_pretrained(arguments.model, dtype="auto", **source).state_dict()
    # Experts are (experts, out, in) in a Moon2, and (experts, in, out) in this family's files.
    weights = {
        name.replace("vlm.", "model.", 1): value.transpose(1, 2) if ".mlp.experts." in name else value
        for name, value in weights.items()
        if name.startswith("vlm.")  # the rest is of use in training only
    }
    output.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(weights, output)
    _save_processor(processor, output)
    _write(output / "modules.json", MODULES)
    _write(output / "1_Pooling" / "config.json", {"embedding_dimension": hidden, "pooling_mode": "mean"})
    stock.save_pretrained(output)  # last: a folder that was not finished cannot be loaded

    file = cached_file(arguments.model, PROMPTS, _raise_exceptions_for_missing_entries=False, **source)
    prompts = json.loads(Path(file).read_text(encoding="utf-8")).get("prompts", {}) if file else {}
    lost = {name: prompt for name, prompt in prompts.items() if prompt}
    count = sum(value.numel() for value in weights.values())
    print(
        f"In {output}/: a Qwen3-VL-MoE of {count / 1e6:,.1f} M parameters. It refuses instructions, and cuts no texts; "
        f"a Moon2 cuts them at {processor.max_text_length} tokens."
    )
    for name, prompt in lost.items():
        print(f"It cannot honour the saved prompt {name!r}: {prompt!r}.")
    return {"output": str(output), "parameters": count, "lost_instructions": lost}


def _save_processor(processor: Moon2Processor, output: Path) -> None:
    """Write the files of a Qwen3VLProcessor; the class itself needs torchvision."""
    processor.tokenizer.save_pretrained(output)
    path = output / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    _write(path, {name: value for name, value in settings.items() if name not in OURS})
    images = {name: value for name, value in processor.image_processor.to_dict().items() if name not in OURS}
    videos = {name: images[name] for name in ("patch_size", "merge_size", "temporal_patch_size")}
    parts = {"image_processor": images, "video_processor": {"video_processor_type": "Qwen3VLVideoProcessor"} | videos}
    _write(output / "processor_config.json", {"processor_class": "Qwen3VLProcessor"} | parts)
    special = [token.content for token in processor.tokenizer.added_tokens_decoder.values() if token.special]
    guard = GUARD.strip().replace("SPECIAL", json.dumps(special, ensure_ascii=False))
    (output / "chat_template.jinja").write_text(f"{guard}\n{processor.chat_template}", encoding="utf-8")


def _write(path: Path, content: dict | list) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")


@exit_codes(ValueError, OSError)
def main(argv: list[str]) -> None:
    """Convert, and return the exit code."""
    prog, usage = "python -m serving_moon2 convert", "%(prog)s --model MODEL --output FOLDER [--option value ...]"
    parser = FieldParser(ConvertArguments, prog=prog, usage=usage, description=__doc__, examples=EXAMPLES)
    (arguments,) = parser.read(argv)
    answer(lambda: convert(arguments), arguments.json)
