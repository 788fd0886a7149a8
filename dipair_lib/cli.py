"""The command line: ``dipair run``, ``dipair report``, ``dipair verify``. It parses, calls and prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


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
        "--fresh", action="store_true", help="delete the folder's earlier results and begin anew"
    )
    report = commands.add_parser("report", help="write report.html anew from a results folder")
    report.add_argument("folder", type=Path, metavar="DIR", help="e.g. results/demo")
    report.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write it (default DIR/report.html)"
    )
    verify = commands.add_parser("verify", help="recompute every quality number from the stored logits")
    verify.add_argument("folder", type=Path, metavar="DIR", help="e.g. results/demo")
    return top


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 if all is well, 1 if a run failed or numbers differ, 2 for a mistake in what was asked."""
    arguments = parser().parse_args(argv)
    try:
        match arguments.command:
            case "run":
                from dipair_lib import suite

                return suite.run_suite(
                    arguments.suite,
                    overrides(arguments.parameters),
                    jobs=arguments.jobs,
                    out=arguments.out,
                    fresh=arguments.fresh,
                )
            case "report":
                from dipair_lib import report

                print(report.write(arguments.folder, arguments.out))
                return 0
            case _:
                from dipair_lib import results

                problems = results.verify(arguments.folder)
                for problem in problems:
                    print(problem)
                if not problems:
                    count = len(results.load_results(arguments.folder))
                    print(
                        f"{arguments.folder}: {count} rows, every quality number recomputed from its logits: all as stored"
                    )
                return 1 if problems else 0
    except (
        ValueError
    ) as error:  # SuiteError, ResultError and TaskError say what to do; a traceback would hide it
        print(f"dipair: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
