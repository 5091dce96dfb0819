#!/usr/bin/python3
"""What Holdfast costs, beside what it stands next to, in one run on one machine; prints one table.

Machines drift and others use them too, so everything is measured in turns, and the medians' ratios are what counts.
HAProxy runs in tcp mode with its defaults, as it is put in front of a database; a second one reaches the engine by
its Unix socket, as Holdfast does where it shares the engine's host, so that one sees what is due to that.
Everything listens on loopback, lies in one temporary directory, and is gone at the end.

Usage: bench.py HOLDFAST [ROUNDS [SECONDS]]
"""

import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

import pymysql

from harness import DIR, ends_of_logs, note, run, show, start, stop, until

HOLDFAST = os.path.realpath(sys.argv[1])
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 5
SECONDS = int(sys.argv[3]) if len(sys.argv) > 3 else 4
THREADS = 16
WRITERS = 8
QUIET_S = 20
IDLE_CLIENTS = 2000
LARGE_BYTES = 1 << 20
PORT, ENGINE_PORT, HAPROXY_PORT, HAPROXY_UNIX_PORT, HAND_PORT = 13306, 13308, 13310, 13311, 13312
NODES = {"a": "127.0.0.11", "b": "127.0.0.12"}
HAND = ["127.0.0.13", "127.0.0.14"]


def sysbench(address, port, test, command, threads, seconds=SECONDS):
    """Queries/s and the 99th percentile of the latency in ms."""
    out = subprocess.run(
        ["sysbench", "--db-driver=mysql", f"--mysql-host={address}", f"--mysql-port={port}", "--mysql-user=app",
         "--mysql-password=sandbox", "--mysql-db=shop", "--tables=1", "--table-size=10000", f"--threads={threads}",
         f"--time={seconds}", "--percentile=99", test, command],
        stdout=subprocess.PIPE, text=True)
    if out.returncode:
        sys.exit(f"{out.stdout}\n{test} at {address}:{port} failed; the logs' ends:\n{ends_of_logs()}")
    rate = re.search(r"queries:\s+\d+\s+\(([\d.]+)", out.stdout)
    late = re.search(r"99th percentile:\s+([\d.]+)", out.stdout)
    return (float(rate[1]), float(late[1])) if rate and late else None


def turns(ways, test, threads):
    """Rounds in which each way has its turn: median rate and 99th percentile of each."""
    seen = {name: [] for name in ways}
    for turn in range(ROUNDS):
        # Who follows whom must not decide.
        order = list(ways) if turn % 2 == 0 else list(reversed(ways))
        for name in order:
            seen[name].append(sysbench(*ways[name], test, "run", threads))
    return {name: tuple(statistics.median(column) for column in zip(*rows)) for name, rows in seen.items()}


def dev(durability):
    """Two nodes: the process, the hosts' processes by their names, and which of them leads."""
    process = start(f"dev-{durability}", HOLDFAST, "dev", "--dir", DIR / durability, "--nodes", 2,
                    "--durability", durability, "--port", PORT)
    until("a healthy service", lambda: "\nHealthy" in (DIR / f"dev-{durability}.log").read_text())
    hosts = {}
    for pid in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        if "--node" in command:
            hosts[command[command.index("--node") + 1]] = int(pid)
    with connect(NODES["a"], PORT).cursor() as cursor:
        cursor.execute("SELECT @@report_host")
        return process, hosts, cursor.fetchone()[0]


def cpu_s(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_kib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


def quiet(hosts, leader):
    before = {name: cpu_s(pid) for name, pid in hosts.items()}
    time.sleep(QUIET_S)
    for name, pid in hosts.items():
        role = "primary's" if name == leader else "replica's"
        share = 100 * (cpu_s(pid) - before[name]) / QUIET_S
        note(f"CPU of the {role} host, {QUIET_S} s of nothing", "<= 1 %", f"{share:.2f} %", share <= 1)


def proxy(hosts, leader):
    primary, socket = NODES[leader], DIR / "async" / leader / "shop/run/db.sock"
    config = DIR / "haproxy.cfg"
    config.write_text(f"""global
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
listen tcp
  bind {primary}:{HAPROXY_PORT}
  server primary {primary}:{ENGINE_PORT}
listen unix
  bind {primary}:{HAPROXY_UNIX_PORT}
  server primary unix@{socket}
""")
    haproxy = start("haproxy", "haproxy", "-db", "-f", config)
    ways = {"direct": (primary, ENGINE_PORT), "HAProxy": (primary, HAPROXY_PORT),
            "HAProxy, Unix socket": (primary, HAPROXY_UNIX_PORT), "Holdfast": (primary, PORT)}
    until("HAProxy", lambda: connect(primary, HAPROXY_PORT).close() is None, pymysql.Error)
    sysbench(primary, ENGINE_PORT, "oltp_read_write", "prepare", 1)
    for what, test, least in (("point selects", "oltp_point_select", 1.25), ("read/write", "oltp_read_write", 1.0)):
        seen = turns(ways, test, THREADS)
        base_rate, base_late = seen["HAProxy"]
        for name, (rate, late) in seen.items():
            ratio, ours = rate / base_rate, name == "Holdfast"
            note(f"{what}, {THREADS} clients: {name}", f">= {least} x HAProxy" if ours else "",
                 f"{rate:.0f}/s = {ratio:.2f} x", ratio >= least if ours else None)
            if ours:
                note(f"{what}: 99th percentile", "<= HAProxy's", f"{late:.2f} ms, HAProxy {base_late:.2f} ms",
                     late <= base_late)
    stop(haproxy)
    idle_memory(hosts[leader], primary)


def connect(address, port, **more):
    return pymysql.connect(host=address, port=port, user="app", password="sandbox", database="shop", **more)


def idle_memory(pid, primary):
    before = resident_kib(pid)
    clients = [connect(primary, PORT) for _ in range(IDLE_CLIENTS)]
    per_client = (resident_kib(pid) - before) / IDLE_CLIENTS
    note(f"memory per idle client of {IDLE_CLIENTS}", "<= 40 KiB", f"{per_client:.1f} KiB", per_client <= 40)
    for client in clients:
        with client.cursor() as cursor:
            cursor.execute(f"SELECT REPEAT('x', {LARGE_BYTES})")
            assert len(cursor.fetchone()[0]) == LARGE_BYTES
    per_client = (resident_kib(pid) - before) / IDLE_CLIENTS
    note(f"the same after {LARGE_BYTES >> 20} MiB was read by each", "<= 40 KiB", f"{per_client:.1f} KiB",
         per_client <= 40)
    for client in clients:
        client.close()


def by_hand():
    """The same pair without Holdfast: MariaDB's own semi-sync, and what durability rests on set alike."""
    sockets = []
    for number, address in enumerate(HAND, 1):
        root = DIR / f"hand{number}"
        data, socket = root / "data", root / "s"
        root.mkdir()
        # Tablespaces, logs and accounts as a fresh installation has them.
        subprocess.run(["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", "--user=root",
                        "--auth-root-authentication-method=normal"], check=True, stdout=subprocess.DEVNULL)
        start(f"hand{number}", "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={socket}",
              f"--tmpdir={root}", f"--bind-address={address}", f"--port={HAND_PORT}", f"--server-id={number}",
              "--skip-name-resolve=1", "--max-connections=4096", "--max-binlog-size=134217728", "--character-set-server=utf8mb4",
              "--innodb-buffer-pool-size=64M", "--log-bin=binlog", "--log-slave-updates=1", "--binlog-format=ROW",
              "--relay-log=relay", "--gtid-strict-mode=1", "--sync-binlog=1", "--innodb-flush-log-at-trx-commit=1",
              "--sync-relay-log=1", "--slave-parallel-threads=4", "--slave-parallel-mode=optimistic",
              "--rpl-semi-sync-master-wait-point=AFTER_SYNC", "--rpl-semi-sync-master-timeout=4294967295")
        sockets.append(str(socket))
    primary, replica = [
        until("a server set up by hand", lambda s=s: pymysql.connect(unix_socket=s, user="root"), pymysql.Error) for s in sockets]

    def ask(server, *statements):
        with server.cursor(pymysql.cursors.DictCursor) as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall()

    ask(primary, "CREATE USER repl@'%' IDENTIFIED BY 'repl'", "GRANT REPLICATION SLAVE ON *.* TO repl@'%'",
        "CREATE DATABASE shop", "CREATE USER app@'%' IDENTIFIED BY 'sandbox'", "GRANT ALL ON shop.* TO app@'%'")
    ask(replica, "SET GLOBAL rpl_semi_sync_slave_enabled=1", "SET GLOBAL read_only=1",
        f"CHANGE MASTER TO MASTER_HOST='{HAND[0]}', MASTER_PORT={HAND_PORT}, MASTER_USER='repl', "
        "MASTER_PASSWORD='repl', MASTER_USE_GTID=slave_pos", "START SLAVE")
    ask(primary, "SET GLOBAL rpl_semi_sync_master_enabled=1")
    until("an acknowledging replica by hand",
          lambda: ask(primary, "SHOW STATUS LIKE 'Rpl_semi_sync_master_clients'")[0]["Value"] == "1")


def writes():
    process, _, leader = dev("sync")
    by_hand()
    ways = {"by hand": (HAND[0], HAND_PORT), "under Holdfast": (NODES[leader], ENGINE_PORT)}
    for address, port in ways.values():
        sysbench(address, port, "oltp_update_index", "prepare", 1)
    seen = turns(ways, "oltp_update_index", WRITERS)
    base, rate = seen["by hand"][0], seen["under Holdfast"][0]
    note(f"semi-sync updates, {WRITERS} clients: by hand", "", f"{base:.0f}/s", None)
    note(f"semi-sync updates, {WRITERS} clients: under Holdfast", ">= 0.95 x by hand",
         f"{rate:.0f}/s = {rate / base:.2f} x", rate / base >= 0.95)
    stop(process)


def main():
    load = os.getloadavg()[0]
    process, hosts, leader = dev("async")
    quiet(hosts, leader)
    proxy(hosts, leader)
    stop(process)
    writes()
    show(f"{ROUNDS} rounds of {SECONDS} s in turns, medians; load before: {load:.1f}")


run(main)
