"""A scoring job on Ray: the units of ``scoring`` as a data set of descriptors, an actor for each processor that scores them.

No vector travels: every actor maps the collections' files itself, so they and the job's folder must be where all machines see them. A unit
may be done twice (an actor that died in the middle); it gives the same bytes under the same name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from . import collection, scoring

OBJECTS = 128 << 20  # bytes of Ray's object store where it is started here: descriptors are small


class Units:
    """What an actor does: score the units that it is handed, except those that have their part."""

    def __init__(self, out: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.out = Path(out)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for number in batch["unit"].tolist():
            if not scoring.is_whole(self.out, number):
                scoring.run_unit(self.out, number)
        return batch


def score(job: scoring.Job, out: Path | str, address: str = "", workers: int = 0) -> dict[str, int]:
    """As ``scoring.score``, by Ray's actors.

    Args:
        address: of a cluster (``auto`` finds the one around this process); nothing starts Ray on this machine.
        workers: actors; 0 takes one for each processor of the cluster.

    Raises:
        ImportError: Ray is not installed (``pip install "dipair-lab[ray]"``). Else as ``scoring.score``.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError('scoring on Ray needs it: pip install -c constraints.txt -e ".[ray]"') from error
    out = Path(out).absolute()
    with collection.writing(out):
        units = range(scoring.begin(job, out))
        left = [{"unit": number} for number in units if not scoring.is_whole(out, number)]
        started = not ray.is_initialized()
        if started:
            ray.init(**({"address": address} if address else local()), log_to_driver=False)
        try:
            if left:
                spread(ray, out, left, workers)
        finally:
            if started:
                ray.shutdown()
    return scoring.counts(out, units, len(units) - len(left))


def local() -> dict[str, Any]:
    """Ray on this machine alone: no dashboard, no port for others, a small object store."""
    return {
        "include_dashboard": False,
        "object_store_memory": OBJECTS,
        "num_cpus": os.cpu_count(),
        "_node_ip_address": "127.0.0.1",
    }


def spread(ray: Any, out: Path, left: list[dict[str, int]], workers: int) -> None:
    """Hand the units to actors and wait for them."""
    processors = int(ray.cluster_resources()["CPU"])
    actors = min(workers or processors, processors, len(left))
    each = max(1, processors // actors)
    data = ray.data.from_items(left, override_num_blocks=len(left))
    # Ray Data starts an actor that died again and hands its unit on, as often as it takes.
    done = data.map_batches(
        Units,
        fn_constructor_args=(str(out), each),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=each,
    )
    for _ in done.iter_batches(batch_size=1):
        pass
