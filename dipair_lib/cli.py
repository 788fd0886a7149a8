"""The command line: ``dipair run``, ``report``, ``verify``, ``encode``, ``score``, ``export``. It parses,
calls and prints.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from dipair_lib.system import errors, machine


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    top = argparse.ArgumentParser(
        prog="dipair",
        description="Distil a cross-encoder into small text-pair models and see which one to deploy.",
    )
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="run a suite of notebooks, or go on with one that was interrupted",
        description="Run what is not finished of a suite; rows, executed notebooks and report.html land in its folder.",
        epilog='Your own pairs: dipair run notebooks/suites/demo.yaml -p task=pairs.csv -p "fields=[query,text]" '
        "-p label=label --out results/mine",
    )
    run.add_argument("suite", type=Path, help="YAML file, e.g. notebooks/suites/demo.yaml")
    run.add_argument(
        "-p",
        dest="parameters",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="set a parameter in every notebook that has it (repeatable)",
    )
    run.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs side by side; clocks always run alone (default 1)",
    )
    run.add_argument("--out", type=Path, metavar="DIR", help="results folder in place of the suite's own")
    run.add_argument(
        "--fresh",
        action="store_true",
        help="begin anew: the folder's earlier results are moved beside it, and removed once there is a new row",
    )
    run.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="spread the runs over Ray: on this machine, or a cluster (auto) that sees the same folders; clocks stay here",
    )
    report = commands.add_parser(
        "report",
        help="write report.html anew from a results folder, or compare several",
        description="One HTML file of one results folder, or of several: two machines, two tasks, before and after. Same models on the "
        "same test data are compared in pairs, against the first folder named.",
    )
    report.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="e.g. results/demo")
    what = report.add_mutually_exclusive_group()
    what.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where to write it (default DIR/report.html; of several comparison.html in the folder that holds them all)",
    )
    what.add_argument(
        "--notebooks",
        action="store_true",
        help="in place of the report, render DIR/notebooks/*.ipynb as executed to HTML beside them, without inputs",
    )
    verify = commands.add_parser(
        "verify",
        help="check a folder: quality numbers against logits, or an encoded collection's or scores' files against their sha256",
    )
    verify.add_argument("folder", type=Path, metavar="DIR", help="e.g. results/demo, store/a or scores")
    add_encode(commands)
    add_score(commands)
    export = commands.add_parser(
        "export",
        help="write a student to a folder that needs nothing else",
        description="Weights, config, tokenizer and a model card; Scorer.load reads the folder without the run, its data or its backbone.",
        epilog="dipair export results/demo/rows/<run> out",
    )
    export.add_argument("run", type=Path, metavar="RUN", help="a run's folder: results/demo/rows/<run>")
    export.add_argument("out", type=Path, metavar="OUT", help="a new folder, or an earlier export")
    export.add_argument("--onnx", action="store_true", help="its graphs as ONNX too (extra `peers`)")
    return top


def add_encode(commands: Any) -> None:
    """``dipair encode``."""
    encode = commands.add_parser(
        "encode",
        help="encode the texts of a file once, for scoring",
        description="Encode each distinct text of a file with a student and keep what its head needs. Stopped, it goes on at the last "
        "whole shard; run with more texts, it adds them.",
        epilog="dipair encode --student results/demo/rows/<run> --texts passages.parquet --field 1 --out store/passages",
    )
    encode.add_argument(
        "--student", type=Path, required=True, metavar="RUN", help="a run's folder: results/demo/rows/<run>"
    )
    encode.add_argument(
        "--texts", type=Path, required=True, metavar="FILE", help="Parquet, CSV, TSV or JSONL, plain or .gz"
    )
    encode.add_argument(
        "--field", type=int, required=True, metavar="N", help="which of the student's fields they are: 0 or 1"
    )
    encode.add_argument("--out", type=Path, required=True, metavar="DIR", help="the collection's folder")
    encode.add_argument(
        "--text", default="", metavar="COLUMN", help="column of the texts (default: text, or the only one)"
    )
    encode.add_argument(
        "--id", default="", metavar="COLUMN", help="column of the ids (default: id, or row numbers from 0)"
    )
    encode.add_argument(
        "--dtype", default="float32", help="of what is kept: float32 (default), float16, bfloat16 or int8"
    )
    encode.add_argument(
        "--encoder-dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of the encoder's arithmetic (default auto: bfloat16 where it is faster); float32: a text's scores depend on no other text",
    )
    add_device(encode, "where the texts are encoded")


def add_score(commands: Any) -> None:
    """``dipair score``."""
    score = commands.add_parser(
        "score",
        help="score pairs of two encoded collections",
        description="Score explicit pairs, or each left text with each right one. Stopped, it goes on with what has no part yet.",
        epilog="dipair score --student results/demo/rows/<run> --left store/queries --right store/passages --all --top 10 --out scores",
    )
    score.add_argument(
        "--student", type=Path, required=True, metavar="RUN", help="the student that encoded both"
    )
    score.add_argument("--left", type=Path, required=True, metavar="DIR", help="collection of field 0")
    score.add_argument("--right", type=Path, required=True, metavar="DIR", help="collection of field 1")
    which = score.add_mutually_exclusive_group(required=True)
    which.add_argument("--pairs", type=Path, metavar="FILE", help="ids in columns left and right")
    which.add_argument("--all", action="store_true", help="each left text with each right one")
    score.add_argument(
        "--top",
        type=int,
        default=0,
        metavar="K",
        help="keep the K best right texts of each left one (with --all)",
    )
    score.add_argument(
        "--threshold",
        type=threshold,
        metavar="T",
        help="keep scores of at least T; auto: the student's own, chosen on dev (two classes)",
    )
    score.add_argument(
        "--ids",
        choices=("every", "first"),
        default="every",
        help="with --all, where ids share a text: a row for every id (default), or one under the first, and tables of what it stands for",
    )
    score.add_argument(
        "--trust", action="store_true", help="do not compare collections and earlier parts with their sha256"
    )
    score.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the parts, Parquet")
    add_device(
        score, "cuda and auto: where a GPU's kernel has the head, it finds what is kept; cpu leaves it aside"
    )
    many = score.add_mutually_exclusive_group()
    many.add_argument(
        "--part",
        default="0/1",
        metavar="I/N",
        help="do the I-th of N shares (from 0): N such commands share the job, on any machines that see the folders",
    )
    many.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="spread the job over Ray: on this machine, or a cluster (auto)",
    )


def add_device(command: Any, what: str) -> None:
    """``--device``."""
    known = ("auto", "cpu", "cuda", "mps")
    command.add_argument(
        "--device", choices=known, default="auto", help=f"{what} (default auto: a GPU if there is one)"
    )


def overrides(given: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` texts as a dict; ValueError for one without a name or set twice."""
    values: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise ValueError(f"-p {text}: expected NAME=VALUE")
        if name in values:
            raise ValueError(f"-p {name}: given twice")
        values[name] = value
    return values


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line; what it quotes from files can neither steer the terminal nor fail to be encoded."""
    from dipair_lib.system import disk

    print(disk.printable(text), file=stream)


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Within it a warning is one line for people, without the line of code it came from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"note: {message}", sys.stderr)
        yield


@warnings_as_notes()
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 if all is well, 1 if a run failed or numbers differ, 2 for a mistake in what
    was asked, 130 after Ctrl-C.
    """
    try:
        with errors.noting_interrupts() as pressed:
            return answered(argv, pressed)
    except KeyboardInterrupt:  # at any moment, that in which an error is said too
        return 130


def answered(argv: Sequence[str] | None, pressed: Sequence[int] = ()) -> int:
    """``main``, with what goes wrong said in words; what goes wrong after Ctrl-C is Ctrl-C."""
    arguments = parser().parse_args(argv)
    machine.settle()
    try:
        return carried_out(arguments)
    except Exception as error:
        if pressed:
            return 130
        words = errors.words_of(error)
        if words is None:
            raise
        say(f"dipair: {words}", sys.stderr)
        return 2


def carried_out(arguments: argparse.Namespace) -> int:
    """The exit status of the command that was asked for."""
    match arguments.command:
        case "run":
            from dipair_lib.runner import suite

            return suite.run_suite(
                arguments.suite,
                overrides(arguments.parameters),
                jobs=arguments.jobs,
                out=arguments.out,
                fresh=arguments.fresh,
                ray=arguments.ray,
            )
        case "report":
            from dipair_lib.reporting import guard, notebook_pages, report

            if arguments.notebooks:
                written = [page for folder in arguments.folders for page in notebook_pages.notebooks(folder)]
            elif len(arguments.folders) > 1:
                written = [report.compare(arguments.folders, arguments.out)]
            else:
                written = [report.write(arguments.folders[0], arguments.out)]
            for folder in [] if arguments.notebooks else arguments.folders:
                for said in guard.failed_in(folder):
                    say(f"{folder}: {said}", sys.stderr)
            say("\n".join(map(str, written)))
            return 0
        case "export":
            from dipair_lib.reporting import export

            say(str(export.export(arguments.run, arguments.out, onnx=arguments.onnx)))
            return 0
        case "encode":
            return encode(arguments)
        case "score":
            return score(arguments)
        case _:
            return verify(arguments.folder)


def encode(asked: argparse.Namespace) -> int:
    """``dipair encode``: says what the collection holds, and where it was encoded."""
    from dipair_lib.evaluation import provenance
    from dipair_lib.scoring import encoding

    found = encoding.encode(
        asked.student, asked.texts, asked.field, asked.out,
        text=asked.text, id=asked.id, dtype=asked.dtype, device=asked.device, encoder=asked.encoder_dtype,
    )  # fmt: skip
    say(
        f"{asked.out}: {len(found):,} distinct texts in {len(found.manifest['shards'])} shards, {asked.dtype}, "
        f"on {provenance.device_name(asked.device)}"
    )
    return 0


AUTO = "auto"


def threshold(text: str) -> float | str:
    """A number, or ``auto``."""
    return text if text == AUTO else float(text)


def score(asked: argparse.Namespace) -> int:
    """``dipair score``: says how many pairs were scored, and by what."""
    from dipair_lib.scoring import execution, jobs, manifest

    if asked.top < 0 or (asked.top and asked.pairs):
        raise ValueError("--top: expected a whole number from 1 on, and --all in place of --pairs")
    if asked.threshold == AUTO:
        asked.threshold = manifest.threshold_of(asked.student)
        say(f"threshold {asked.threshold:.6g}, chosen on dev for the best F1")
    job = jobs.Job(
        str(asked.student), str(asked.left), str(asked.right), str(asked.pairs or ""), asked.top, asked.threshold, ids=asked.ids
    )  # fmt: skip
    if asked.ray is None:
        counts = execution.score(job, asked.out, share(asked.part), asked.device, trust=asked.trust)
        where = f"; {execution.where(asked.out, asked.device, asked.trust)}"
    else:
        from dipair_lib.scoring import on_ray

        if asked.device != "auto":
            raise ValueError("--device: on a Ray cluster each machine takes what it has: leave it at auto")
        counts, where = on_ray.score(job, asked.out, asked.ray, trust=asked.trust), ""
    say(
        f"{asked.out}: {counts['pairs']:,} pairs scored, {counts['rows']:,} rows in {counts['units']} parts"
        + (f", {counts['done_before']} of them from before" if counts["done_before"] else "")
        + where
    )
    for said in jobs.repeated(asked.out):
        say(said)
    return 0


def share(text: str) -> tuple[int, int]:
    """``I/N`` as numbers; ValueError unless 0 <= I < N."""
    i, _, n = text.partition("/")
    plain = all(part.isascii() and part.isdigit() and len(part) < 10 for part in (i, n))
    if not (plain and int(i) < int(n)):
        raise ValueError(f"--part: expected I/N with I from 0 to N - 1, such as 0/4, but got {text}")
    return int(i), int(n)


def verify(folder: Path) -> int:
    """``dipair verify``: one line for each problem; 1 if there are any."""
    from dipair_lib.evaluation import results, verification
    from dipair_lib.scoring import collection, job_parts, manifest

    if (folder / "manifest.json").exists():
        found = collection.Collection(folder, manifest.read_manifest(folder))
        problems, fine = found.verify(), "every shard is as its sha256 says"
    elif (folder / "job.json").exists():
        problems, fine = job_parts.verify(folder), "every part is there and as its sha256 says"
    else:
        problems = verification.verify(folder)
        for kind, check in (
            ("manifest.json", lambda at: collection.Collection.open(at).verify()),
            ("job.json", job_parts.verify),
        ):
            for path in sorted((folder / "scale").rglob(kind)):
                try:
                    problems += check(path.parent)
                except ValueError as error:  # not even its manifest can be read
                    problems.append(str(error))
        count = 0 if problems else len(results.load_results(folder))
        hashed, before = verification.hashed_files(folder)
        fine = f"{count} rows, every quality number recomputed from its logits: all as stored; {hashed} files as their sha256 says"
        fine += f", {before} from earlier versions have none" if before else ""
    for problem in problems:
        say(problem)
    if not problems:
        say(f"{folder}: {fine}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
