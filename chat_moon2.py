"""Chat messages -> products, and the one template in Jinja, for servers that render strings.

sentence-transformers turns every input into chat messages; here they become products again. What it needs to know of
the model is here too.
"""

import json
from typing import Any

# The order is that of Moon2Processor: instruction, then pictures, then text, wherever they stand in the messages.
CHAT_TEMPLATE = r"""
{%- set found = namespace(instruction=[], pictures="", text=[]) -%}
{%- for message in messages -%}
  {%- if message.role not in ["system", "user"] -%}
    {{- raise_exception("A message has the role '" ~ message.role ~ "'; only 'system' and 'user' are known.") -}}
  {%- endif -%}
  {%- set found.here = [] -%}
  {%- if message.content is string -%}
    {%- set found.here = [message.content] -%}
  {%- else -%}
    {%- for part in message.content -%}
      {%- if part.type == "text" -%}
        {%- set found.here = found.here + [part.text] -%}
      {%- elif part.type == "image" and message.role == "user" -%}
        {%- set found.pictures = found.pictures ~ PICTURE -%}
      {%- else -%}
        {{- raise_exception("A '" ~ message.role ~ "' message cannot have a part of type '" ~ part.type ~ "'.") -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- if message.role == "system" -%}
    {%- set found.instruction = found.instruction + found.here -%}
  {%- else -%}
    {%- set found.text = found.text + found.here -%}
  {%- endif -%}
{%- endfor -%}
{%- if found.instruction -%}
  {{- (found.instruction | join("\n")) ~ "\n" -}}
{%- endif -%}
{{- found.pictures ~ (found.text | join("\n")) -}}
"""

# From these files sentence-transformers runs the model in its stock module; without them, it would pool anew.
POOLER_OUTPUT = {"method": "forward", "method_output_name": "pooler_output"}
SENTENCE_TRANSFORMERS_FILES = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": POOLER_OUTPUT,
            "image": POOLER_OUTPUT,
            "message": POOLER_OUTPUT | {"format": "structured"},
        },
        "module_output_name": "sentence_embedding",
        "unpad_inputs": False,  # without padding, `position_types` would be lost
    },
    "config_sentence_transformers.json": {
        "__version__": {"sentence_transformers": "6.2.0"},
        "model_type": "SentenceTransformer",
        "similarity_fn_name": "cosine",
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
    },
}

# What the processor does anyway, in the words of transformers.
AS_ALWAYS = {"padding": (True, "longest"), "truncation": (True, "longest_first")}


def chat_template(picture: str) -> str:
    """The template, with what stands for one picture: its marks, and the placeholder once."""
    return CHAT_TEMPLATE.strip().replace("PICTURE", json.dumps(picture, ensure_ascii=False))


def read_messages(messages: list[dict]) -> dict:
    """One conversation -> the product that it tells of; a part whose value is None counts as absent.

    Raises:
        ValueError: a role, or a part of a message, that a product cannot have; the message says which.
    """
    instruction, pictures, text = [], [], []
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "user"):
            raise ValueError(
                f"a message has the role {role!r}; a product is told by 'user' messages, its instruction by 'system'."
            )
        content = message.get("content")
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            if kind == "text":
                (instruction if role == "system" else text).append(_value(part, "text"))
            elif kind == "image" and role == "user":
                pictures.append(_value(part, "image", "path", "url"))
            else:
                raise ValueError(f"a {role!r} message cannot have a part of type {kind!r}.")
    instruction, pictures, text = (
        [part for part in parts if part is not None] for parts in (instruction, pictures, text)
    )
    wrong = [part for part in instruction + text if not isinstance(part, str)]
    if wrong:
        raise ValueError(f"a text in a message is {wrong[0]!r}; give a string.")
    return {"instruction": "\n".join(instruction) or None, "image": pictures or None, "text": text or None}


def _value(part: dict, *names: str) -> Any:
    """What a part of a message holds, under one of the names that transformers uses."""
    for name in names:
        if name in part:
            return part[name]
    raise ValueError(
        f"a part of type {part['type']!r} must have one of the keys {', '.join(names)}, not {sorted(part)}."
    )


def read_options(processor_kwargs: dict) -> dict:
    """Options for a transformers processor -> those that `Moon2Processor.__call__` takes.

    Args:
        processor_kwargs: options by name, or in groups (`text_kwargs`, ...) as sentence-transformers has them.

    Raises:
        ValueError: an option that the processor does not have; the message names it.
    """
    options = {}
    for name, value in processor_kwargs.items():
        if name in ("text_kwargs", "images_kwargs", "common_kwargs"):
            options |= value
        elif name not in ("audio_kwargs", "videos_kwargs"):  # they always come, and there is nothing to apply them to
            options[name] = value
    options = {name: value for name, value in options.items() if value not in AS_ALWAYS.get(name, ())}
    known = ("max_length", "padding_side", "return_tensors")
    wrong = [f"{name}={value!r}" for name, value in options.items() if name not in known]
    if wrong:
        raise ValueError(f"Moon2Processor cannot follow {', '.join(wrong)}; for messages it takes {', '.join(known)}.")
    return options
