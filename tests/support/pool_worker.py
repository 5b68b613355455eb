"""Workers for the tests of ItemEngine, told what to do by the ids they get. They know no model."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time

from omnicap_cli.core.runs.records import Request, Result
from omnicap_cli.errors import EngineError, UnsupportedError


class Shouter:
    """Answers with its id in capitals, after doing what the words in the id ask.

    `config` maps words to folders or numbers: `log` is a folder that gets a file for each process.
    """

    def __init__(self, config):
        self._config = config
        if "log" in config:
            with open(os.path.join(config["log"], f"pid-{os.getpid()}"), "w"):
                pass
        print("loading", flush=True)

    def answer(self, request: Request, pixels) -> Result:
        words = request.item.id.split()
        _say_much()
        for word, act in _ACTS.items():
            if word in words:
                act(self._config)
        text = f"{request.item.id.upper()}|{request.prompt.style}|{pixels.width}x{pixels.height}"
        return Result(key=request.key, text=text, finish_reason="stop", width=pixels.width, height=pixels.height)


class Unloadable:
    """Its model doesn't load, in the way that `config` names."""

    def __init__(self, config):
        if config == "engine":
            raise EngineError("the weights are of another model", hint="Take others.")
        if config == "value":
            raise ValueError("bad weights")
        if config == "exit":
            os._exit(7)
        if config == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if config == "segfault":
            _segfault(config)
        if config == "system exit":
            sys.exit("a library that thinks it is a program")


def _segfault(_config):
    ctypes.string_at(0)


def _fail(_config):
    raise ValueError("the model chokes")


def _refuse(_config):
    raise UnsupportedError("not a picture of a cat")


def _sleep(config):
    time.sleep(config.get("sleep", 0.5))


def _crash_once(config):
    """Crash unless it was done before, in this or another process."""
    flag = os.path.join(config["log"], "crashed-once")
    if not os.path.exists(flag):
        with open(flag, "w"):
            os.kill(os.getpid(), signal.SIGKILL)


def _say_much():
    print("noise on stdout", flush=True)
    print("noise on stderr", file=sys.stderr, flush=True)
    os.write(1, b"raw noise on stdout\n")
    os.write(2, b"raw noise on stderr\n")
    logging.getLogger("pool_worker").warning("logged noise")


_ACTS = {
    "sleep": _sleep,
    "kill": lambda _config: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": _segfault,
    "exit": lambda _config: os._exit(3),
    "flaky": _crash_once,
    "fail": _fail,
    "refuse": _refuse,
}
