#!/usr/bin/python3
"""What a backup costs, beside a plain stream through zstd and beside restic, in one run on one machine.

One MariaDB with sysbench's tables; everything lies in one temporary directory and is gone at the end. Machines drift,
so the ways take turns, and the medians' ratios are what counts. restic cannot read a running server: it gets a directory
that mariabackup has staged, and is compared with a cold copy of the same directory. The staging is not counted. Restores
count once they are on disk.

Usage: backup.py HOLDFAST [GIB [ROUNDS]]
"""

import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HOLDFAST = os.path.realpath(sys.argv[1])
GIB = float(sys.argv[2]) if len(sys.argv) > 2 else 4
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 3
TABLES = 4
ROWS = int(GIB * 4_400_000 / TABLES)  # About 244 bytes each, indexes included.
WAIT_S = 120

DIR = pathlib.Path(tempfile.mkdtemp(prefix="hfbb"))
SOCKET, REPO, KEY = DIR / "s", DIR / "repo", DIR / "key"
RESTIC = {**os.environ, "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(DIR / "restic"), "RESTIC_CACHE_DIR": str(DIR / "cache")}
BACKUP = f"mariabackup --no-defaults --backup --parallel=2 --socket={SOCKET} --user=root"
HELD = ["--repository", REPO, "--key-file", KEY]
ROW = "{:<58} {:>16} {:>12} {}"
MISSED = []


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout.decode()[-2000:]}\n{done.stderr.decode()[-2000:]}")
    return done.stdout.decode()


def shell(command):
    return run("bash", "-euo", "pipefail", "-c", command)


def timed(work, durable=False):
    """Seconds and, if it is a command line, the peak memory of its own process in MiB."""
    os.sync()
    began = time.monotonic()
    if callable(work):
        work()
        return time.monotonic() - began, 0
    process = subprocess.Popen([str(c) for c in work[0]], env=work[1], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = []
    reader = threading.Thread(target=lambda: said.append(process.stdout.read()))
    reader.start()
    peak = 0
    while process.poll() is None:
        try:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            peak = max([peak] + [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")])
        except (FileNotFoundError, ProcessLookupError):
            pass
        time.sleep(0.005)
    if durable:
        os.sync()
    took = time.monotonic() - began
    reader.join()
    if process.returncode:
        sys.exit(f"{work[0]} failed:\n{said[0].decode()[-2000:]}")
    return took, peak / 1024


def mib(path):
    return sum(p.stat().st_size for p in pathlib.Path(path).rglob("*") if p.is_file()) / 2**20


def holdfast(*arguments):
    return [HOLDFAST, *arguments, *HELD], None


def restic(*arguments):
    return ["restic", "--quiet", *arguments], RESTIC


def stage():
    shutil.rmtree(DIR / "staged", ignore_errors=True)
    shell(f"{BACKUP} --target-dir={DIR}/staged 2>{DIR}/stage.log")


def turns(ways, durable=False):
    """Median seconds and highest peak of each."""
    seen = {name: [] for name in ways}
    for turn in range(ROUNDS):
        for name in list(ways) if turn % 2 == 0 else reversed(ways):
            before, work = ways[name]
            before()
            seen[name].append(timed(work, durable))
    return {name: (statistics.median(s for s, _ in rows), max(m for _, m in rows)) for name, rows in seen.items()}


def row(what, value, target="", met=None):
    print(ROW.format(what, value, target, "" if met is None else "met" if met else "MISSED"), flush=True)
    if met is False:
        MISSED.append(what)


def fresh(path, *make):
    def again():
        shutil.rmtree(path, ignore_errors=True)
        if make:
            run(*make[0], env=make[1])
    return again


def show(what, taken, sizes):
    for name, (seconds, peak) in taken.items():
        row(f"{what}, {name}", f"{seconds:.1f} s")
        row("    size; peak memory", f"{sizes[name]:.0f}; {peak:.0f} MiB")


def bound(what, value, most):
    row(what, f"{value:.2f}", f"<= {most:.2f}", value <= most)


def sql(statement):
    return run("mariadb", f"--socket={SOCKET}", "-N", "-e", statement).strip()


def written():
    """Pages that are only in the log would be new in the next backup."""
    end = time.monotonic() + WAIT_S
    while sql("SELECT variable_value FROM information_schema.global_status "
              "WHERE variable_name = 'INNODB_BUFFER_POOL_PAGES_DIRTY'") != "0":
        if time.monotonic() > end:
            sys.exit("the pages are never written")
        time.sleep(0.1)


HOT = holdfast("backup", "now", "db", "--socket", SOCKET)
COLD = holdfast("backup", "cold", DIR / "staged", "--service", "staged")
PLAIN = f"{BACKUP} --stream=xbstream --target-dir={DIR}/t 2>{DIR}/l | zstd -q -T0 -3 -f -o {DIR}/z; sync {DIR}/z"


def measure():
    row(f"{GIB:g} GiB of sysbench rows, median of {ROUNDS}", "", "target")
    stage()
    empty = fresh(REPO, *holdfast("repo", "init"))
    full = turns({
        "stream | zstd -T0 -3": (lambda: None, lambda: shell(PLAIN)),
        "holdfast hot": (empty, HOT),
        "restic, staged": (fresh(DIR / "restic", *restic("init")), restic("backup", DIR / "staged")),
    })
    sizes = {"stream | zstd -T0 -3": (DIR / "z").stat().st_size / 2**20, "restic, staged": mib(DIR / "restic")}
    # The order of the turns ends with either.
    empty()
    run(*HOT[0])
    sizes["holdfast hot"] = mib(REPO)
    show("full", full, sizes)
    bound("full, holdfast / (stream | zstd -T0 -3)", full["holdfast hot"][0] / full["stream | zstd -T0 -3"][0], 1.1)
    run(*COLD[0])

    changed = TABLES * ROWS // 1700
    run("sysbench", "--db-driver=mysql", f"--mysql-socket={SOCKET}", "--mysql-user=root", "--mysql-db=sb", f"--tables={TABLES}",
        f"--table-size={ROWS}", "--threads=4", "--time=0", f"--events={changed}", "--rand-type=uniform",
        "oltp_update_non_index", "run")
    written()
    stage()
    increment, added = {}, {}
    for name, work, place in [
        ("holdfast hot", HOT, REPO), ("holdfast cold, staged", COLD, REPO), ("restic, staged", restic("backup", DIR / "staged"), DIR / "restic"),
    ]:
        before = mib(place)
        increment[name] = timed(work)
        added[name] = mib(place) - before
    show(f"increment after {changed} scattered updates", increment, added)
    bound("increment's bytes / full's", added["holdfast hot"] / sizes["holdfast hot"], 0.05)
    bound("increment's time / full's", increment["holdfast hot"][0] / full["holdfast hot"][0], 1 / 3)
    bound("increment's bytes, holdfast cold / restic", added["holdfast cold, staged"] / added["restic, staged"], 0.25)
    bound("increment's time, holdfast cold / restic", increment["holdfast cold, staged"][0] / increment["restic, staged"][0], 0.25)

    into = DIR / "restored"
    back = turns({
        "holdfast": (fresh(into), holdfast("restore", "staged", "--to", into)),
        "restic": (fresh(into), restic("restore", "latest", "--target", into)),
    }, durable=True)
    for name, (seconds, peak) in back.items():
        row(f"restore, {name}", f"{seconds:.1f} s")
        row("    peak memory", f"{peak:.0f} MiB")
    bound("restore, holdfast / restic", back["holdfast"][0] / back["restic"][0], 0.5)
    peak = max([peak for name, (_, peak) in [*full.items(), *increment.items()] if "holdfast" in name] + [back["holdfast"][1]])
    row("memory, holdfast", f"{peak:.0f} MiB", "<= 300", peak <= 300)
    seconds, _ = timed(holdfast("backup", "verify", "db", "--scratch", DIR))
    row("verify: restored, prepared, every table checked and read", f"{seconds:.1f} s")


def main():
    run("mariadb-install-db", "--no-defaults", f"--datadir={DIR}/data", "--user=root", "--skip-test-db",
        "--auth-root-authentication-method=socket", "--auth-root-socket-user=root")
    (DIR / "tmp").mkdir()
    server = subprocess.Popen(
        ["mariadbd", "--no-defaults", f"--datadir={DIR}/data", f"--socket={SOCKET}", "--skip-networking", "--user=root",
         "--log-bin=binlog", f"--tmpdir={DIR}/tmp", f"--pid-file={DIR}/pid", "--innodb-buffer-pool-size=1G",
         "--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0"],
        stdout=open(DIR / "server.log", "w"), stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + WAIT_S
        while subprocess.run(["mariadb", f"--socket={SOCKET}", "-e", "CREATE DATABASE sb"], stderr=subprocess.DEVNULL).returncode:
            if time.monotonic() > end:
                sys.exit((DIR / "server.log").read_text()[-2000:])
            time.sleep(0.1)
        run("sysbench", "--db-driver=mysql", f"--mysql-socket={SOCKET}", "--mysql-user=root", "--mysql-db=sb",
            f"--tables={TABLES}", f"--table-size={ROWS}", "--threads=2", "oltp_update_non_index", "prepare")
        # What is dirty is written now and not while the first way is measured.
        sql("SET GLOBAL innodb_max_dirty_pages_pct = 0, innodb_max_dirty_pages_pct_lwm = 0")
        written()
        KEY.write_text(run(HOLDFAST, "repo", "key"))
        measure()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(WAIT_S)
        shutil.rmtree(DIR)
    sys.exit(f"missed: {', '.join(MISSED)}" if MISSED else 0)


if __name__ == "__main__":
    main()
