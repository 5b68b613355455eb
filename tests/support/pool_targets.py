"""Targets of pools for tests. A task says in words what becomes of the child that has it; `config` is a folder."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from omnicap_cli.core.workers.pool_child import Assignment, Work, answering
from omnicap_cli.errors import EngineError, OptionError


def load_shouter(folder: str) -> Work:
    """Answers a task with its words in capitals, one after the other."""
    Path(folder, f"loaded-{os.getpid()}").touch()
    return answering(lambda task: _act(folder, task))


def load_gatherer(folder: str) -> Work:
    """Holds back every answer until the tasks end, then gives them from the last to the first."""

    def work(assignments: Iterator[Assignment], stop) -> None:
        taken = []
        for assignment in assignments:
            Path(folder, f"taken-{assignment.content}").touch()
            taken.append(assignment)
        if stop.is_set():
            return
        for assignment in reversed(taken):
            assignment.answer(_act(folder, assignment.content))

    return work


def load_speller(folder: str) -> Work:
    """Says the letters of a task one by one, and dies where `dies-at-LETTER` is there, which it removes."""

    def work(assignments: Iterator[Assignment], _stop) -> None:
        for assignment in assignments:
            for letter in assignment.content:
                Path(folder, f"at-{letter}-{os.getpid()}").touch()
                try:
                    Path(folder, f"dies-at-{letter}").unlink()
                except FileNotFoundError:
                    assignment.say(letter)
                else:
                    os.kill(os.getpid(), signal.SIGKILL)

    return work


def load_listener(_config: None) -> Work:
    """Answers each task with all that it was told before."""

    def work(assignments: Iterator[Assignment], _stop) -> None:
        told: list[str] = []
        for assignment in assignments:
            if assignment.content == "task":
                assignment.answer((told, os.environ.get("POOL_TEST")))
            else:
                told = [*told, assignment.content]

    return work


def load_nothing(how: str) -> Work:
    """Does not load, in the way that the config names."""
    if how == "option":
        raise OptionError("--model", "x", "is none", hint="Take another.")
    if how == "engine":
        raise EngineError("the weights are of another model", hint="Take others.")
    if how == "value":
        raise ValueError("bad weights")
    if how == "leaves early":
        return lambda *_: None
    if how == "system exit":
        sys.exit("a library that thinks it is a program")
    os._exit(7)


def _act(folder: str, task: str) -> str:
    words = task.split()
    if "log" in words:
        Path(folder, f"begun-{words[-1]}-{os.getpid()}").touch()
    if "die" in words:
        os.kill(os.getpid(), signal.SIGKILL)
    if "once" in words and not Path(folder, f"died-{words[-1]}").exists():
        Path(folder, f"died-{words[-1]}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if "fail" in words:
        raise ValueError("it can't be shouted")
    if "refuse" in words:
        raise OptionError("--task", task, "is refused", hint="Ask for another.")
    if "sleep" in words:
        time.sleep(300)
    while "wait" in words and not Path(folder, f"go-{words[-1]}").exists():
        time.sleep(0.01)
    return task.upper()
