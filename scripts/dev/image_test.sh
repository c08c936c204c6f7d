#!/usr/bin/env bash
# Build the cpu image for real, run the jobs inside it, and compare their files with the host's (`make image-test`).
#
# Every container runtime that answers is tested, Docker and Podman alike (CONTAINER=... for one alone). Where none is
# there, and this is Debian or Ubuntu and we are root, Podman is installed. Where the pinned base image does not answer,
# a stand-in is made with debootstrap from the machine's own package sources, which takes root; the digest of the
# pinned base is then not checked, and its contents are not shown. Everything is said, nothing is skipped in silence.
# Writes to build/image-test only, beside the packages it installs.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$PWD/build/image-test
python=$PWD/.venv/bin/python
image=localhost/xlxmert-image-test:cpu
mkdir -p "$work"
started=$SECONDS

say() { echo "image-test [$((SECONDS - started)) s]: $*"; }
fail() {
    say "FAILED: $*" >&2
    exit 1
}
run() { # run NAME COMMAND...: its output goes to a log, whose end is shown when it fails
    "${@:2}" >"$work/$1.log" 2>&1 || { tail -n 30 "$work/$1.log" >&2 && fail "$1; all of it: $work/$1.log"; }
}
install() { # install PROGRAM PACKAGES...: where the program is missing
    command -v "$1" >/dev/null && return
    { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } || fail "no $1 here, and not root on Debian or Ubuntu to install it"
    say "installing ${*:2}"
    run apt-update apt-get update
    run apt-install apt-get install -y --no-install-recommends "${@:2}"
}

# ---------------------------------------------------------------- runtimes
answers() { command -v "$1" >/dev/null && "$1" info >"$work/info.log" 2>&1; }
podman_settings() {
    [ "$(id -u)" = 0 ] || return 0
    # Stores of our own, and settings that work without systemd: runc, as crun fails on mixed cgroups.
    cat >"$work/containers.conf" <<END
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]
END
    export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf
    export BUILDAH_ISOLATION=chroot # no namespaces are needed to build
    for driver in overlay vfs; do   # vfs, which copies every layer, where this file system cannot be overlaid
        printf '[storage]\ndriver = "%s"\ngraphroot = "%s"\nrunroot = "%s"\n' \
            "$driver" "$work/storage-$driver" "$work/run-$driver" >"$work/storage.conf"
        if podman info >"$work/info.log" 2>&1; then break; fi
    done
    [ "$driver" = overlay ] || podman_flags=(--layers=false)
}
podman_flags=()
runtimes=()
# Docker's client builds with buildx, or by itself before version 23; a distribution's may lie behind another on the path
for program in docker /usr/bin/docker; do
    if answers "$program" && { "$program" buildx version || [[ $("$program" --version) =~ version\ (1|2[0-2])[0-9]?\. ]]; } \
        >/dev/null 2>&1; then
        runtimes=("$program")
        break
    fi
done
if [ ${#runtimes[@]} = 0 ] || [ "${CONTAINER:-}" = podman ] || command -v podman >/dev/null; then
    install podman buildah podman runc
    podman_settings
    answers podman || fail "podman does not answer: $(tail -n 1 "$work/info.log")"
    runtimes+=(podman)
fi
[ -z "${CONTAINER:-}" ] || runtimes=("$CONTAINER")
say "runtimes: ${runtimes[*]}"

# ---------------------------------------------------------------- packages as this machine gets them
say "packages: pip's settings of this machine, PyTorch's CPU build by an index of one file"
"$python" -m scripts.dev.image_inputs packages "$work"
build_arguments=(PIP_CONF="$work/pip.conf")
if compgen -G "$work/index/torch/*+cpu*.whl" >/dev/null; then
    # The build, in the host's network, asks a server on the loopback address: every runtime knows that way.
    "$python" -u -m http.server 0 --bind 127.0.0.1 --directory "$work/index" >"$work/server.log" 2>&1 &
    server=$!
    trap 'kill "$server"' EXIT
    for _ in $(seq 100); do
        port=$(sed -n 's/^Serving HTTP on 127.0.0.1 port \([0-9]*\) .*/\1/p' "$work/server.log")
        [ -z "$port" ] || break
        sleep 0.1
    done
    [ -n "$port" ] || fail "no server for the index: $(tail -n 1 "$work/server.log")"
    build_arguments+=(TORCH_INDEX="http://127.0.0.1:$port/")
fi

# ---------------------------------------------------------------- what is compared
say "photographs, a checkpoint, and the jobs on the host"
rm -rf "$work"/{photographs,host,inside,two,one}
"$python" -m scripts.dev.image_inputs data "$work"
jobs=(extract-coco-grid extract-vg-grid extract-coco-train-boxes kmeans)
common=(CHECKPOINT="$work/checkpoint" KMEANS_FLAGS="--n_centroids 4 --feat_dim 64 --verbose no")
cp -r "$work/photographs" "$work/host"
for job in "${jobs[@]}"; do
    run "$job.host" make --no-print-directory "$job" "${common[@]}" RUN=host GPUS=0 DATASETS="$work/host"
done
# the last bits depend on the number of computing threads, which two processes share
one_thread=EXTRACT_FLAGS="--threads 1"
mkdir -p "$work/one/VG"
cp -r "$work/photographs/VG/images" "$work/one/VG/"
run one make --no-print-directory extract-vg-grid "${common[@]}" RUN=host GPUS=0 DATASETS="$work/one" "$one_thread"

# ---------------------------------------------------------------- one runtime
stand_in() { # made once, imported into each runtime
    "$runtime" image inspect localhost/xlxmert-standin >/dev/null 2>&1 && return
    [ "$(id -u)" = 0 ] || fail "without the pinned base a stand-in needs root"
    if [ ! -f "$work/standin.tar" ]; then
        install debootstrap debootstrap
        # shellcheck source=/dev/null
        . /etc/os-release
        # shellcheck disable=SC2016 # the format is apt's to expand
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep "/$ID/\?$" | head -n 1) || true
        [ -n "$mirror" ] || fail "apt's own sources name no mirror of $ID"
        say "stand-in base: $ID $VERSION_CODENAME by debootstrap"
        rm -rf "$work/rootfs"
        run debootstrap debootstrap --variant=minbase --include=ca-certificates "$VERSION_CODENAME" "$work/rootfs" "$mirror"
        # the certificates that this machine's network wants
        cp /etc/ssl/certs/ca-certificates.crt "$work/rootfs/etc/ssl/certs/"
        tar -C "$work/rootfs" -cf "$work/standin.tar" .
        rm -rf "$work/rootfs"
    fi
    run import "$runtime" import "$work/standin.tar" localhost/xlxmert-standin
}

build() {
    local base arguments=("${build_arguments[@]}") flags=(--network host)
    base=$(sed -n 's/^ARG RUNTIME_BASE=//p' docker/Dockerfile)
    # A registry that does not answer at all would be waited for, so once and briefly.
    if "$runtime" image inspect "$base" >/dev/null 2>&1 || timeout 120 "$runtime" pull --quiet "$base" >"$work/pull.log" 2>&1; then
        shown="the pinned base"
    else
        shown="a stand-in for the base, NOT the pinned one"
        say "$runtime: the pinned base does not answer ($(tail -n 1 "$work/pull.log" | cut -c 1-100))"
        stand_in
        arguments+=(RUNTIME_BASE=localhost/xlxmert-standin)
    fi
    if [ "$runtime" = podman ]; then
        flags+=("${podman_flags[@]}")
        while read -r folder; do flags+=(--volume "$folder:$folder:ro"); done <"$work/folders"
    fi
    say "$runtime: make docker-build ${arguments[*]}"
    run "build.$name" make --no-print-directory docker-build CONTAINER="$runtime" TARGET=cpu IMAGE="$image" \
        "${arguments[@]}" BUILD_FLAGS="${flags[*]}"
    say "$runtime: built, $(($("$runtime" image inspect --format '{{.Size}}' "$image") / 1000000)) MB"
}

inside() { # inside JOB DATASETS [NAME=value...]
    run "$1.$name" make --no-print-directory "$1" "${common[@]}" RUN=container CONTAINER="$runtime" TARGET=cpu \
        IMAGE="$image" DATASETS="$2" "${@:3}"
}

compare() {
    rm -rf "$work/inside" "$work/two"
    cp -r "$work/photographs" "$work/inside"
    mkdir -p "$work/two/VG"
    cp -r "$work/photographs/VG/images" "$work/two/VG/"
    # another user than the one who calls, as on a shared machine: the files have to become that user's
    local user
    user=$(id -u)
    if [ "$user" = 0 ]; then
        user=4321
        chown -R 4321:4321 "$work/inside" "$work/two"
    fi
    for job in "${jobs[@]}"; do
        say "$runtime: $job inside the image"
        inside "$job" "$work/inside"
    done
    "$python" -m scripts.dev.same_files "$work/host" "$work/inside" || fail "the image's files differ from the host's"
    [ -z "$(find "$work/inside" ! -user "$user")" ] || fail "not all files are the owner's: $(find "$work/inside" ! -user "$user")"
    say "$runtime: two processes of torchrun inside the image, as on a machine with two GPUs"
    inside extract-vg-grid "$work/two" PROCESSES=2 "$one_thread"
    "$python" -m scripts.dev.same_files "$work/one" "$work/two" || fail "two processes make another file than one"
    say "$runtime: questions to the image"
    "$python" -m scripts.dev.image_questions CONTAINER="$runtime" IMAGE="$image" DATASETS="$work/inside" ||
        fail "the image is not what it should be"
}

# The archive that clusters take, unpacked and run without a daemon, by another user where this folder can be read.
in_charliecloud() {
    local folder=$work/unpacked user=()
    command -v ch-run >/dev/null || { say "no ch-run here: the archive is not run in Charliecloud" && return; }
    say "$runtime: the archive, unpacked, in Charliecloud"
    run "archive.$name" make --no-print-directory image-archive RUN=charliecloud CONTAINER="$runtime" TARGET=cpu \
        IMAGE="$image" IMAGE_FILE="$work/flat.tar.gz"
    rm -rf "$folder" "$work/charliecloud"
    mkdir -p "$folder" "$work/charliecloud/VG"
    tar -C "$folder" -xf "$work/flat.tar.gz"
    mkdir -p "$folder$work" # where ch-run finds what is mounted
    cp -r "$work/photographs/VG/images" "$work/charliecloud/VG/"
    if [ "$(id -u)" = 0 ] && setpriv --reuid=4321 --clear-groups test -r "$work/checkpoint"; then
        user=(setpriv --reuid=4321 --regid=4321 --clear-groups)
        chown -R 4321:4321 "$work/charliecloud"
    fi
    run "charliecloud.$name" "${user[@]}" env USER=somebody PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m scripts.launch \
        extract-vg-grid "${common[@]}" RUN=charliecloud IMAGE="$folder" GPUS=0 DATASETS="$work/charliecloud" "$one_thread"
    "$python" -m scripts.dev.same_files "$work/one" "$work/charliecloud" || fail "Charliecloud makes another file"
    rm -rf "$folder" "$work/flat.tar.gz"
}

for runtime in "${runtimes[@]}"; do
    name=$(basename "$runtime")
    build
    compare
    in_charliecloud
    say "$runtime: passed, with $shown"
done
