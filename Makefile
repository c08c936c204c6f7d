# X-LXMERT's visual features and visual vocabulary. `make` alone lists what there is.
# `make -n TARGET` prints the command of a target, one line to paste and change (of slurm-..., the scripts); starts nothing.
ifneq ($(filter 3.% 4.0% 4.1 4.1.%,$(MAKE_VERSION)),)
$(error this Makefile needs GNU make 4.2 or newer, not $(MAKE_VERSION); macOS: brew install make, then gmake in its place)
endif
SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# one job at a time, whatever -j says: each of them takes every GPU, every core or the whole line
.NOTPARALLEL:

PYTHON ?= python3
PY     := .venv/bin/python
# Variables typed after `make` go to scripts.launch word by word, as they were typed: neither make nor the shell
# expands what is in them ($$ is make's way to write $). It knows their names and defaults: make help.
quote = '$(subst ','\'',$1)'
typed := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$v))
words := $(foreach v,$(typed),$(call quote,$v=$(subst $$$$,$$,$(value $v))))
unexport $(typed)

# $(call launch,JOB); under -n the launcher prints the job's command instead of running it
ifneq ($(findstring n,$(firstword -$(MAKEFLAGS))),)
MAKEFLAGS += --silent
dry_run = --dry-run
launch = $(info $(shell $(PYTHON) -m scripts.launch --dry-run $1 $(words)))$(if $(filter-out 0,$(.SHELLSTATUS)),$(error $1))
else
launch = @$(PYTHON) -m scripts.launch $1 $(words)
endif
MAKEFLAGS += --no-builtin-rules # it would try to compile what is mistyped

##@ Start here
help: ## this list
	@{ awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	    /^[a-z%-]+:.*## / {printf "  %-26s %s\n", $$1, $$2}' Makefile
	$(PYTHON) -m scripts.launch --list; } || (($$? == 141)) # make help | head: nobody reads on

setup: .venv/.complete ## a Python environment in .venv from the pinned versions

# The stamp is written last: an interrupted installation is done again, a complete one is not.
.venv/.complete: pyproject.toml constraints.txt
	@$(PYTHON) -m scripts.launch setup && touch $@

demo: setup ## everything on a few photographs, on CPU, no network
	$(PY) -m scripts.demo --output demo

##@ The image (CONTAINER=docker|podman, TARGET=gpu|cpu)
docker-build: ## the pinned image for this machine
	$(call launch,$@)

image-archive: ## the image as one file, for docker load or Apptainer; RUN=charliecloud: for that (IMAGE_FILE=...)
	$(call launch,$@)

image-save: image-archive ## its former name

image-test: setup ## build the cpu image for real and compare its files with the host's
	@CONTAINER=$(call quote,$(value CONTAINER)) scripts/dev/image_test.sh

slurm-test: setup ## a Slurm of our own on this machine: preempted, cancelled, out of time, and the same bits
	@scripts/dev/slurm_test.sh

shell: ## a shell inside the image, with the data
	$(call launch,$@)

##@ Downloads (resumed, verified; BASE_URL=mirror)
download: ## the detector's checkpoint and configuration
	$(call launch,$@)

download-pretrained: ## X-LXMERT's weights, which hold the paper's centroids, and its image generator's
	$(call launch,$@)

download-annotations: ## the texts that x-lxmert reads beside the features: LXMERT's annotation files
	$(call launch,$@)

download-features: ## all 16 published feature files (477 GB), for make verify
	$(call launch,$@)

download-images: ## all images that can be had without a form
	$(call launch,$@)

download-features-%: FORCE ## those of one data set: coco, vg, gqa or nlvr2
	$(call launch,$@)

download-images-%: FORCE ## those of one data set; for nlvr2, checks and explains how to get them
	$(call launch,$@)

##@ Features (resumed; a finished file is not done again; PRECISION=, ENGINE=, GPUS=, RUN=container|host|apptainer)
extract-all: ## all 16 files, and a table of what became of each
	$(call launch,$@)

extract-%: FORCE ## one file, as listed below, or several: grid, boxes, coco, vg, gqa, nlvr2, coco-grid, ...
	$(call launch,$@)

slurm-%: FORCE ## the same in Slurm, as job arrays: slurm-extract-all (with the k-means), slurm-kmeans, ... (CLUSTER=)
	+@$(PYTHON) -m scripts.launch --slurm $(dry_run) $* $(words)

check: ## read every file that was made bit by bit
	$(call launch,$@)

##@ The visual vocabulary and the proof
kmeans: ## the published k-means: 10,000 centroids, and every image's cluster indices
	$(call launch,$@)

paper-vocabulary: ## the paper's centroids out of X-LXMERT's weights, and every image's cluster indices
	$(call launch,$@)

verify-kmeans: ## own centroids against the paper's
	$(call launch,$@)

verify: ## own feature files against the published ones, and why they differ (REMOTE=1: without downloading them)
	$(call launch,$@)

parity: ## both engines on the same images, with differences and times
	$(call launch,$@)

report: setup ## one page about all that was made (REPORT=report.html)
	$(call launch,$@)

xlxmert: ## every path in place that x-lxmert reads, or what puts it there (READER=its checkout, FOR=vl-t5)
	$(call launch,$@)

gpu-test: ## all that a GPU has to show, as one table; any python3 with PyTorch (GPU_TEST_FLAGS="--device cpu")
	$(call launch,$@)

##@ Development
lint: setup ## ruff and mypy
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

# two processes, whatever the machine has: some tests hold 4 GB; a module's tests stay together, as its fixtures do
TEST_FLAGS ?= --numprocesses 2 --dist loadscope

test: lint ## the whole test suite (TEST_FLAGS="-n 8 --dist loadscope")
	$(PY) -m pytest $(TEST_FLAGS)

test-fast: setup ## the tests that take no minute together
	$(PY) -m pytest -m "not slow" $(TEST_FLAGS)

test-faults: setup ## fail system calls and kill, in every program, and look at what is left (FAULT_FLAGS=...)
	$(call launch,$@)

lock: setup ## write every lock file from the pins in pyproject.toml
	$(PY) -m pip install --quiet '.[lock]' && $(PY) -m scripts.dev.lock

.DEFAULT: # whatever else is typed: the launcher knows what was meant
	$(call launch,$@)
FORCE:
.PHONY: help setup demo docker-build image-archive image-save image-test slurm-test shell download download-pretrained \
        download-annotations download-features download-images extract-all check kmeans paper-vocabulary verify-kmeans \
        verify parity report xlxmert gpu-test lint test test-fast test-faults lock FORCE
