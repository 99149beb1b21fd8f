"""Which code a checkpoint may run when it is loaded: the files of this project that are shipped with it, no other."""

import json
from pathlib import Path

from common_moon2.cli import UserError

# What save_pretrained copies beside the weights. They import one another, their libraries, and nothing else.
SHIPPED_CODE = (
    "backbones_moon2.py",
    "configuration_moon2.py",
    "modeling_moon2.py",
    "pictures_moon2.py",
    "processing_moon2.py",
)
# Where transformers looks for the names of classes to load.
WITH_AUTO_MAP = ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
LIBRARY = "sentence_transformers."


def check_code(folder: Path) -> None:
    """Makes sure that loading a checkpoint would run the shipped code and libraries only.

    Raises:
        UserError: it names other code; the message says in which file.
    """
    modules = {name.removesuffix(".py") for name in SHIPPED_CODE}
    for name in WITH_AUTO_MAP:
        if (folder / name).is_file():
            for asked in classes_asked_for(json.loads((folder / name).read_text(encoding="utf-8"))):
                if asked.rpartition(".")[0] not in modules:
                    raise UserError(
                        f"{folder / name} would have {asked} loaded, which is no code of this project: save the model "
                        "again with its own save_pretrained, or remove that entry of auto_map."
                    )
                module = f"{asked.rpartition('.')[0]}.py"
                if not (folder / module).is_file():
                    raise UserError(
                        f"{folder} has no {module}, which its {name} names: save the model again with its own "
                        "save_pretrained."
                    )
    if (folder / "modules.json").is_file():
        for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
            if not module["type"].startswith(LIBRARY):
                raise UserError(
                    f"{folder / 'modules.json'} would have {module['type']} loaded, which is not of "
                    "sentence-transformers: save the model again with its own save_pretrained."
                )


def classes_asked_for(settings: object) -> list[str]:
    """The classes in every `auto_map` of a settings file, at any depth, as "module.Class"."""
    if isinstance(settings, list):
        return [name for part in settings for name in classes_asked_for(part)]
    if not isinstance(settings, dict):
        return []
    found = []
    for value in settings.get("auto_map", {}).values():
        found += [name for name in (value if isinstance(value, list) else [value]) if name is not None]
    return found + [name for key, part in settings.items() if key != "auto_map" for name in classes_asked_for(part)]
