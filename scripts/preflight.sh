#!/usr/bin/env bash
# What a Makefile target needs, checked before anything starts; the first thing that is lacking is said in one line,
# with the way out. Each argument is one need:
#
#   engine=NAME  builder=NAME       a container engine that answers, to run / to build
#   image=ENGINE,NAME               an image
#   gpu                             an NVIDIA GPU that the driver sees
#   python=PATH                     the environment of `make setup`
#   curl                            the downloader
#   checkpoint=FOLDER               the detector's two files
#   images=FOLDER,TARGET            a folder with files in it; TARGET is how to get them
#   folder=FOLDER[,TARGET]          a folder
#   writable=FOLDER                 a folder to write to; made where it is missing
#   space=IMAGES,FOLDER,BYTES       room in FOLDER for twice BYTES per file in IMAGES: the parts, and the file made of them
set -euo pipefail

lacking() {
    echo "preflight: $1" >&2
    exit 1
}

writable() {
    mkdir -p "$1" 2>/dev/null || lacking "cannot make the folder $1: choose another with DATASETS=..., or mend its owner"
    [ -w "$1" ] || lacking "cannot write to $1 as $(id -un): choose another folder with DATASETS=..., or mend its owner"
}

for need in "$@"; do
    kind=${need%%=*}
    IFS=, read -r first second third <<<"${need#*=}"
    case $kind in
    engine)
        [ "$first" != buildah ] || lacking "buildah builds images but runs none: CONTAINER=podman, or RUN=host"
        command -v "$first" >/dev/null || lacking "there is no $first: install Docker or Podman (CONTAINER=...), or RUN=host"
        "$first" info >/dev/null 2>&1 || lacking "$first does not answer: start it (systemctl start $first), join its group, or RUN=host"
        ;;
    builder)
        command -v "$first" >/dev/null || lacking "there is no $first: install Docker or Podman (CONTAINER=docker or podman)"
        "$first" info >/dev/null 2>&1 || lacking "$first does not answer: start it (systemctl start $first) or join its group"
        ;;
    image)
        "$first" image inspect "$second" >/dev/null 2>&1 || lacking "there is no image $second: make docker-build, or RUN=host"
        ;;
    gpu)
        [ -n "$(nvidia-smi --list-gpus 2>/dev/null)" ] || lacking "the NVIDIA driver sees no GPU (nvidia-smi): mend the driver, or DEVICE=cpu"
        ;;
    python)
        [ -x "$first" ] || lacking "there is no $first: make setup, or make docker-build and RUN=container"
        ;;
    curl)
        command -v curl >/dev/null || lacking "there is no curl: install it (apt-get install curl)"
        ;;
    checkpoint)
        # under the names the scripts read, or those the published README saves them under
        [ -f "$first/detectron_model.pth" ] || [ -f "$first/model_final.pth" ] ||
            lacking "there is no detectron_model.pth in $first: make download, or CHECKPOINT=folder"
        compgen -G "$first/*.yaml" >/dev/null ||
            lacking "there is no detectron_config.yaml in $first: make download, or CHECKPOINT=folder"
        ;;
    images)
        [ -n "$(find -L "$first" -type f -print -quit 2>/dev/null)" ] || lacking "there are no images in $first: make $second, or DATASETS=folder"
        ;;
    folder)
        [ -d "$first" ] || lacking "there is no folder $first${second:+: make $second}"
        ;;
    writable)
        writable "$first"
        ;;
    space)
        writable "$second"
        files=$(find -L "$first" -type f | wc -l)
        # what earlier, unfinished or finished runs have written is room already taken
        taken=$(du --summarize --block-size=1 "$second" | cut -f1)
        free=$(df --output=avail --block-size=1 "$second" | tail -n 1)
        required=$((2 * files * third))
        [ $((free + taken)) -ge "$required" ] ||
            lacking "$second has $((free / 1000000000)) GB free, the features of $files images take $((required / 1000000000)) GB while they are made: make room, or DATASETS=folder"
        ;;
    *)
        lacking "unknown need '$need'"
        ;;
    esac
done
