"""Where a Space starts; `python -m demo_moon2` is the same on one's own machine.

Model and data set are those of `space.json`, which `python -m demo_moon2 push` writes, unless the Space's variables
say others: MOON2_MODEL, MOON2_MODEL_REVISION, MOON2_DATASET, MOON2_DATASET_REVISION.
"""

import json
import os
import sys
from pathlib import Path

from demo_moon2.serve import Settings, serve
from evaluation.errors import EvaluationError

CONFIG = Path(__file__).parent / "space.json"
NAMES = ("model", "model_revision", "dataset", "dataset_revision")


def read_settings() -> Settings:
    """What the Space shows. A variable that is empty counts as not set.

    Raises:
        EvaluationError: space.json is damaged.
    """
    try:
        stored = json.loads(CONFIG.read_text(encoding="utf-8")) if CONFIG.is_file() else {}
    except ValueError as error:
        raise EvaluationError(f"{CONFIG} is not valid JSON: {error}.") from error
    given = {name: os.environ.get(f"MOON2_{name.upper()}") for name in NAMES}
    for kind in ("model", "dataset"):
        if given[kind]:  # a stored revision is one of what was stored
            stored.pop(f"{kind}_revision", None)
    return Settings(**stored | {name: value for name, value in given.items() if value})


if __name__ == "__main__":
    try:
        serve(read_settings())
    except EvaluationError as error:
        sys.exit(f"error: {error}")
