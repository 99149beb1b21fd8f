"""The guides do what they say: each page is followed from top to bottom, in a folder with what `make demo` leaves.

Python blocks run in one namespace; commands run in this process, with a small data set and a tiny model, and must end
with 0. YAML that begins with "# name.yaml" becomes that file. What a command is given besides, to be small, is in
`SMALLER`; what cannot be run at all is in `NOT_RUN`, with the reason. All else runs, or the page fails.
"""

import json
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from chat_server import Reply, chat_server
from guides import (
    PAGES,
    ROOT,
    Block,
    Command,
    blocks,
    command,
    given_options,
    in_backticks,
    lines,
    options_for,
    options_of,
    subcommands_of,
    text_of,
)  # fmt: skip
from hub_server import hub as hub
from hub_server import run_python
from transformers import AutoModel

from conftest import picture
from test_upcycle_moon2 import save_dense

# Pages that take minutes, or need what only `make test-slow` installs.
SLOW = {"docs/cost.md", "docs/export.md", "docs/serving.md"}
NEEDED = {
    "docs/export.md": ["onnxruntime"],
    "docs/serving.md": ["litserve", "onnxruntime"],
    "docs/cost.md": ["lancedb"],
    "docs/search.md": ["lancedb"],
    "docs/benchmark.md": ["mteb"],
    "docs/vectors.md": ["mteb"],
}
# Start of a command -> why it is not run. Their options, files and targets are checked all the same.
NOT_RUN = {
    "make": "each sets up an environment; the tests of the demo, the benchmarks and the study run what is in them",
    "python -m demo_moon2": "serves until it is stopped, or needs a Hub; `test_demo_push.py` does both",
    "pip install": "needs the network",
    **dict.fromkeys(
        ("python -m serving_moon2 serve", "curl", "printf"), "`test_service.py` does; serves until stopped"
    ),
    "vllm serve": "serves until stopped; `test_vllm.py` starts it",
    "python -m pytest": "is this",
    "python -m evaluation suite --model moon2 --model": "needs the network; `test_suite.py` runs stand-ins",
    "python -m evaluation weigh": "needs dozens of judged queries; `test_hybrid.py` runs it",
    "python -m evaluation store --vectors vectors --store pgvector": "needs a server; `test_stores.py` starts one",
    "python -m research.study pack": "needs the data of the study; `test_study.py` packs other data",
    "research/gpu.sh": "needs a GPU; `test_benchmarks.py` runs it tiny on a CPU",
    "python -m research.benchmarks stores --stores pgvector": "needs a server; `test_stores.py` starts one",
    "python -m research.benchmarks training": "takes minutes; `test_benchmarks.py` runs it small",
}
# Folders of the repository that pages name files of.
ROOMS = sorted({path.parent.name for path in ROOT.glob("*/__init__.py")} | {"recipes", "tests", "docs", "release"})
LANGUAGES = {
    "bibtex": "nothing to run",
    "mermaid": "compared with the imports by test_code_map.py",
    "text": "the form of what a command prints; mbe2_dataset/test_layouts.py has its words",
}
# Start of a command -> what it is given besides; the last of two equal options counts.
ON_CPU = "--dataloader_num_workers 0 --use_cpu true --bf16 false"
TRAINED_SMALL = f"--max_steps 2 --logging_steps 1 --per_device_train_batch_size 4 {ON_CPU}"
SMALLER = {
    "python -m mbe2_dataset build": "--num_proc 1",
    "python -m mbe2_dataset check": "--num_proc 1",
    "python train_moon2.py recipes/qwen3-vl-2b.yaml": f"{TRAINED_SMALL} --moe_layers 1 2 --eval_steps 2",
    "python train_moon2.py": TRAINED_SMALL,
    "torchrun": TRAINED_SMALL,
    "accelerate launch": TRAINED_SMALL,
    "python -m research.benchmarks agreement": "--products 8",
    "python -m research.benchmarks serving": "--titles 1 2 --repeats 1",
    "python -m research.benchmarks embedding_cost": "--products 64 --sides 0 40",
    "python -m research.benchmarks update_cost": "--products 200",
    "python -m research.benchmarks compression": "--size 200 --queries 5",
    "python -m research.benchmarks stores": "--sizes 1000 --queries 2 --stores lancedb",
    "python -m research.benchmarks small_objects": "--products 10 --shares 0.2",
    "python -m research.benchmarks scale": "--model tiny",
    "python -m research.benchmarks http_service": "--clients 2 --requests 4 --repeats 1",
}
# What cannot be had here -> what takes its place.
IN_PLACE_OF = {"Qwen/Qwen3-VL-2B-Instruct": "dense", "http://localhost:8000/v1": "{chat}", "192,96": "64,32"}


@pytest.fixture
def workshop(after_demo, mbe2, monkeypatch) -> Path:
    """The folder in which a page is followed; recipes start from a tiny backbone where they name a large one."""
    (after_demo / "recipes").mkdir()
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        text = recipe.read_text(encoding="utf-8").replace("Qwen/Qwen3-VL-2B-Instruct", "dense")
        (after_demo / "recipes" / recipe.name).write_text(text, encoding="utf-8")
    save_dense(after_demo / "dense")
    return after_demo


def products(folder: Path, count: int = 48):
    """A catalogue with columns of usual names, and of those that docs/data.md maps."""
    folder.mkdir()
    photos = [picture(72, 64 + number, seed=number) for number in range(count)]
    rows = []
    for number, photo in enumerate(photos):
        photo.save(folder / f"{number}.png")
        names = {"title": f"{('red', 'blue')[number % 2]} mug {number}", "category": "Kitchen > Mugs"}
        rows.append({"id": f"p{number}", **names, "image": f"{number}.png"})
    pq.write_table(pa.Table.from_pylist(rows), folder / "products.parquet")


def shop(file: Path):
    products(file.parent / "photos")
    rows = pq.read_table(file.parent / "photos" / "products.parquet").to_pylist()
    cells = [f"{row['id']},{row['title']},photos/{row['image']},photos/{row['image']}" for row in rows]
    file.write_text("\n".join(["id,name,front,back", *cells]), encoding="utf-8")


def articles(file: Path):
    """A table whose images are named by the ids, in folders of their first letters."""
    products(file.parent / "plain")
    rows = pq.read_table(file.parent / "plain" / "products.parquet").to_pylist()
    file.write_text("\n".join(["id,title", *(f"{row['id']},{row['title']}" for row in rows)]), encoding="utf-8")
    for row in rows:
        place = file.parent / "images" / row["id"][:3] / f"{row['id']}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((file.parent / "plain" / row["image"]).read_bytes())


def log(file: Path):
    shown = [(query, 2 * query + side) for query in range(24) for side in (0, 1)]
    rows = [
        {"query": f"mug {query}", "item_id": f"p{item}", "purchases": 1 - item % 2, "exposures": 9}
        for query, item in shown
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)


def link(target: str):
    return lambda path: path.symlink_to(Path(target).absolute())


# What commands read and no command of the page has made -> who makes it.
STOCK = {
    "my_catalogue": products,
    "fashion": products,
    "shop.csv": shop,
    "articles.csv": articles,
    "log.parquet": log,
    "p.jpg": lambda path: picture(60, 80).save(path),
    **dict.fromkeys(("mbe2-mine", "mbe2-fashion", "mbe2-paper"), link("mbe2")),
    **dict.fromkeys(("moon2-mine", "moon2-fashion", "moon2-init"), link("moon2")),
}


def title(asked: dict, number: int) -> Reply:
    """What a language model answers that adds nothing."""
    content = asked["messages"][1]["content"]
    said = content if isinstance(content, str) else content[-1]["text"]
    listing = json.loads(re.search(r"<listing>\n(.*)\n</listing>", said, re.DOTALL)[1])
    return Reply(json.dumps({"title": listing["title"]}))


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else []) for page in PAGES]
)
def test_a_page_can_be_followed(page, workshop, hub, capsys):
    for package in NEEDED.get(page, ()):
        pytest.importorskip(package)
    with chat_server(title) as chat:
        follow(blocks(page), page, lambda line: run(line, hub, chat.url), capsys)


def follow(found: list[Block], page: str, run_line, capsys):
    """Runs the blocks of a page; fails with the place of the first that does not work."""
    names, number = {}, 0
    for block in found:
        if block.language == "python":
            # A folder in the place of the Hub, where pins are tested (test_model_card.py).
            code = compile(block.text.replace('"user/moon2"', '"moon2"'), block.place, "exec")
            capsys.readouterr()
            exec(code, names)
            if page in AFTER:
                AFTER[page](number, names, capsys.readouterr().out)
            number += 1
        elif block.language == "yaml":
            file = re.match(r"# (\S+\.yaml)\n", block.text)
            assert file, f"{block.place}: which file is this?"
            Path(file[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "bash":
            for line in lines(block.text):
                if reason(line) is None:
                    run_line(line)
        else:
            assert block.language in LANGUAGES, f"{block.place}: nobody checks blocks of {block.language or 'no'} kind"


def reason(line: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if line.startswith(start)), None)


def run(line: str, hub, chat: str):
    """One command, to its end."""
    more = next((more for start, more in SMALLER.items() if line.startswith(start)), "")
    for large, small in IN_PLACE_OF.items():
        line = line.replace(large, small.format(chat=chat))
    told = command(f"{line.split(' #')[0]} {more}")
    assert told.is_ours, f"{line!r} is no command of the project: NOT_RUN should say why it is not run"
    made = {value for option, value in zip(told.argv, told.argv[1:], strict=False) if option.startswith("--output")}
    for word in reads(told) & set(STOCK) - made:
        if not Path(word).exists():
            STOCK[word](Path(word))
    if told.argv[:1] == ["push"] and "--dry_run" not in told.argv:
        done = run_python(["-m", told.name, *told.argv], hub, timeout=100)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    else:
        try:
            code = told.main(told.argv)
        except SystemExit as end:  # argparse's, after --help
            code = end.code
        assert code == 0, line


def reads(told: Command) -> set[str]:
    """The words of a command, and the data set that its recipe names."""
    files = [Path(word) for word in told.argv if word.endswith(".yaml")]
    recipes = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    return {*told.argv, *(recipe["dataset"] for recipe in recipes if "dataset" in recipe)}


def after_readme(number: int, names: dict, printed: str):
    if number == 0:
        assert torch.isfinite(names["vectors"]).all() and "tensor" in printed
    else:
        assert names["found"].shape == (1, 3)


def after_vectors(number: int, names: dict, printed: str):
    if "same" in names:
        assert np.abs(names["same"].numpy() - names["vectors"]).max() <= 1e-5
    if "parts" in names and "wrapper" not in names:
        assert "<|image_pad|>" in printed
    if "short" in names:
        assert np.abs(np.linalg.norm(names["short"], axis=1) - 1).max() < 1e-6
    if "restored" in names:
        step = (names["ranges"][1] - names["ranges"][0]) / 255
        assert (np.abs(names["restored"] - names["vectors"]) <= step * 0.501 + 1e-7).all()
    if "bits" in names:
        assert names["bits"].shape == (10, 8)


def after_finetuning(number: int, names: dict, printed: str):
    if number == 0:
        assert re.search(r"trainable params: [\d,]+ \|\|", printed)
    elif number == 1:
        from sentence_transformers import SentenceTransformer

        encoder = SentenceTransformer("moon2-merged", trust_remote_code=True, device="cpu")
        vector = torch.tensor(encoder.encode(["Blue ceramic mug"]))
        torch.testing.assert_close(vector, names["vectors"].detach(), atol=1e-5, rtol=0)
        plain = AutoModel.from_pretrained("moon2", trust_remote_code=True).eval()
        with torch.no_grad():
            base = plain(**names["processor"]([{"text": "Blue ceramic mug"}])).embeddings
        assert (vector - base).abs().max() > 1e-6, "two steps of training should show"
    elif number == 2:
        assert names["model"].is_gradient_checkpointing
    else:
        assert names["model"].dtype == torch.bfloat16


def after_export(number: int, names: dict, printed: str):
    assert names["difference"] <= 1e-5


# Page -> what must hold after each of its Python blocks, by number.
AFTER = {
    "README.md": after_readme,
    "docs/vectors.md": after_vectors,
    "docs/finetuning.md": after_finetuning,
    "docs/export.md": after_export,
}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```python\nvectors = no_such_name\n```\n", "no_such_name"),
        ("```bash\npython -m evaluation embed --model moon2 --dataset nowhere --output vectors\n```\n", "nowhere"),
        ("```bash\npython train_moon2.py recipes/none.yaml\n```\n", "none.yaml"),
        ("```bash\nrm -rf everything\n```\n", "NOT_RUN"),
        ("```\nwhat is this\n```\n", "nobody checks"),
    ],
)
def test_a_page_that_does_not_work_fails(text, complaint, workshop, monkeypatch, capsys):
    monkeypatch.setattr("guides.text_of", lambda page: text)
    with pytest.raises((AssertionError, NameError), match=complaint):
        follow(blocks("README.md"), "page", lambda line: run(line, None, ""), capsys)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_is_there(page):
    """Targets of make, extras, files, and the options of commands in prose or too long to run."""
    makefile = text_of("Makefile")
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    shown = [line for block in blocks(page) if block.language == "bash" for line in lines(block.text)]
    for line in [*shown, *in_backticks(page)]:
        if line.startswith("make "):
            assert f"\n{line.split()[1]}:" in makefile, line
        for extra in re.findall(r"moon2\[([\w,]+)\]", line):
            assert set(extra.split(",")) <= extras.keys(), line
        for file in re.findall(rf"(?<![\w/.-])(?:{'|'.join(ROOMS)})/[\w./-]+", line):
            assert (ROOT / file).exists(), line
        if line.startswith("python ") and not line.startswith("python -m pytest"):
            told = command(line)
            assert told.is_ours, line
            known = options_for(told)
            assert known and set(given_options(told.argv)) <= known, line
            (word,) = told.argv[:1] or [""]
            assert not subcommands_of(told.name) or word in ("", *subcommands_of(told.name)) or word[:2] == "--", line


def every_option() -> set[str]:
    commands = [Command(name, []) for name in ("train_moon2.py", "upcycle_moon2.py")]
    found = set().union(*map(options_for, commands))
    for name in ("evaluation", "mbe2_dataset", "research.benchmarks", "serving_moon2"):
        found |= set().union(*(options_of(name, subcommand) for subcommand in subcommands_of(name)))
    return found


# `accelerate launch` has these; its own parser reads those of commands.
OF_LAUNCHERS = {"--machine_rank"}
OF_VLLM = {"--max-model-len", "--allowed-media-domains", "--limit-mm-per-prompt", "--hf-overrides", "--api-key"}


@pytest.mark.parametrize("page", PAGES)
def test_options_and_fields_in_prose_exist(page):
    known = every_option()
    for code in in_backticks(page):
        if code.startswith("--"):
            assert set(given_options(shlex.split(code))) <= known | OF_LAUNCHERS | OF_VLLM, code
        elif field := re.fullmatch(r"([a-z]\w+): \S.*", code):
            assert f"--{field[1]}" in known or code == "name: value", code


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_a_page_names_are_there(page):
    for code in in_backticks(page):
        for name in re.findall(r"(?<![\w/.-])\w+_moon2\.py\b", code):
            assert (ROOT / name).is_file(), name
        for module in re.findall(rf"(?<![\w/.-])(?:{'|'.join(ROOMS)})(?:\.\w+)+", code):
            file = ROOT / module.replace(".", "/")
            assert file.is_dir() or file.with_suffix(".py").is_file(), module


@pytest.mark.parametrize("page", PAGES)
def test_functions_that_a_page_names_are_where_it_says(page):
    for file, name in re.findall(r"`([\w/]+\.py)`, `([\w.]+)`(?!\.)", text_of(page)):
        if not name.endswith(".py"):
            found = re.search(rf"\b(?:def|class) {name.rpartition('.')[2]}\b", text_of(file))
            assert found, f"{file} has no {name}"


def test_the_index_has_every_guide():
    linked = set(re.findall(r"\]\(([\w/]+\.md)\)", text_of("README.md")))
    assert linked == set(PAGES) - {"README.md"}


def test_recipes_in_the_guides_are_those_there_are():
    named = {name for page in PAGES for name in re.findall(r"recipes/([\w-]+\.yaml)", text_of(page))}
    assert named == {path.name for path in (ROOT / "recipes").glob("*.yaml")}
