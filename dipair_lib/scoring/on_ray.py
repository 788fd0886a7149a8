"""Ray: a scoring job's units spread over actors, and a suite's training runs over machines.

No vector travels: every actor maps the collections' files itself, so they and the job's folder must be where
all machines see them. A unit may be done twice (an actor that died in the middle); it gives the same bytes
under the same name. A suite's runs are commands, so its folders and the Python that runs it must be there
too, under the same paths.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dipair_lib.scoring import encoding, execution, job_parts, jobs
from dipair_lib.system import machine

OBJECTS = 128 << 20  # bytes of Ray's object store where it is started here: descriptors are small


class Units:
    """What an actor does: score the units that it is handed, except those that have their part."""

    def __init__(self, out: str, threads: int, trust: bool = False) -> None:
        import torch

        torch.set_num_threads(threads)
        self.out, self.trust = Path(out), trust

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for number in batch["unit"].tolist():
            if not job_parts.is_noted(self.out, number):
                execution.run_unit(self.out, number, trust=self.trust)
        return batch


def score(
    job: jobs.Job, out: Path | str, address: str = "", workers: int = 0, *, trust: bool = False
) -> dict[str, int]:
    """As ``execution.score``, by Ray's actors.

    Args:
        address: of a cluster (``auto`` finds the one around this process); nothing starts Ray on this
            machine.
        workers: actors; 0 takes one for each processor of the cluster.
        trust: see ``execution.score``.

    Raises:
        ImportError: Ray is not installed (``pip install "dipair-lab[ray]"``). Else as ``execution.score``.
    """
    out = Path(out).absolute()
    with encoding.writing(out):
        job_parts.clear(out)
        units = range(jobs.create_job(job, out, trust))
        left = [{"unit": number} for number in job_parts.unmade(out, units, trust)]
        with joined(address) as ray:
            if left:
                spread(ray, out, left, workers, trust)
    return job_parts.counts(out, units, len(units) - len(left))


@contextlib.contextmanager
def joined(address: str) -> Iterator[Any]:
    """Ray, started here or joined at an address, and left again unless it was running already.

    Raises:
        ImportError: Ray is not installed (``pip install "dipair-lab[ray]"``).
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError('--ray needs Ray: pip install -c constraints.txt -e ".[ray]"') from error
    started = not ray.is_initialized()
    if started:
        ray.init(**({"address": address} if address else local()), log_to_driver=False)
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()


def local() -> dict[str, Any]:
    """Ray on this machine alone: no dashboard, no port for others, a small object store."""
    return {
        "include_dashboard": False,
        "object_store_memory": OBJECTS,
        "num_cpus": machine.cores(),
        "_node_ip_address": "127.0.0.1",
    }


def spread(ray: Any, out: Path, left: list[dict[str, int]], workers: int, trust: bool = False) -> None:
    """Hand the units to actors and wait for them."""
    processors = int(ray.cluster_resources()["CPU"])
    actors = min(workers or processors, processors, len(left))
    each = max(1, processors // actors)
    data = ray.data.from_items(left, override_num_blocks=len(left))
    # Ray Data starts an actor that died again and hands its unit on, as often as it takes.
    done = data.map_batches(
        Units,
        fn_constructor_args=(str(out), each, trust),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=each,
    )
    for _ in done.iter_batches(batch_size=1):
        pass


# --- runs of a suite --------------------------------------------------------------------------------------------------------------


class Cluster:
    """What a suite needs of a cluster: how many processors each of so many runs side by side gets, and a
    command started on one.
    """

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        self.processors, self.most = sum(machines), max(machines)

    def threads(self, jobs: int) -> int:
        """Processors of each run, all of one machine."""
        return max(1, min(self.most, self.processors // jobs))

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, threads: int
    ) -> Command:
        """Start a command on a machine that has so many processors free."""
        run = self.ray.remote(num_cpus=threads, max_retries=2)(run_command)
        return Command(self.ray, run.remote(list(command), dict(environment), str(log)))


class Command:
    """A command on a machine of a cluster, with what ``suite`` uses of a ``subprocess.Popen``."""

    returncode: int | None = None

    def __init__(self, ray: Any, task: Any) -> None:
        self.ray, self.task = ray, task

    def poll(self) -> int | None:
        """Its exit status, None while it runs; -9 where its machine was lost more often than it is tried."""
        if self.returncode is None and self.ray.wait([self.task], timeout=0)[0]:
            try:
                self.returncode = int(self.ray.get(self.task))
            except self.ray.exceptions.RayError:
                self.returncode = -9
        return self.returncode

    def terminate(self) -> None:
        self.ray.cancel(self.task)

    def kill(self) -> None:
        self.ray.cancel(self.task, force=True)

    def wait(self) -> int | None:
        self.ray.wait([self.task], timeout=10)
        return self.poll()


def run_command(command: list[str], environment: dict[str, str], log: str) -> int:
    """Run a command here, its output to a file, and end it when this task is cancelled. Returns its exit
    status.
    """
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment},
            start_new_session=True, preexec_fn=machine.die_with_parent,
        )  # fmt: skip
    try:
        while process.poll() is None:  # a wait without end would not hear of a cancelled task
            time.sleep(0.2)
        return int(process.returncode)
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        raise
