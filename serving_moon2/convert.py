"""The command `convert`: a Moon2 as a stock Qwen3-VL-MoE."""

import json
import shutil
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from transformers import AutoConfig

from common_moon2.cli import UserError
from common_moon2.files import replace_folder, write_json, write_text
from common_moon2.source import find_folder
from configuration_moon2 import Moon2Config
from modeling_moon2 import Moon2Model
from processing_moon2 import Moon2Processor
from serving_moon2.arguments import ConvertArguments
from serving_moon2.stock import stock_config

AutoConfig.register(Moon2Config.model_type, Moon2Config, exist_ok=True)  # so that no checkpoint's own code is asked for
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


def convert(arguments: ConvertArguments) -> dict:
    """Write the checkpoint, and say what it cannot do.

    Returns:
        Where it is, its parameters, and in `lost_instructions` the saved prompts of the Moon2, by name.

    Raises:
        ValueError, OSError: the model is none that a Qwen3-VL-MoE can be, or the folder cannot be written.
    """
    output = Path(arguments.output)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise UserError(f"--output {output} exists and is not empty: choose another folder.")
    source = find_folder("model", arguments.model, arguments.model_revision)
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if not isinstance(config, Moon2Config):
        raise UserError(f"{arguments.model} is no Moon2 but a {config.model_type}: there is nothing to convert.")
    stock = stock_config(config)
    hidden, width = stock.text_config.hidden_size, stock.text_config.moe_intermediate_size
    if hidden in (width, 2 * width):
        raise UserError(
            f"The experts are {width} wide and the hidden states {hidden}: from these shapes transformers cannot tell "
            "that a Qwen3-VL-MoE's experts are stored transposed. Serve the checkpoint as it is, with the plugin."
        )
    processor = Moon2Processor.from_pretrained(source)
    if processor.image_token != "<|image_pad|>":
        raise UserError(f"Images are marked by {processor.image_token}; a Qwen3-VL-MoE knows <|image_pad|> only.")
    # Experts are (experts, out, in) in a Moon2, and (experts, in, out) in this family's files.
    weights = {
        name.replace("vlm.", "model.", 1): value.transpose(1, 2) if ".mlp.experts." in name else value
        for name, value in Moon2Model.from_pretrained(source, dtype="auto").state_dict().items()
        if name.startswith("vlm.")  # the rest is of use in training only
    }
    staging = output.with_name(f".{output.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    stock.save_pretrained(staging)
    save_torch_state_dict(weights, staging)
    _save_processor(processor, staging)
    write_json(staging / "modules.json", MODULES)
    write_json(staging / "1_Pooling" / "config.json", {"embedding_dimension": hidden, "pooling_mode": "mean"})
    replace_folder(staging, output)

    prompts, count = source / "config_sentence_transformers.json", sum(value.numel() for value in weights.values())
    prompts = json.loads(prompts.read_text(encoding="utf-8")).get("prompts", {}) if prompts.is_file() else {}
    lost = {name: prompt for name, prompt in prompts.items() if prompt}
    print(
        f"In {output}/: a Qwen3-VL-MoE of {count / 1e6:,.1f} M parameters. It refuses instructions, and cuts no texts; "
        f"a Moon2 cuts them at {processor.max_text_length} tokens."
    )
    for name, prompt in lost.items():
        print(f"It cannot honour the saved prompt {name!r}: {prompt!r}.")
    return {"output": str(output), "parameters": count, "lost_instructions": lost}


def _save_processor(processor: Moon2Processor, folder: Path) -> None:
    """Write the files of a Qwen3VLProcessor; the class itself needs torchvision."""
    processor.tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {name: value for name, value in settings.items() if name not in OURS})
    images = {name: value for name, value in processor.image_processor.to_dict().items() if name not in OURS}
    videos = {name: images[name] for name in ("patch_size", "merge_size", "temporal_patch_size")}
    parts = {"image_processor": images, "video_processor": {"video_processor_type": "Qwen3VLVideoProcessor"} | videos}
    write_json(folder / "processor_config.json", {"processor_class": "Qwen3VLProcessor"} | parts)
    special = [token.content for token in processor.tokenizer.added_tokens_decoder.values() if token.special]
    guard = GUARD.strip().replace("SPECIAL", json.dumps(special, ensure_ascii=False))
    write_text(folder / "chat_template.jinja", f"{guard}\n{processor.chat_template}")
