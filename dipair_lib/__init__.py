"""Which small model can stand in for a cross-encoder, at what quality and at what speed.

The floors, from the bottom; a module imports from its own floor and from those below:

system       this machine, its files, progress
models       networks behind the seam: what is computed per text, what per pair
data         texts and labels: a person's files, built-in tasks, synthetic rows
inference    models at work: devices, batches, outputs computed once, logits
evaluation   metrics, intervals, clocks, result rows
training     the teacher, the losses, the two stages
scoring      encoded collections and jobs: pairs by the billion
reporting    the choice under limits, figures, report, explorer, export
experiments  what only the notebooks 06 and 07 use
runner       suites of notebooks
cli          the command line

What README uses can be imported from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dipair_lib.data.loading import load_task as load_task
    from dipair_lib.evaluation.results import load_results as load_results
    from dipair_lib.runner.suite import run_suite as run_suite
    from dipair_lib.scoring.encoding import encode as encode
    from dipair_lib.scoring.execution import score as score
    from dipair_lib.scoring.jobs import Job as Job
    from dipair_lib.scoring.scorer import Scorer as Scorer

__version__ = "0.1.0"
# Imported at first use: the command line answers in a blink, torch takes seconds.
HOMES = {
    "Job": "scoring.jobs",
    "Scorer": "scoring.scorer",
    "encode": "scoring.encoding",
    "load_results": "evaluation.results",
    "load_task": "data.loading",
    "run_suite": "runner.suite",
    "score": "scoring.execution",
}


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(f"dipair_lib.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
