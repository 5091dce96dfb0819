"""What the benchmarks share: processes that end with the run, waiting for a state, and the table of what was measured."""

import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

WAIT_S = 120
# Everything of a run lies here, and is gone at its end.
DIR = pathlib.Path(tempfile.mkdtemp(prefix="hfb"))
STARTED = []
TABLE = []


def start(name, *command):
    """Starts a process that `stop` ends. Its output goes to a file."""
    log = open(DIR / f"{name}.log", "w")
    process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    STARTED.append(process)
    return process


def stop(process):
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    STARTED.remove(process)


def ends_of_logs():
    return "\n".join(f"{p}:\n{p.read_text(errors='replace')[-2000:]}" for p in DIR.rglob("*.log"))


def until(what, check, *errors):
    """Polls `check` until it is true, `errors` being no answer; the last one is shown when it never is."""
    end, why = time.monotonic() + WAIT_S, None
    while time.monotonic() < end:
        try:
            if found := check():
                return found
        except (OSError, *errors) as error:
            why = error
        time.sleep(0.1)
    sys.exit(f"waited in vain for {what}: {why}\n{ends_of_logs()}")


def note(what, target, measured, met):
    TABLE.append((what, target, measured, "" if met is None else "met" if met else "missed"))


def show(head):
    widths = [max(len(row[i]) for row in TABLE) for i in range(4)]
    print(head)
    for row in TABLE:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def run(main):
    """Runs `main`, also when told to end, and leaves nothing behind; what it returns."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        return main()
    finally:
        for process in reversed(STARTED):
            process.terminate()
        for process in STARTED:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(DIR, ignore_errors=True)
