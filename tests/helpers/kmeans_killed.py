"""run_kmeans.py in a process that kills itself (SIGKILL) at a chosen instant.

    python kmeans_killed.py EVENT NUMBER ARGUMENTS...

EVENT iteration: right after the NUMBER-th iteration that this process completed was saved and reported;
EVENT file: right before the NUMBER-th time that it renames, links, removes or syncs a file, or in an append;
EVENT row: right before the NUMBER-th row is written to the scratch file.
"""

import os
import signal
import sys

from kmeans import cli, partial, samples, train


def kill_at(owner, name, number, counter, after=False):
    original = getattr(owner, name)

    def counted(*arguments, **options):
        counter[0] += 1
        last = counter[0] == number
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)


def main():
    event, number = sys.argv[1], int(sys.argv[2])
    counter = [0]
    if event == "iteration":
        kill_at(train, "iteration_line", number, counter, after=True)
    elif event == "row":
        kill_at(os, "pwrite", number, counter)
    else:
        for name in ("replace", "fsync", "unlink", "symlink"):
            kill_at(os, name, number, counter)
        kill_at(partial.PartialIndex, "append", number, counter, after=True)
        kill_at(samples.Scratch, "flush", number, counter, after=True)
    return cli.main(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
