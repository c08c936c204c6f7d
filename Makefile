# X-LXMERT's visual features and visual vocabulary. `make` alone lists what there is.
# `make -n TARGET` prints the command of a target, one line, to paste and change.
SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# one job at a time, whatever -j says: each of them takes every GPU, every core or the whole line
.NOTPARALLEL:

# ------------------------------------------------------------------ variables, to be set on the command line
# Each one that asks the machine does so once, when it is first needed: X = $(eval X := answer)$(X).

# where the images lie and the features go, and the detector's checkpoint
DATASETS   ?= $(CURDIR)/datasets
CHECKPOINT ?= $(CURDIR)/feature_extraction/mask_rcnn_ckpt
PUBLISHED  ?= $(DATASETS)/published
# docker or podman
CONTAINER  ?= $(eval CONTAINER := $$(firstword $$(shell command -v docker >/dev/null && echo docker; command -v podman >/dev/null && echo podman) docker))$(CONTAINER)
# how many GPUs work on one file (more than one: torchrun), and which image: gpu or cpu
GPUS       ?= $(eval GPUS := $$(words $$(shell nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null)))$(GPUS)
DEVICE     ?= $(if $(filter-out 0,$(GPUS)),gpu,cpu)
IMAGE      ?= xlxmert-features:$(DEVICE)
# container or host; without a word: in the container when its image is there
RUN        ?= $(eval RUN := $$(shell $$(CONTAINER) image inspect $$(IMAGE) >/dev/null 2>&1 && echo container || echo host))$(RUN)
# how GPUs enter a container: "--gpus all" (NVIDIA Container Toolkit) or a CDI device ("--device nvidia.com/gpu=all")
GPU_FLAGS  ?= $(if $(filter gpu,$(DEVICE)),$(if $(filter podman,$(CONTAINER)),--device nvidia.com/gpu=all,--gpus all))
RUN_FLAGS  ?=
# shared memory for the loader's processes; docker's default of 64 MB kills them
SHM        ?= 8g
# the detector: native or reference; float32, tf32, bfloat16 or float16; further flags of the extraction scripts
ENGINE     ?= native
PRECISION  ?= float32
EXTRACT_FLAGS ?=
KMEANS_SRC ?= mscoco_train
KMEANS_TGT ?= mscoco_train mscoco valid vg
KMEANS_FLAGS ?=
PARITY_IMAGES ?= $(DATASETS)/COCO/images/val2014
PARITY_FLAGS ?=
VERIFY_FLAGS ?=
# a mirror (address or local folder) with the published file names, and further flags of -m scripts.download
BASE_URL   ?=
DOWNLOAD_FLAGS ?=
# the image's build: a pip.conf of your site, further flags, and the Dockerfile's own arguments
PIP_CONF    ?=
BUILD_FLAGS ?=
BUILD_ARGS  := CUDA_BASE RUNTIME_BASE APT_MIRROR TORCH_INDEX CUDA_ARCHITECTURES JOBS FORK_URL FORK_COMMIT \
               FAISS_VERSION FAISS_URL FAISS_SHA256 FAISS_COMMIT USER_ID GROUP_ID SOURCE
PYTHON      ?= python3
REPORT      ?= report.html
IMAGE_FILE  ?= build/xlxmert-features-$(DEVICE).tar.gz

# jobs run in folders of their own, and a container mounts whole paths only
override DATASETS   := $(abspath $(DATASETS))
override CHECKPOINT := $(abspath $(CHECKPOINT))
override PUBLISHED  := $(abspath $(PUBLISHED))
override PARITY_IMAGES := $(abspath $(PARITY_IMAGES))

# ------------------------------------------------------------------ how a job runs
VENV     := .venv
PY       := $(VENV)/bin/python
REVISION  = $(eval REVISION := $$(shell git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || echo unknown))$(REVISION)
CHECK    := scripts/preflight.sh
inside    = $(filter container,$(RUN))
# the environment's programs and the data folder, as the job sees them
bin       = $(if $(inside),,$(CURDIR)/$(VENV)/bin/)
data      = $(if $(inside),/app/datasets,$(DATASETS))
ckpt      = $(if $(inside),/app/feature_extraction/mask_rcnn_ckpt,$(CHECKPOINT))
comma    := ,
# what any job needs first
needs     = $(if $(inside),engine=$(CONTAINER) image=$(CONTAINER)$(comma)$(IMAGE)$(if $(filter gpu,$(DEVICE)), gpu),python=$(PY))
# files belong to whoever ran make; podman without root needs telling that this is the same person
as_me     = --user $$(id -u):$$(id -g)$(if $(filter podman,$(CONTAINER)),$$([ $$(id -u) = 0 ] || echo " --userns keep-id"))
# init: docker brings its own, podman needs a package for it; the jobs end on SIGTERM without it
container = $(CONTAINER) run --rm $(if $(filter docker,$(CONTAINER)),--init) --network none $(as_me) --shm-size $(SHM) $(GPU_FLAGS) $(RUN_FLAGS)
# $(call job,needs,folder,mounts,command)
job       = $(CHECK) $(needs) $(1) && $(if $(inside),$(container) $(3) --workdir /app/$(2) $(IMAGE) $(4),cd $(2) && $(4))
launch    = $(bin)$(if $(filter-out 0 1,$(GPUS)),torchrun --standalone --nproc_per_node $(GPUS),python)

# ------------------------------------------------------------------ the 16 feature files
# data set : script's prefix : root flag : folder below datasets : split : image folder (-: has none)
TABLE := coco:coco:cocoroot:COCO:train:train2014 coco:coco:cocoroot:COCO:valid:val2014 \
         coco:coco:cocoroot:COCO:test:test2015 vg:VG:vgroot:VG:-:- gqa:GQA:gqaroot:GQA:-:- \
         nlvr2:nlvr2:nlvrroot:nlvr2:train:train nlvr2:nlvr2:nlvrroot:nlvr2:valid:dev nlvr2:nlvr2:nlvrroot:nlvr2:test:test1
SETS  := coco vg gqa nlvr2
KINDS := grid boxes
script_grid  := grid
script_boxes := bbox
bytes_grid   := 524288
bytes_boxes  := 294912
field   = $(filter-out -,$(word $(2),$(subst :, ,$(1))))
leaf    = extract-$(call field,$(1),1)$(addprefix -,$(call field,$(1),5))-$(2)
LEAVES := $(foreach kind,$(KINDS),$(foreach row,$(TABLE),$(call leaf,$(row),$(kind))))

##@ Start here
.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-zA-Z0-9_-]+:.*## / {printf "  %-26s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@printf '\nEach feature file (16)\n'; printf '  %s\n' $(LEAVES)

.PHONY: setup
setup: $(VENV)/.complete ## a Python environment in .venv from the pinned versions

# The stamp is written last: an interrupted installation is done again, a complete one is not.
$(VENV)/.complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) && $(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]' && touch $@

.PHONY: demo
demo: setup ## everything on a few photographs, on CPU, no network
	$(PY) -m scripts.demo --output demo

##@ The image (CONTAINER=docker|podman, DEVICE=gpu|cpu)
.PHONY: docker-build
docker-build: ## the pinned image for this machine
	$(CHECK) builder=$(CONTAINER) && DOCKER_BUILDKIT=1 $(CONTAINER) build $(if $(filter docker,$(CONTAINER)),,--format docker) --file docker/Dockerfile --target $(DEVICE) --build-arg REVISION=$(REVISION) $(foreach a,$(BUILD_ARGS),$(if $($(a)),--build-arg '$(a)=$($(a))')) $(if $(PIP_CONF),--secret id=pip.conf$(comma)src=$(PIP_CONF)) $(BUILD_FLAGS) --tag $(IMAGE) .

.PHONY: image-save
image-save: ## the image as one file, for a machine without network (IMAGE_FILE=...)
	$(CHECK) engine=$(CONTAINER) image=$(CONTAINER)$(comma)$(IMAGE) && mkdir -p $(dir $(IMAGE_FILE)) && $(CONTAINER) save $(IMAGE) | gzip > $(IMAGE_FILE).part && mv $(IMAGE_FILE).part $(IMAGE_FILE)

.PHONY: image-test
image-test: setup ## build the cpu image for real and compare its files with the host's
	scripts/dev/image_test.sh

.PHONY: shell
shell: ## a shell inside the image, with the data
	$(CHECK) engine=$(CONTAINER) image=$(CONTAINER)$(comma)$(IMAGE) && mkdir -p $(DATASETS) && $(container) --interactive --tty --volume $(DATASETS):/app/datasets --volume $(CHECKPOINT):/app/feature_extraction/mask_rcnn_ckpt:ro $(IMAGE) bash

##@ Downloads (resumed, verified; BASE_URL=mirror)
download = $(CHECK) curl && $(PYTHON) -m scripts.download --datasets $(DATASETS) --checkpoint_dir $(CHECKPOINT) --published $(PUBLISHED) $(if $(BASE_URL),--base-url '$(BASE_URL)') $(DOWNLOAD_FLAGS)

.PHONY: download
download: ## the detector's checkpoint and configuration
	$(download) checkpoint

.PHONY: download-pretrained
download-pretrained: ## X-LXMERT's weights, which hold the paper's centroids
	$(download) pretrained

.PHONY: download-features
download-features: ## all 16 published feature files (477 GB), for make verify
	$(download) features

.PHONY: download-images
download-images: ## all images that can be had without a form
	$(download) images

.PHONY: $(foreach d,$(SETS),download-features-$(d) download-images-$(d))
download-features-coco: ## the published features of COCO
download-features-vg: ## ... of Visual Genome
download-features-gqa: ## ... of GQA
download-features-nlvr2: ## ... of NLVR2
download-images-coco: ## the images of COCO
download-images-vg: ## ... of Visual Genome
download-images-gqa: ## ... of GQA
download-images-nlvr2: ## checks for NLVR2's images and explains how to get them
$(foreach d,$(SETS),download-features-$(d)):
	$(download) features $(@:download-features-%=%)
$(foreach d,$(SETS),download-images-$(d)):
	$(download) images $(@:download-images-%=%)

##@ Features (resumed; a finished file is not done again; PRECISION=, ENGINE=, GPUS=, RUN=container|host)
# $(call extract,row,kind)
define extract
.PHONY: $(call leaf,$(1),$(2))
$(call leaf,$(1),$(2)):
	$$(call job,checkpoint=$$(CHECKPOINT) images=$$(DATASETS)/$(call field,$(1),4)/images/$(call field,$(1),6)$$(comma)download-images-$(call field,$(1),1) space=$$(DATASETS)/$(call field,$(1),4)/images/$(call field,$(1),6)$$(comma)$$(DATASETS)/$(call field,$(1),4)/features$$(comma)$(bytes_$(2)),feature_extraction,--volume $$(CHECKPOINT):/app/feature_extraction/mask_rcnn_ckpt:ro --volume $$(DATASETS)/$(call field,$(1),4)/images:/app/datasets/$(call field,$(1),4)/images:ro --volume $$(DATASETS)/$(call field,$(1),4)/features:/app/datasets/$(call field,$(1),4)/features,$$(launch) $(call field,$(1),2)_extract_$(script_$(2))_feature.py --$(call field,$(1),3) $$(data)/$(call field,$(1),4)/$(addprefix $() --split ,$(call field,$(1),5)) --checkpoint_dir $$(ckpt) --engine $$(ENGINE) --precision $$(PRECISION) $$(EXTRACT_FLAGS))
endef
$(foreach kind,$(KINDS),$(foreach row,$(TABLE),$(eval $(call extract,$(row),$(kind)))))

# Several files: one that fails, or lacks an image or two, does not keep the others from being made.
several = $(MAKE) --no-print-directory --keep-going
.PHONY: extract-all extract-grid extract-boxes $(SETS:%=extract-%) extract-coco-grid extract-coco-boxes extract-nlvr2-grid extract-nlvr2-boxes
extract-all: ## all 16 files, or any one of those named below
	$(several) $(LEAVES)
extract-grid: ## all 8 grid files
	$(several) $(filter %-grid,$(LEAVES))
extract-boxes: ## all 8 box files
	$(several) $(filter %-boxes,$(LEAVES))
extract-coco: ## 6 files
extract-vg: ## 2 files
extract-gqa: ## 2 files
extract-nlvr2: ## 6 files
$(SETS:%=extract-%):
	$(several) $(filter $@-%,$(LEAVES))
extract-coco-grid: ## train, valid and test
extract-coco-boxes: ## train, valid and test
extract-nlvr2-grid: ## train, valid and test
extract-nlvr2-boxes: ## train, valid and test
# extract-coco-grid: the leaves extract-coco-*-grid
extract-coco-grid extract-coco-boxes extract-nlvr2-grid extract-nlvr2-boxes:
	$(several) $(filter $(basename $(subst -grid,.grid,$(subst -boxes,.boxes,$@)))-%,$(filter %$(subst .,-,$(suffix $(subst -grid,.grid,$(subst -boxes,.boxes,$@)))),$(LEAVES)))

##@ The visual vocabulary and the proof
.PHONY: kmeans
kmeans: ## the published k-means: 10,000 centroids, and every image's cluster indices
	$(call job,writable=$(DATASETS)/cluster_centroids$(if $(inside), writable=$(DATASETS)/clustering),kmeans,--volume $(DATASETS):/app/datasets:ro --volume $(DATASETS)/cluster_centroids:/app/datasets/cluster_centroids --volume $(DATASETS)/clustering:/app/datasets/clustering,$(bin)python run_kmeans.py --src=$(KMEANS_SRC) --tgt $(KMEANS_TGT) --datasets_dir $(data) $(KMEANS_FLAGS))

.PHONY: verify
verify: ## own feature files against the published ones
	$(call job,folder=$(DATASETS) folder=$(PUBLISHED)$(comma)download-features,.,--volume $(DATASETS):/app/datasets:ro --volume $(PUBLISHED):/app/published:ro,$(bin)python -m scripts.verify --ours $(data) --published $(if $(inside),/app/published,$(PUBLISHED)) $(VERIFY_FLAGS))

.PHONY: parity
parity: ## both engines on the same images, with differences and times
	$(call job,checkpoint=$(CHECKPOINT) images=$(PARITY_IMAGES)$(comma)download-images-coco,.,--volume $(CHECKPOINT):/app/feature_extraction/mask_rcnn_ckpt:ro --volume $(PARITY_IMAGES):/app/datasets/parity:ro,$(bin)python -m scripts.parity --images $(if $(inside),/app/datasets/parity,$(PARITY_IMAGES)) --checkpoint_dir $(ckpt) $(PARITY_FLAGS))

.PHONY: report
report: setup ## one page about all that was made (REPORT=report.html)
	$(PY) -m scripts.report --datasets $(DATASETS) --output $(REPORT)

##@ Development
.PHONY: lint
lint: setup ## ruff and mypy
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

.PHONY: test
test: lint ## the whole test suite
	$(PY) -m pytest

.PHONY: lock
lock: setup ## write every lock file from the pins in pyproject.toml
	$(PY) -m pip install --quiet '.[lock]' && $(PY) -m scripts.dev.lock
