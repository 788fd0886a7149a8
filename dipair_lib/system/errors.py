"""What a person reads where a command goes wrong, in place of a traceback."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


def words_of(error: Exception) -> str | None:
    """What a person reads of an error, in place of a traceback; None of one that is a mistake of ours."""
    if isinstance(error, OSError):  # a folder that cannot be read or written, a full disk
        return f"{error.filename or 'a file'}: {error.strerror or error}"
    if isinstance(error, ValueError | ImportError):  # says what to do; or an extra that is not installed
        return str(error)
    if isinstance(error, MemoryError | RuntimeError) and out_of_memory(error):
        why = str(error).splitlines()[0][:200] if str(error) else "no more was to be had"
        return f"memory ran out ({why}): what is whole is kept: free some, or use a machine with more, and run the same command again"
    return None


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out; torch and oneDNN have no class for that on a CPU."""
    said = ("alloc", "out of memory", "could not create a primitive", "could not create a memory")
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in said)


@contextlib.contextmanager
def noting_interrupts() -> Iterator[list[int]]:
    """Within it Ctrl-C interrupts as ever, and is noted: torch, if it comes while a model is read, makes an
    error of its own of it.
    """
    pressed: list[int] = []

    def note(number: int, frame: Any) -> None:
        pressed.append(number)
        signal.default_int_handler(number, frame)

    in_force = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if in_force and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, signal.default_int_handler)
