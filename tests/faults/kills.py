"""Signals at random moments, to one process or to two at once on one folder."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from .attempts import LIMIT_S, SIGNALS, Attempt, Ended, attempt, new_process
from .table import Table
from .world import Command, World, different

Start = Callable[[float, str], Ended]


def undisturbed(command: Command) -> tuple[dict[str, Any], float]:
    """What a command leaves that nothing disturbs, and the seconds it takes."""
    command.clear()
    ended = attempt(command.run)
    if ended.status:
        raise RuntimeError(f"{command.name} fails undisturbed ({ended.last}):\n{ended.said[-2000:]}")
    return command.content(), ended.took


def went_on(world: World, command: Command, expected: dict[str, Any], again: Callable[[], Ended]) -> str:
    """What is wrong after the command was started again; nothing where all is as it should be."""
    ended = again()
    if ended.status:
        return f"started again it ends with {ended.last}"
    return different(command.content(), expected) or "; ".join(world.problems(command))[:300]


def one(world: World, command: Command, kills: int, random: Random, table: Table, new: bool = False) -> None:
    """Signals to one process; up to three of its starts are ended before it is left alone."""
    if not kills or table.left() <= 0:
        return
    expected, took = undisturbed(command)

    def start(after: float = LIMIT_S, name: str = "") -> Ended:
        return new_process(command.whole, after, name) if new else attempt(command.run, after, name)

    if new:  # its start, too, takes time, most signals are to fall behind it; and it may have other threads
        command.clear()
        took = start().took
        expected = command.content()
    fault = f"signal, {'new process' if new else 'forked'}"
    while table.line(fault, command.name).tried < kills and table.left() > 0:
        command.clear()
        ended, wrong, sent = [], "", []
        for _ in range(random.randint(1, 3)):
            name = random.choice(SIGNALS)
            ended.append(start(took * (random.uniform(0.3, 1) if new else random.random()), name))
            sent += [name] if ended[-1].interrupted else []
            wrong = wrong or unexpected(ended[-1])
            if ended[-1].status == 0:  # it says it is done: then it is
                wrong = wrong or different(command.content(), expected)
        wrong = wrong or went_on(world, command, expected, start)
        for i, name in enumerate(sent):
            table.note(fault, command.name, wrong if i == 0 else "", name)
        if wrong and not sent:
            table.failures.append(f"{fault}, {command.name}: {wrong}")


def unexpected(ended: Ended) -> str:
    """What is wrong about an end; nothing where it was the signal's, or the work was done before."""
    if ended.interrupted or ended.status == 0:
        return ""
    return f"{ended.sent or 'left alone'}: {ended.last}"


def two(world: World, command: Command, kills: int, random: Random, table: Table) -> None:
    """Two processes at once on one folder, one or both of them ended; who comes second is refused in words, or shares the work."""
    if not kills or table.left() <= 0:
        return
    expected, took = undisturbed(command)
    fault = "signal, two at once"
    while table.line(fault, command.name).tried < kills and table.left() > 0:
        command.clear()
        both = [Attempt(command.run_first), Attempt(command.run_beside)]
        moments = [took * random.uniform(0, 1.5) for _ in both]
        names = [random.choice(SIGNALS), random.choice([*SIGNALS, "", ""])]
        for process, moment, name in sorted(zip(both, moments, names, strict=True), key=lambda of: of[1]):
            process.wait_until(moment)
            if name and process.poll() is None:
                process.signal(name)
        for process in both:
            process.wait_until(LIMIT_S)
        ended = [process.end() for process in both]
        wrong, refused = "", 0
        for one_end in ended:
            if one_end.status in {1, 2} and one_end.in_words and not one_end.interrupted:
                refused += 1
            else:
                wrong = wrong or unexpected(one_end)
        if not command.beside and any(process.status == 0 for process in ended):
            wrong = wrong or different(command.content(), expected)
        wrong = wrong or went_on(world, command, expected, lambda: attempt(command.run))
        sent = [process.sent for process in ended if process.interrupted]
        for i, name in enumerate(sent):
            table.note(fault, command.name, wrong if i == 0 else "", name)
        if refused:
            remarks = table.line(fault, command.name).remarks
            remarks["seconds refused in words"] = remarks.get("seconds refused in words", 0) + refused
        if wrong and not sent:
            table.failures.append(f"{fault}, {command.name}: {wrong}")
