"""One extraction from start to finish: list, check, load, extract, assemble."""

from __future__ import annotations

import os
import threading
from dataclasses import asdict

from .config import EXIT_ALL, EXIT_NOTHING, EXIT_SOME_FAILED, ExtractConfig
from .detector import build as engines
from .detector.config import read_config
from .errors import StoreError, UsageError
from .extract import Task, run
from .images.listing import Failure, list_images
from .progress import Progress
from .provenance import identity_of, notes_of
from .storage.output import Store
from .storage.store import report_path


def extract(config: ExtractConfig, stopping: threading.Event) -> int:
    """List, check, load, extract, assemble."""
    if config.output.suffix != ".h5":
        raise UsageError(f"--output {config.output}: expected a file name that ends in .h5")
    index, count = _share(config)
    listing = list_images(config.images, config.pattern, config.recursive)
    files = engines.find_checkpoint(config.checkpoint_dir)
    device = engines.choose_device(config.device)
    task = Task(
        config.kind, config.grid_size, config.num_boxes, config.imsize, config.class_probs,
        config.decode, config.batch_size,
    )  # fmt: skip
    made_by = engines.identity(files, config.engine, device, config.precision)
    config.output.parent.mkdir(parents=True, exist_ok=True)
    store = Store(
        config.output, identity_of(config.dataset, config.split, task, made_by), notes_of(device), index, count
    )
    try:
        ids = [image.id for image in listing.images]
        todo = sum(image_id not in store.done for image_id in ids)
        first = index == 0
        if first:
            print(
                f"{len(ids):,} images in {config.images} ({len(listing.failures)} files passed over), "
                f"{len(ids) - todo:,} done before -> {config.output}",
                flush=True,
            )
        failures: list[Failure] = list(listing.failures) if first else []
        if todo:
            architecture = read_config(files.config)
            store.check_space(len(ids), task.bytes_per_image(architecture.feature_dim, architecture.num_classes))
            engine = engines.load(files, config.engine, device, config.precision)
            if engine.passed_over and first:
                names = ", ".join(engine.passed_over[:8])
                print(f"checkpoint: {len(engine.passed_over)} tensors without use here: {names}")
            label = f"{config.output.stem}" + (f" {index + 1}/{count}" if count > 1 else "")
            progress = Progress(len(ids) if count == 1 else -(-len(ids) // count), label)
            workers = config.workers or max(
                2, min(8, (os.cpu_count() or 2) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
            )
            try:
                failures += run(engine, store, listing.images, task, workers, progress, stopping)
            finally:
                progress.close()
            print(progress.stages(), flush=True)
            if stopping.is_set():
                print(f"stopped: {progress.line()}. The same command goes on from here", flush=True)
                return EXIT_NOTHING
        outcome = store.finish(ids, [asdict(failure) for failure in failures])
    except OSError as error:
        raise StoreError(
            f"{error}. Every image computed so far is kept in {store.folder}; mend the cause and "
            "run the same command again"
        ) from error
    finally:
        store.close()
    if outcome is None:
        print(f"share {index + 1} of {count} is done; the one that ends last writes {config.output}", flush=True)
        # torchrun stops the other ranks when one exits with anything but 0; the last one speaks for all
        return EXIT_SOME_FAILED if failures and "TORCHELASTIC_RUN_ID" not in os.environ else EXIT_ALL
    print(f"{config.output}: features of {outcome.images:,} images, {len(outcome.failed)} failed", flush=True)
    for failure in outcome.failed[:20]:
        print(f"  {failure['path']}: {failure['reason']}", flush=True)
    if outcome.failed:
        print(f"  all {len(outcome.failed)} with their reasons: {report_path(config.output)}", flush=True)
    if not outcome.images:
        return EXIT_NOTHING
    return EXIT_SOME_FAILED if outcome.failed else EXIT_ALL


def _share(config: ExtractConfig) -> tuple[int, int]:
    """This process's share of all: --shard i/n, times torchrun's ranks."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    shard, shards = config.shard
    return shard * world + rank, shards * world
