#!/usr/bin/env bash
# Build the cpu image for real, run the jobs inside it, and compare their files with the host's (`make image-test`).
#
# Docker or Podman and the pinned base image are used where they answer. Where they do not, and this is Debian or
# Ubuntu and we are root, Podman is installed and a stand-in base is made with debootstrap from the machine's own
# package sources; the digest of the pinned base is then not checked, and its contents are not shown. Everything is
# said, nothing is skipped in silence. Writes to build/image-test only, beside the packages it installs.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$PWD/build/image-test
python=$PWD/.venv/bin/python
mkdir -p "$work"
started=$SECONDS

say() { echo "image-test [$((SECONDS - started)) s]: $*"; }
fail() {
    say "FAILED: $*" >&2
    exit 1
}

# ---------------------------------------------------------------- an engine
base=$(sed -n 's/^ARG RUNTIME_BASE=//p' docker/Dockerfile)
real_base=no
flags=() # further ones for the build
if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
    engine=docker
else
    engine=podman
    if ! command -v podman >/dev/null || ! command -v debootstrap >/dev/null; then
        { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } ||
            fail "neither docker nor podman here, and not root on Debian or Ubuntu to install podman: install one"
        say "installing podman, buildah, runc and debootstrap"
        { apt-get update && apt-get install -y --no-install-recommends buildah podman runc debootstrap; } \
            >"$work/apt.log" 2>&1 || fail "apt-get cannot install podman: $(tail -n 1 "$work/apt.log")"
    fi
    if [ "$(id -u)" = 0 ]; then
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
        for driver in overlay vfs; do # vfs, which copies every layer, where this file system cannot be overlaid
            printf '[storage]\ndriver = "%s"\ngraphroot = "%s"\nrunroot = "%s"\n' \
                "$driver" "$work/storage-$driver" "$work/run-$driver" >"$work/storage.conf"
            if podman info >"$work/info.log" 2>&1; then break; fi
        done
        [ "$driver" = overlay ] || flags+=(--layers=false)
    fi
fi
# A registry that does not answer at all would be waited for, so once and briefly.
if "$engine" image inspect "$base" >/dev/null 2>&1 || timeout 120 "$engine" pull --quiet "$base" >"$work/pull.log" 2>&1; then
    real_base=yes
    say "engine: $engine, base: $base"
else
    say "engine: $engine; the pinned base does not answer ($(tail -n 1 "$work/pull.log" | cut -c 1-100))"
fi

# ---------------------------------------------------------------- a stand-in base
build=(CONTAINER="$engine" DEVICE=cpu IMAGE=localhost/xlxmert-image-test:cpu)
if [ "$real_base" = no ]; then
    { [ "$engine" = podman ] && [ "$(id -u)" = 0 ]; } || fail "without the base image a stand-in needs podman and root"
    # shellcheck source=/dev/null
    . /etc/os-release
    # shellcheck disable=SC2016 # the format is apt's to expand
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep "/$ID/\?$" | head -n 1) || true
    [ -n "$mirror" ] || fail "apt's own sources name no mirror of $ID"
    if ! "$engine" image inspect localhost/xlxmert-standin >/dev/null 2>&1; then
        say "stand-in base: $ID $VERSION_CODENAME by debootstrap"
        rm -rf "$work/rootfs"
        debootstrap --variant=minbase --include=ca-certificates "$VERSION_CODENAME" "$work/rootfs" "$mirror" \
            >"$work/debootstrap.log" 2>&1 || fail "debootstrap: $(tail -n 1 "$work/debootstrap.log")"
        tar -C "$work/rootfs" -c . | "$engine" import - localhost/xlxmert-standin >/dev/null 2>&1
        rm -rf "$work/rootfs"
    fi
    build+=(RUNTIME_BASE=localhost/xlxmert-standin)
    # what this machine's network wants of pip and of certificates, for the build only
    certificates=/etc/ssl/certs/ca-certificates.crt
    [ ! -f "$certificates" ] || flags+=(--volume "$certificates:$certificates:ro")
fi

# ---------------------------------------------------------------- packages as this machine gets them
say "packages: pip's settings of this machine, PyTorch's CPU build by an index of one file"
"$python" - "$work" <<'END'
"""pip.conf for the build from pip's own settings here, and an index that holds this machine's CPU build of PyTorch."""
import configparser, hashlib, os, pathlib, re, subprocess, sys, tomllib
work = pathlib.Path(sys.argv[1])
settings = {}
listing = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, text=True, stdout=subprocess.PIPE)
for name, value in re.findall(r"^(\S+?)='(.*)'$", listing.stdout, re.M):
    section, _, key = name.partition(".")
    if section in (":env:", "global") and key in ("index-url", "extra-index-url", "find-links", "trusted-host", "cert"):
        settings.setdefault(key, value)
config = configparser.RawConfigParser()
config["global"] = settings
with open(work / "pip.conf", "w") as file:
    config.write(file)
folders = set()
for value in settings.values():
    for word in value.replace("\\n", " ").split():
        path = pathlib.Path(word.removeprefix("file://"))
        if path.is_absolute() and path.is_dir():
            # an index's pages point beside it ("../files"), so its parent is what has to be seen
            folders.add(path.parent if path.name == "simple" else path)
(work / "folders").write_text("".join(f"{f}\n" for f in sorted(folders)))
torch = next(d for d in tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]["dependencies"] if d.startswith("torch=="))
index = work / "index" / "torch"
index.mkdir(parents=True, exist_ok=True)
if not list(index.glob("*.whl")):
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", index, torch], check=True)
(wheel,) = index.glob("*.whl")
digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
(index / "index.html").write_text(f'<a href="{wheel.name.replace("+", "%2B")}#sha256={digest}">{wheel.name}</a>\n')
print(f"image-test: {wheel.name}")
END
build+=(PIP_CONF="$work/pip.conf")
if [ "$engine" = podman ]; then
    while read -r folder; do flags+=(--volume "$folder:$folder:ro"); done <"$work/folders"
    if compgen -G "$work/index/torch/*+cpu*.whl" >/dev/null; then
        flags+=(--volume "$work/index:/srv/index:ro")
        build+=(TORCH_INDEX=file:///srv/index)
    fi
fi

# ---------------------------------------------------------------- make docker-build
say "make docker-build ${build[*]}"
make --no-print-directory docker-build "${build[@]}" BUILD_FLAGS="${flags[*]}" >"$work/build.log" 2>&1 ||
    { tail -n 30 "$work/build.log" >&2; fail "the image does not build; all of it: $work/build.log"; }
size=$("$engine" image inspect --format '{{.Size}}' localhost/xlxmert-image-test:cpu)
say "built, $((size / 1000000)) MB"

# ---------------------------------------------------------------- the same jobs inside and outside
rm -rf "$work/host" "$work/inside" "$work/one" "$work/two"
"$python" - "$work" <<'END'
"""The demonstration's photographs as all of COCO and VG, and the narrow detector of the tests."""
import json, pathlib, shutil, sys
import skimage.data, torch
from PIL import Image
sys.path.insert(0, ".")
from scripts.dev import synthetic_checkpoint
work = pathlib.Path(sys.argv[1])
checkpoint = work / "checkpoint"
checkpoint.mkdir(exist_ok=True)
tensors = json.loads(pathlib.Path("tests/data/tiny/state.json").read_text())["tensors"]
model = {name: torch.from_numpy(synthetic_checkpoint.tensor(name, tuple(shape))) for name, shape in tensors.items()}
torch.save({"model": model}, checkpoint / "detectron_model.pth")
shutil.copy("tests/data/tiny/config.yaml", checkpoint / "detectron_config.yaml")
places = {"COCO/images/train2014": ("astronaut", "chelsea"), "COCO/images/val2014": ("coffee",), "COCO/images/test2015": ("rocket",),
          "VG/images/VG_100K": ("cat", "camera")}
for where in ("host", "inside"):
    for folder, names in places.items():
        for name in names:
            path = work / where / folder / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(getattr(skimage.data, name)()).save(path, quality=95)
END
mkdir -p "$work"/inside/{COCO/features,VG/features,cluster_centroids,clustering} "$work/host/clustering"
# another user than the one who owns this folder, as on a shared machine
other=()
if [ "$(id -u)" = 0 ]; then
    chown -R 4321:4321 "$work/inside"
    other=(RUN_FLAGS="--user 4321:4321 --read-only --cap-drop all --tmpfs /tmp")
fi
common=(CHECKPOINT="$work/checkpoint" KMEANS_FLAGS="--n_centroids 4 --feat_dim 64 --verbose no")
inside=("${build[@]}" "${common[@]}" RUN=container DATASETS="$work/inside" "${other[@]}")
for target in extract-coco-grid extract-vg-grid extract-coco-train-boxes kmeans; do
    say "$target inside the image"
    make --no-print-directory "$target" "${inside[@]}" >"$work/$target.inside.log" 2>&1 ||
        { tail -n 20 "$work/$target.inside.log" >&2; fail "$target inside the image"; }
    say "$target on the host"
    make --no-print-directory "$target" "${common[@]}" RUN=host DEVICE=cpu GPUS=0 DATASETS="$work/host" >"$work/$target.host.log" 2>&1 ||
        { tail -n 20 "$work/$target.host.log" >&2; fail "$target on the host"; }
done
"$python" -m scripts.dev.same_files "$work/host" "$work/inside" || fail "the image's files differ from the host's"

say "two processes of torchrun inside the image, as on a machine with two GPUs"
mkdir -p "$work/two/VG/features"
cp -r "$work/inside/VG/images" "$work/two/VG/"
[ "$(id -u)" != 0 ] || chown -R 4321:4321 "$work/two"
make --no-print-directory extract-vg-grid "${inside[@]}" GPUS=2 DATASETS="$work/two" >"$work/torchrun.log" 2>&1 ||
    { tail -n 20 "$work/torchrun.log" >&2; fail "torchrun inside the image"; }
mkdir -p "$work/one"
cp -r "$work/host/VG" "$work/one/"
"$python" -m scripts.dev.same_files "$work/one" "$work/two" || fail "two processes make another file than one"

say "questions to the image"
"$engine" run --rm --network none --user 4321:4321 --read-only --tmpfs /tmp localhost/xlxmert-image-test:cpu \
    python tests/image/inside.py || fail "the image is not what it should be"
say "passed; engine $engine, pinned base $([ "$real_base" = yes ] && echo used || echo "NOT used: a stand-in")"
