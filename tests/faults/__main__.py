"""``python -m faults``: attack the commands, print what held, write it."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random


def main() -> int:
    """Returns 0 if everything held."""
    asked = argparse.ArgumentParser(prog="faults", description=__doc__)
    asked.add_argument(
        "--kills", type=int, default=500, metavar="N", help="processes to end by signals (default 500)"
    )
    asked.add_argument(
        "--new", type=int, default=24, metavar="N", help="of them, in new processes (default 24)"
    )
    asked.add_argument(
        "--flips", type=int, default=6, metavar="N", help="bytes to change of each kind of file (default 6)"
    )
    asked.add_argument(
        "--times", type=int, default=4, metavar="N", help="moments or amounts of each other fault (default 4)"
    )
    asked.add_argument(
        "--minutes", type=float, default=30.0, metavar="M", help="stop after so many (default 30)"
    )
    asked.add_argument(
        "--only", default="", metavar="PATTERN", help="commands, and groups of files, whose names it fits"
    )
    asked.add_argument(
        "--seed", type=int, default=0, help="of all moments and places; 0 draws one, which is printed"
    )
    asked.add_argument("--out", type=Path, metavar="FILE", help="write the table here too")
    given = asked.parse_args()
    if not hasattr(os, "fork") or sys.platform != "linux":
        print("faults: needs Linux")
        return 2
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TRITON_INTERPRET": "1"}
    os.environ["PYTHONHASHSEED"] = "0"

    import torch
    import tqdm

    torch.set_num_threads(1)  # a forked process has no other threads
    tqdm.tqdm.set_lock(
        threading.RLock()
    )  # tqdm's own is shared with forked processes: one killed with it would stop all others
    from . import attempts, circumstances, flips, kills, table, world

    seed, begun = given.seed or time.time_ns() % 1_000_000, time.monotonic()
    random, found = Random(seed), table.Table(begun + 60 * given.minutes)
    print(f"seed {seed}", flush=True)
    world.make_small()
    attempts.without_kernels()
    attempts.adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        made = world.World(Path(folder))
        commands = [one for name, one in made.commands().items() if re.search(given.only, name)]
        shares = shares_of([one.name for one in commands], given.kills - given.new)
        for command in commands:
            kills.one(made, command, shares[command.name] * 2 // 3, random, found)
            kills.two(made, command, shares[command.name] - shares[command.name] * 2 // 3, random, found)
            print(f"{time.monotonic() - begun:5.0f} s  signals  {command.name}", flush=True)
        for command in commands if given.times else []:
            circumstances.every(made, command, given.times, random, found)
            print(f"{time.monotonic() - begun:5.0f} s  faults   {command.name}", flush=True)
        if given.flips:
            flips.every(made, given.flips, random, found, re.compile(given.only))
            print(f"{time.monotonic() - begun:5.0f} s  changed bytes", flush=True)
        for command in commands:
            kills.one(
                made, command, -(-given.new // len(commands)) if given.new else 0, random, found, new=True
            )
    page = found.markdown(seed, time.monotonic() - begun)
    print(f"\n{page}")
    if given.out:
        given.out.write_text(page, encoding="utf8")
    return 1 if found.failures else 0


def shares_of(names: list[str], kills: int) -> dict[str, int]:
    """How many signals each command gets: trainings take longest and get half of the others' share."""
    weights = {name: 0.5 if "training" in name else 1.0 for name in names}
    return {name: round(kills * weight / sum(weights.values())) for name, weight in weights.items()}


if __name__ == "__main__":
    sys.exit(main())
