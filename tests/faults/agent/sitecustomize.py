"""Loaded by every process of a command under test: says in which stage it is, and strikes at a chosen instant.

``FAULT_LOG`` is a folder: a file named after each process holds its stage, ``struck`` the moment and place of a strike.
``FAULT`` is ``<event> <nth> <signal> <whom>``, where an event is one of

    stage:NAME      the main thread was seen in a stage (every two milliseconds)
    write:KIND      a file of a kind was opened under its temporary name; the signal comes as many milliseconds later as it is the nth
    rename:KIND     it is whole and about to get its name
    sync:KIND       its bytes are about to be flushed to disk
    tear:KIND       half a line of a journal was written
    start:NAME      a program of that name is started; the signal comes a third of a second later
"""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

STAGES = (  # the first that fits any frame of the main thread, innermost first where a module names a stage
    ("labels", "lockstep.py", "_labels"),
    ("evaluation", "lockstep.py", "_evaluate_base"),
    ("evaluation", "lockstep.py", "_evaluate"),
    ("checkpoint write", "lockstep.py", "_commit"),
    ("journal write", "journal.py", None),
    ("sampling", "sampling.py", None),
    ("update", "update.py", None),
    ("update", "losses.py", None),
    ("resume", "lockstep.py", "_resume"),
    ("rewards and rollouts", "lockstep.py", "_record"),
    ("rewards and rollouts", "lockstep.py", "_pay"),
    ("report", "/report/", None),
    ("analysis", "/analysis/", None),
    ("preparation", "trial.py", "prepare"),
    ("check of the files", "trial.py", "unfinished"),
    ("waiting for workers", "trial.py", "_listen"),
    ("import", "<frozen importlib", None),
)


def stage_of(frame) -> str:
    """What the main thread is at."""
    places = []
    while frame is not None:
        places.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    if places[0][0].startswith("<frozen importlib"):
        return "import"
    own = [p for p in places if "/controlarm/" in p[0] or p[0].startswith("<frozen")]
    for stage, file, function in STAGES:
        for path, name in own:
            if (path.endswith(file) or file in path) and function in (None, name):
                return stage
    return "other"


def kind_of(path: object) -> str:
    """Example: ``evaluations`` for ``.../evaluations/.step-000002.parquet.12.partial``."""
    found = Path(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else Path()
    name = found.name
    if name.endswith(".partial"):
        name = name[1:].rsplit(".", 2)[0]
    return found.parent.name if name.endswith((".parquet", ".safetensors")) and name != "problems.parquet" else name  # fmt: skip


class Agent:
    """One a process."""

    def __init__(self, log: str, fault: str) -> None:
        self.log = log
        self.event, nth, number, self.whom = fault.rsplit(" ", 3) if fault else ("", "0", "0", "")
        self.left = self.nth = int(nth)
        self.number = int(number)
        self.main = threading.main_thread().ident

    def strike(self, stage: str) -> None:
        descriptor = os.open(f"{self.log}/struck", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{time.time()} {os.getpid()} {stage}\n".encode())
        os.close(descriptor)
        if self.whom == "group":
            os.killpg(os.getpgid(0), self.number)
        else:
            os.kill(os.getsid(0) if self.whom == "parent" else os.getpid(), self.number)
        if self.number == signal.SIGKILL:
            # A worker whose parent was killed cannot notice for two seconds, as in the middle of a long operation.
            ctypes.PyDLL(None).usleep(2_000_000)

    def at(self, event: str, delay: float = 0) -> None:
        if event != self.event:
            return
        self.left -= 1
        if self.left == 0:
            if delay:
                threading.Timer(delay, self.strike, [event]).start()
            else:
                self.strike(event)

    def watch(self) -> None:
        descriptor = os.open(f"{self.log}/{os.getpid()}", os.O_WRONLY | os.O_CREAT)
        while True:
            frame = sys._current_frames().get(self.main or 0)
            if frame is None:
                return
            stage = stage_of(frame)
            del frame
            os.pwrite(descriptor, f"{stage:40}".encode(), 0)
            self.at(f"stage:{stage}")
            journal = sys.modules.get("controlarm.journal")
            if self.event.startswith("tear:") and hasattr(journal, "Journal"):
                self.tear(journal)
            time.sleep(0.002)

    def tear(self, journal) -> None:
        whole, agent = journal.Journal.append, self
        self.event = "torn"

        def append(self, values) -> None:
            agent.left -= 1
            if agent.left == 0:
                text = journal.line(values)
                os.write(self._file.fileno(), text[: len(text) // 2])
                agent.strike("tear:steps.jsonl")
            whole(self, values)

        journal.Journal.append = append

    def hear(self, event: str, arguments: tuple) -> None:
        if event == "open" and arguments[2] & os.O_CREAT and str(arguments[0]).endswith(".partial"):
            self.at(f"write:{kind_of(arguments[0])}", 1e-3 * self.nth)
        elif event == "os.rename":
            self.at(f"rename:{kind_of(arguments[1])}")
        elif event == "subprocess.Popen":
            self.at(f"start:{Path(os.fsdecode(arguments[0])).name}", 0.3)

    def sync(self, descriptor: int) -> None:
        self.at(f"sync:{kind_of(Path(f'/proc/self/fd/{descriptor}').readlink())}")
        self.whole_sync(descriptor)

    def begin(self) -> None:
        sys.addaudithook(self.hear)
        self.whole_sync, os.fsync = os.fsync, self.sync
        threading.Thread(target=self.watch, daemon=True).start()


if "FAULT_LOG" in os.environ and not any("resource_tracker" in word for word in sys.orig_argv):
    Agent(os.environ["FAULT_LOG"], os.environ.get("FAULT", "")).begin()
