#!/usr/bin/python3
"""Read/write splitting by Holdfast and by MySQL Router, beside each other on three MySQL instances; prints one table.

Machines drift and others use them too, so everything is measured in turns, and the medians' ratios are what counts. A
deployment has one `read_consistency`, so each of them is one of its own, in which Holdfast, Router and the bare primary
take turns. Before each turn replicas catch up. Where reads really went is counted by the engines (`Com_select`, those
that wait for a write included).

Router splits with `access_mode=auto`, and that only by metadata as MySQL Shell writes them (a static list of destinations
is refused). No Shell is needed: this writes the few tables that Router reads of an asynchronous ReplicaSet. As Router waits
for the writes of its session (`wait_for_my_writes`, on by default, for 1 s, then the primary), its equal is `session`.
It is given what suits it: its threads as by default (one per processor), a pool that holds every connection, text rather
than prepared statements (it keeps all on the primary from the first prepared one on; one test shows that), and an account
without password: it shares connections only if it knows the password, which it learns by TLS or if there is none. Nobody
uses TLS here. Router reaches the primary by TCP, Holdfast the one on its own host by its Unix socket.
Everything listens on loopback, lies in one temporary directory, and is gone at the end.

Usage: router.py HOLDFAST PROGRAMS [ROUNDS [SECONDS]]; PROGRAMS has mysqld and mysqlrouter as `make engines` lays them out
"""

import collections
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

import pymysql

from harness import DIR, WAIT_S, note, run, show, start, stop, until

HOLDFAST = os.path.realpath(sys.argv[1])
PROGRAMS = pathlib.Path(sys.argv[2]).resolve()
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
SECONDS = int(sys.argv[4]) if len(sys.argv) > 4 else 4
THREADS, POOLED = 16, 64
TRIES = 5
PORT, ENGINE_PORT, ROUTER_PORT = 14306, 14308, 14310
NODES = {"a": "127.0.0.11", "b": "127.0.0.12", "c": "127.0.0.13"}
CONSISTENCIES, EQUAL, LEAST = ["strong", "session", "eventual"], "session", 1.3
TEXT = "--db-ps-mode=disable"
# What is measured, sysbench's arguments, and whether both split it, so that there is a target.
TESTS = [
    ("read-only", ["oltp_read_only", "--skip-trx=on", TEXT], True),
    ("read/write", ["oltp_read_write", "--skip-trx=on", TEXT], True),
    ("read/write in transactions", ["oltp_read_write", TEXT], False),
    ("read-only, prepared", ["oltp_read_only", "--skip-trx=on"], False),
]
META = "mysql_innodb_cluster_metadata"
# Clients' accounts: Holdfast's, and one that Router can log in as again.
APP, PLAIN = {"user": "app", "password": "sandbox"}, {"user": "plain", "password": ""}

FAILED = collections.Counter()


def asked(statement, **where):
    # Without autocommit all is in a transaction, and those nobody splits.
    with pymysql.connect(**where, autocommit=True) as server, server.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()


def root(consistency, node):
    return {"unix_socket": str(DIR / consistency / node / "shop/run/db.sock"), "user": "root"}


def selects(consistency):
    return {node: int(asked("SHOW GLOBAL STATUS LIKE 'Com_select'", **root(consistency, node))[1]) for node in NODES}


def sysbench(address, port, account, test, command):
    """Queries/s and the 99th percentile of the latency in ms; None if a statement failed."""
    # Without transactions two clients can insert the same row: no error for a benchmark.
    out = subprocess.run(
        ["sysbench", "--db-driver=mysql", f"--mysql-host={address}", f"--mysql-port={port}",
         f"--mysql-user={account['user']}", f"--mysql-password={account['password']}", "--mysql-db=shop",
         "--mysql-ignore-errors=1020,1062,1205,1213", "--tables=1", "--table-size=10000", f"--time={SECONDS}",
         f"--threads={THREADS if command == 'run' else 1}", "--percentile=99", *test, command],
        stdout=subprocess.PIPE, text=True)
    if out.returncode:
        print(f"{out.stdout}\n{test} at {address}:{port} failed", file=sys.stderr)
        return None
    rate = re.search(r"queries:\s+\d+\s+\(([\d.]+)", out.stdout)
    late = re.search(r"99th percentile:\s+([\d.]+)", out.stdout)
    return (float(rate[1]), float(late[1])) if rate and late else None


def settle(consistency, leader):
    """Waits until replicas have what the turn before wrote: nobody pays for another's writes."""
    written = asked("SELECT @@gtid_executed", **root(consistency, leader))[0]
    for node in NODES:
        asked(f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{written}', {WAIT_S})", **root(consistency, node))


def sure(name, way, test):
    """A turn that went well. Router now and then fails a new connection (`no more destinations`): counted and repeated."""
    for _ in range(TRIES):
        if measured := sysbench(*way, test, "run"):
            return measured
        FAILED[name] += 1
    sys.exit(f"{name} fails; the logs' ends:\n{ends_of_logs()}")


def turns(consistency, leader, ways, test):
    """Rounds in which each way has its turn: median rate, 99th percentile, and share of reads on replicas, of each."""
    seen = {name: [] for name in ways}
    for turn in range(ROUNDS):
        # Who follows whom must not decide.
        for name in ways if turn % 2 == 0 else reversed(ways):
            settle(consistency, leader)
            before = selects(consistency)
            rate, late = sure(name, ways[name], test)
            read = {node: count - before[node] for node, count in selects(consistency).items()}
            seen[name].append((rate, late, 1 - read[leader] / sum(read.values())))
    return {name: tuple(statistics.median(column) for column in zip(*rows)) for name, rows in seen.items()}


def dev(consistency):
    """Three nodes: the process, and which of them leads."""
    process = start(f"dev-{consistency}", HOLDFAST, "dev", "--engine", "mysql", "--programs", PROGRAMS,
                    "--dir", DIR / consistency, "--nodes", len(NODES), "--durability", "async", "--port", PORT,
                    "--read-consistency", consistency)
    until("a healthy service", lambda: "\nHealthy" in (DIR / f"dev-{consistency}.log").read_text())
    return process, asked("SELECT @@report_host", host=NODES["a"], port=PORT, **APP)[0]


def metadata(consistency, leader):
    """What Router asks for: who there is (`v2_instances`), in which role (`v2_ar_members`), and who answers."""
    statements = [
        f"CREATE SCHEMA {META}",
        f"CREATE VIEW {META}.schema_version (major, minor, patch) AS SELECT 2, 2, 0",
        f"CREATE TABLE {META}.v2_ar_clusters (cluster_id CHAR(36) PRIMARY KEY, cluster_name VARCHAR(40))",
        f"CREATE TABLE {META}.v2_instances (instance_id INT PRIMARY KEY, cluster_id CHAR(36), label VARCHAR(99), "
        "endpoint VARCHAR(99), xendpoint VARCHAR(99), attributes JSON)",
        f"CREATE TABLE {META}.v2_ar_members (instance_id INT PRIMARY KEY, cluster_id CHAR(36), member_id CHAR(36), "
        "member_role VARCHAR(9), view_id INT)",
        f"CREATE VIEW {META}.v2_this_instance AS SELECT cluster_id, instance_id, cluster_name, 'ar' AS cluster_type "
        f"FROM {META}.v2_ar_members JOIN {META}.v2_ar_clusters USING (cluster_id) WHERE member_id = (SELECT "
        "variable_value FROM performance_schema.global_variables WHERE variable_name = 'server_uuid')",
        f"CREATE TABLE {META}.v2_routers (router_id INT PRIMARY KEY, address VARCHAR(99), router_name VARCHAR(99), "
        "version VARCHAR(99), last_check_in TIMESTAMP NULL, attributes JSON, options JSON, cluster_id CHAR(36))",
        f"CREATE TABLE {META}.v2_router_options (router_id INT PRIMARY KEY, router_options JSON)",
        f"INSERT INTO {META}.v2_ar_clusters VALUES ('bench', 'bench')",
        f"INSERT INTO {META}.v2_routers (router_id, address, router_name) VALUES (1, '{NODES[leader]}', 'bench')",
        f"INSERT INTO {META}.v2_router_options VALUES (1, '{{}}')",
        "CREATE USER router IDENTIFIED BY 'sandbox'",
        f"GRANT SELECT ON {META}.* TO router", f"GRANT UPDATE ON {META}.v2_routers TO router",
        "GRANT SELECT ON performance_schema.global_variables TO router",
        "CREATE USER plain", "GRANT ALL ON shop.* TO plain"]
    for number, (node, address) in enumerate(NODES.items(), 1):
        uuid = asked("SELECT @@server_uuid", **root(consistency, node))[0]
        role = "PRIMARY" if node == leader else "SECONDARY"
        statements += [
            f"INSERT INTO {META}.v2_instances VALUES ({number}, 'bench', '{node}', '{address}:{ENGINE_PORT}', NULL, '{{}}')",
            f"INSERT INTO {META}.v2_ar_members VALUES ({number}, 'bench', '{uuid}', '{role}', 1)",
        ]
    with pymysql.connect(**root(consistency, leader), autocommit=True) as primary, primary.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def keyring(home):
    """The password of Router's own account. Its program lies beside mysqlrouter and is started as that is."""
    wrapper = (PROGRAMS / "mysqlrouter").read_text().replace("bin/mysqlrouter", "bin/mysqlrouter_keyring")
    for command in (["init", home / "keyring"], ["set", home / "keyring", "router", "password", "sandbox"]):
        subprocess.run(["sh", "-c", wrapper, PROGRAMS / "mysqlrouter", *command, f"--master-key-file={home}/master"],
                       check=True, stdin=subprocess.DEVNULL)


def router(consistency, leader):
    home = DIR / f"router-{consistency}"
    home.mkdir()
    metadata(consistency, leader)
    keyring(home)
    servers = [f"mysql://{address}:{ENGINE_PORT}" for address in NODES.values()]
    (home / "state.json").write_text(
        json.dumps({"metadata-cache": {"cluster-metadata-servers": servers}, "version": "1.0.0"}))
    (home / "router.conf").write_text(f"""[DEFAULT]
plugin_folder={PROGRAMS.parent}/usr/lib/mysqlrouter/plugin
runtime_folder={home}
data_folder={home}
logging_folder=
dynamic_state={home}/state.json
keyring_path={home}/keyring
master_key_path={home}/master
[logger]
level=WARNING
[metadata_cache:bench]
cluster_type=rs
router_id=1
user=router
ttl=5
[connection_pool]
max_idle_server_connections={POOLED}
[routing:split]
bind_address={NODES[leader]}
bind_port={ROUTER_PORT}
destinations=metadata-cache://bench/?role=PRIMARY_AND_SECONDARY
routing_strategy=round-robin
protocol=classic
access_mode=auto
connection_sharing=1
client_ssl_mode=DISABLED
server_ssl_mode=DISABLED
""")
    process = start(f"router-{consistency}", PROGRAMS / "mysqlrouter", "-c", home / "router.conf")
    until("Router to split", lambda: asked(
        "SELECT @@report_host", host=NODES[leader], port=ROUTER_PORT, **PLAIN)[0] != leader, pymysql.Error)
    return process


def compare(consistency):
    service, leader = dev(consistency)
    splitter, primary = router(consistency, leader), NODES[leader]
    ways = {"direct": (primary, ENGINE_PORT, APP), "Router": (primary, ROUTER_PORT, PLAIN),
            "Holdfast": (primary, PORT, APP)}
    sysbench(*ways["direct"], TESTS[0][1], "prepare")
    for what, test, both_split in TESTS:
        seen = turns(consistency, leader, ways, test)
        base_rate, base_late, _ = seen["Router"]
        for name, (rate, late, away) in seen.items():
            aim = name == "Holdfast" and consistency == EQUAL and both_split
            title = f"{what}: {name}" + (f", {consistency}" if name == "Holdfast" else "")
            note(title, f">= {LEAST} x Router" if aim else "",
                 f"{rate:.0f}/s = {rate / base_rate:.2f} x, 99th percentile {late:.1f} ms, {100 * away:.0f} % of reads on replicas",
                 rate / base_rate >= LEAST if aim else None)
            if aim:
                note(f"{what}: 99th percentile", "<= Router's", f"{late:.2f} ms, Router {base_late:.2f} ms", late <= base_late)
    stop(splitter)
    stop(service)


def main():
    load = os.getloadavg()[0]
    for consistency in CONSISTENCIES:
        compare(consistency)
    for name, count in FAILED.items():
        print(f"{count} turns of {name} ended with an error and were repeated")
    show(f"{THREADS} clients, {ROUNDS} rounds of {SECONDS} s in turns, medians; load before: {load:.1f}")


run(main)
