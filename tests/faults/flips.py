"""One changed byte in every kind of file that is read back: refused by its name, or made again, and never another number.

Not among them, because no number is read from them: reports, pictures, model cards, and the cells of executed notebooks.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from dipair_lib import cli

from . import attempts
from .attempts import Ended, attempt, remove
from .kills import undisturbed
from .table import Table
from .world import Command, World, different

FAULT = "a changed byte"
Judge = Callable[[Ended, Path], tuple[str, str]]


def every(world: World, times: int, random: Random, table: Table, only: re.Pattern[str]) -> None:
    """Every kind of file, so many bytes of each."""
    for what in (collections, jobs, students, folders, checkpoints):
        if table.left() > 0 and only.search(what.__name__):
            what(world, times, random, table)


def kinds(folder: Path, leave: str = "") -> dict[str, list[Path]]:
    """The files of a folder by what tells their kind: names without numbers and hashes."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and path.stat().st_size and path.suffix != ".lock" and path.name != ".lock":
            kind = re.sub(r"[0-9a-f]{16,}|-[0-9a-f]{10}\b|\d{5}|(?<=rows/)[^/]+", "*", name)
            if not (leave and re.search(leave, name)):
                found.setdefault(kind, []).append(path)
    return found


def change(
    files: dict[str, list[Path]],
    of: str,
    work: Callable[[], int],
    judge: Judge,
    times: int,
    random: Random,
    table: Table,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Change one byte of one file of each kind, do the work, judge it, and put the byte back."""
    for kind, paths in files.items():
        for _ in range(times):
            if table.left() <= 0:
                return
            before()
            path = random.choice(paths)
            data = path.read_bytes()
            place = random.randrange(len(data))
            path.write_bytes(data[:place] + bytes([data[place] ^ random.randint(1, 255)]) + data[place + 1 :])
            try:
                wrong, remark = judge(attempt(work), path)
            finally:
                path.write_bytes(data)
            where = f"{path.relative_to(path.parents[1])}, byte {place} of {len(data)}: "
            table.note(FAULT, f"{of} {kind}".strip(), wrong and where + wrong, remark)


def named(ended: Ended, path: Path) -> bool:
    """Whether the words name the file, or the one that it is the hash or the note of."""
    stem = path.name.removesuffix(".sha256").split(".")[0]
    return path.name in ended.said or bool(stem and stem in ended.said) or path.parent.name in ended.said


def same_or_refused(command: Command, expected: dict[str, Any]) -> Judge:
    """The work is done as if nothing had been changed, or refused by the file's name."""

    def judge(ended: Ended, path: Path) -> tuple[str, str]:
        if ended.status == 0:
            return different(command.content(), expected), "the same result"
        if not ended.in_words:
            return f"no answer in words, {ended.last}", ""
        return ("" if named(ended, path) else f"refused, but not by name: {ended.last}"), "refused by name"

    return judge


def collections(world: World, times: int, random: Random, table: Table) -> None:
    """What ``encode`` wrote, read by ``score``, and by ``encode`` when it adds texts."""
    commands = world.commands()
    score = commands["score --all"]
    expected, _ = undisturbed(score)
    store = world.folder / "store-0"
    change(
        kinds(store),
        "collection, scored:",
        score.run,
        same_or_refused(score, expected),
        times,
        random,
        table,
        score.clear,
    )
    short = world.folder / "short"
    encode = commands["encode --dtype int8"]
    line = [*encode.arguments]
    line[line.index("--texts") + 1] = str(world.folder / "half.csv")
    text = (world.folder / "0.csv").read_text(encoding="utf8").splitlines(keepends=True)
    (world.folder / "half.csv").write_text("".join(text[:20]), encoding="utf8")
    encode.clear()
    attempt(lambda: cli.main(line))
    shutil.copytree(encode.now, short)
    more = Command("encode more", world.now, encode.arguments, before=short)
    expected, _ = undisturbed(more)
    for kind, paths in kinds(short).items():
        inside = {kind: [world.now / path.relative_to(short) for path in paths]}

        def judge(ended: Ended, path: Path) -> tuple[str, str]:
            changed = str(path.relative_to(world.now))
            if (
                ended.status == 0
            ):  # what it did not need to read stays changed: whoever reads it is refused, above
                rest = {name: data for name, data in more.content().items() if name != changed}
                return different(
                    rest, {n: d for n, d in expected.items() if n != changed}
                ), "the rest is the same"
            return same_or_refused(more, expected)(ended, path)

        change(inside, "collection, added to:", more.run, judge, times, random, table, more.clear)


def jobs(world: World, times: int, random: Random, table: Table) -> None:
    """What ``score`` wrote, when it goes on: its last part is not there yet."""
    for name in ("score --all", "score --pairs"):
        command = world.commands()[name]
        expected, _ = undisturbed(command)
        begun = world.folder / "begun"
        shutil.rmtree(begun, ignore_errors=True)
        shutil.copytree(command.now, begun)
        if name == "score --all":
            for path in (begun / "out").glob("part-00006*"):
                path.unlink()
        again = Command(name, world.now, command.arguments, before=begun)
        again.clear()
        change(
            kinds(world.now),
            f"{name}, gone on with:",
            again.run,
            same_or_refused(again, expected),
            times,
            random,
            table,
            again.clear,
        )


def students(world: World, times: int, random: Random, table: Table) -> None:
    """A run's student and its row, exported; an exported student, encoding; the backbone that the run's tokenizer is of."""
    commands = world.commands()
    export = commands["export"]
    expected, _ = undisturbed(export)
    run = {
        f"run, exported: {kind}": paths for kind, paths in kinds(world.run, leave="SHA256SUMS|logits").items()
    }
    change(run, "", export.run, same_or_refused(export, expected), times, random, table, export.clear)
    encode = commands["encode"]
    of_export = world.folder / "before-export" / "out"
    command = Command("encode", world.now, (*encode.arguments[:2], str(of_export), *encode.arguments[3:]))
    expected, _ = undisturbed(command)
    change(
        kinds(of_export, leave=r"README\.md"), "export, encoding:", command.run, same_or_refused(command, expected), times, random,
        table, command.clear,
    )  # fmt: skip


def folders(world: World, times: int, random: Random, table: Table) -> None:
    """A finished suite's folder: ``verify`` names the file."""
    command = world.commands()["run, training"]
    undisturbed(command)
    out = world.now / "out"
    files = kinds(out, leave=r"^notebooks/|report\.html|\.dipair|\.pid")

    def verify(ended: Ended, path: Path) -> tuple[str, str]:
        if ended.status == 1 and named(ended, path) and ended.in_words:
            return "", "named by verify"
        return f"verify does not name it: {ended.last}", ""

    change(files, "results, verified:", lambda: cli.main(["verify", str(out)]), verify, times, random, table)
    kept = world.folder / "finished"
    shutil.copytree(world.now, kept)
    again = Command(command.name, world.now, command.arguments, before=kept)
    expected = again.content()
    rows = {f"report: {kind}": paths for kind, paths in kinds(out).items() if kind.endswith("row.json")}
    page, written = world.folder / "page.html", attempts.report_write

    def report() -> int:
        written(out, page)
        return 0

    attempt(report)
    whole = page.read_text(encoding="utf8")

    def reported(ended: Ended, path: Path) -> tuple[str, str]:
        if ended.status == 0 and page.read_text(encoding="utf8") == whole:
            return "", "the same result"
        return ("" if named(ended, path) else "another report, and no word of it"), "left out by name"

    change(rows, "results,", report, reported, times, random, table)
    # The student is trained anew, from what the teacher's run left.
    unfinished = world.folder / "unfinished"
    shutil.copytree(kept, unfinished)
    for path in [*(unfinished / "out").glob("rows/03*"), *(unfinished / "out").glob("notebooks/03*")]:
        remove(path)
    anew = Command(command.name, world.now, command.arguments, before=unfinished)
    anew.clear()
    if wrong := attempt(anew.run).status or different(anew.content(), expected):
        raise RuntimeError(f"{command.name} fails undisturbed: {wrong}")
    anew.clear()
    read = {
        k: p
        for k, p in kinds(
            out, leave=r"^notebooks/|\.jsonl|report|\.dipair|rows/.*constant|rows/.*tf-idf"
        ).items()
    }

    def trained(ended: Ended, path: Path) -> tuple[str, str]:
        """What a run does not read stays changed; ``verify`` names that, above."""
        changed = str(path.relative_to(world.now))
        if ended.status == 0:
            found, rest = ({n: d for n, d in of.items() if n != changed} for of in (anew.content(), expected))
            return different(found, rest), "the rest is the same"
        return same_or_refused(anew, expected)(ended, path)

    change(read, "results, trained on:", anew.run, trained, 1 + times // 4, random, table, anew.clear)


def checkpoints(world: World, times: int, random: Random, table: Table) -> None:
    """What a training that was stopped left, when it goes on."""
    command = world.commands()["run, training"]
    expected, took = undisturbed(command)
    kept = world.folder / "stopped"
    for moment in [0.3 + 0.02 * i for i in range(20)]:
        command.clear()
        attempt(command.run, took * moment, "SIGKILL")
        if list((world.now / "out" / "unfinished").rglob("*.safetensors")):
            break
    else:
        table.skip(FAULT, "unfinished training", "none was stopped with a file")
        return
    shutil.copytree(world.now, kept)
    again = Command(command.name, world.now, command.arguments, before=kept)
    again.clear()
    files = {f"unfinished/{kind}": paths for kind, paths in kinds(world.now / "out" / "unfinished").items()}
    change(
        files,
        "training, gone on with:",
        again.run,
        same_or_refused(again, expected),
        1 + times // 4,
        random,
        table,
        again.clear,
    )
