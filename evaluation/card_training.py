"""The parts of a model card that come from the training run: recipe.yaml, run.json and trainer_state.json."""

import yaml

from evaluation.card_results import shown, table
from evaluation.machine import device_name

RECIPE, STATE, RUN = "recipe.yaml", "trainer_state.json", "run.json"
# The fields of a recipe that a reader asks for first; the whole recipe stands below them.
FIRST_ASKED = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "temperature",
    "objective_weighting", "matryoshka_dims", "lora_rank", "seed",
)  # fmt: skip
KINDS = {"t": "text", "i": "pictures alone", "mm": "text and pictures"}


def training_section(recipe: dict, run: dict, state: dict, dataset: str | None) -> str:
    """Data, cost and recipe of a run.

    Args:
        recipe, run, state: the content of the three files; empty: it is not there.
        dataset: where the data are on the Hub, if they are.
    """
    rows = []
    if recipe.get("dataset"):
        data = shown(recipe["dataset"])
        if dataset is not None:
            data = f"[{dataset}](https://huggingface.co/datasets/{dataset})"
        if run.get("triplets"):
            data += f", {run['triplets']:,} triplets"
        if run.get("fingerprint"):
            data += f", fingerprint `{run['fingerprint'][:16]}`"
        rows.append(["data", data])
    if recipe:
        start = recipe.get("model")
        rows.append(["start", f"`{shown(start)}`" if start else "from nothing"])
    if state.get("global_step"):
        rows.append(["steps", f"{state['global_step']:,}"])
    if state.get("epoch"):
        rows.append(["epochs", f"{state['epoch']:.2f}"])
    last = (state.get("log_history") or [{}])[-1]
    if last.get("train_runtime"):
        rows.append(["took", f"{last['train_runtime']:,.0f} s"])
    if run.get("hardware"):
        processes = run["processes"]
        rows.append(["on", device_name(run["hardware"]) + (f", {processes} processes" if processes > 1 else "")])
    if run.get("versions"):
        rows.append(["with", ", ".join(f"{name} {number}" for name, number in run["versions"].items())])
    rows += [[f"`{name}`", str(recipe[name])] for name in FIRST_ASKED if recipe.get(name) is not None]
    return table(["", ""], rows) + (_whole(recipe) if recipe else "")


def expert_usage(state: dict) -> str:
    """Which share of the routing each expert got, from the last logged step that has it."""
    logged = [entry for entry in state.get("log_history", []) if any(f"expert_0_{kind}" in entry for kind in KINDS)]
    if not logged:
        return ""
    last, count = logged[-1], 0
    while any(f"expert_{count}_{kind}" in last for kind in KINDS):
        count += 1
    rows = [
        [title, *(f"{100 * last[f'expert_{expert}_{kind}']:.1f}" for expert in range(count))]
        for kind, title in KINDS.items()
        if f"expert_0_{kind}" in last
    ]
    header = ["items of", *(f"expert {expert + 1}" for expert in range(count))]
    return f"Mean share of the gates' weight at training step {last['step']}, per cent:\n\n" + table(header, rows)


def _whole(recipe: dict) -> str:
    """Every field that was set, without tokens and without folders of the machine."""
    public = {
        name: shown(value) if isinstance(value, str) else value
        for name, value in recipe.items()
        if value is not None and not name.endswith("_token")
    }
    text = yaml.safe_dump(public, sort_keys=False, allow_unicode=True)
    return (
        f"\n\nTrain it again with `python train_moon2.py {RECIPE}`:\n\n<details><summary>{RECIPE}</summary>\n\n"
        f"```yaml\n{text}```\n\n</details>"
    )
