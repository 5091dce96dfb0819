#!/usr/bin/python3 -P
"""Sentinel and Holdfast beside each other: what a killed primary and one that is cut off with a client of its own cost.

Three hosts, each a network namespace with a Redis server and a Sentinel, and one namespace for clients; then the same faults
by `holdfast drill`. Clients write distinct keys, one command at a time, and keep what was acknowledged; afterwards every such
key is looked for on the primary. Root, Debian's redis-server and python3-redis; loopback and own namespaces only.

    bench/sentinel.py [--rounds N] [--slow-rounds N] [--faults kill partition] [--holdfast target/release/holdfast]
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

NET = "10.79.0"
HOSTS = {"sa": f"{NET}.1", "sb": f"{NET}.2", "sc": f"{NET}.3"}
APP, BRIDGE, NAME = "sapp", "sbr", "shop"
PORT, SENTINEL_PORT = 6379, 26379
WRITERS = 4
STANDS_WITHIN_S = 60
BEFORE_S, CUT_S = 2, 8


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def inside(space, *command, **more):
    return subprocess.Popen(["ip", "netns", "exec", space, *command], stdout=subprocess.DEVNULL, **more)


# ---- a writer, in a process of its own ----


def write(out, host, until):
    """Writes until the file `until` exists. `host`: through its Sentinel alone; else through all."""
    import redis
    from redis.sentinel import Sentinel

    asked = [host] if host != "-" else list(HOSTS.values())
    sentinel = Sentinel([(h, SENTINEL_PORT) for h in asked], socket_timeout=0.3)
    primary = sentinel.master_for(NAME, socket_timeout=0.5, retry_on_timeout=False)
    acked = []

    def one(writer):
        n = 0
        while not os.path.exists(until):
            n += 1
            key = f"{os.getpid()}:{writer}:{n}"
            try:
                primary.set(key, "x")
                acked.append((time.monotonic(), key))
            except redis.RedisError:
                time.sleep(0.01)

    threads = [threading.Thread(target=one, args=(w,)) for w in range(WRITERS)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    with open(out, "w") as f:
        json.dump(acked, f)


# ---- the stage ----


@contextlib.contextmanager
def network():
    spaces = {**HOSTS, APP: f"{NET}.9"}
    try:
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "link", "set", BRIDGE, "up")
        for space, address in spaces.items():
            run("ip", "netns", "add", space)
            run("ip", "link", "add", f"v{space}", "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "set", f"v{space}", "master", BRIDGE, "up")
            run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")
            run("ip", "-n", space, "link", "set", "lo", "up")
        yield
    finally:
        for space in spaces:
            # A namespace goes some time after its name.
            subprocess.run(["ip", "link", "del", f"v{space}"], capture_output=True)
            subprocess.run(["ip", "netns", "del", space], capture_output=True)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)


def ask(space, port, *words):
    command = ["ip", "netns", "exec", space, "redis-cli", "-h", HOSTS.get(space, HOSTS["sa"]), "-p", str(port), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.split("\n")


def info(space):
    return dict(line.strip().split(":", 1) for line in ask(space, PORT, "INFO", "replication") if ":" in line)


def start(directory, space, primary, down_after_ms):
    home = os.path.join(directory, space)
    os.makedirs(home, exist_ok=True)
    conf = os.path.join(home, "sentinel.conf")
    with open(conf, "w") as f:
        f.write(
            f"port {SENTINEL_PORT}\nprotected-mode no\ndir {home}\n"
            f"sentinel monitor {NAME} {HOSTS['sa']} {PORT} 2\n"
            f"sentinel down-after-milliseconds {NAME} {down_after_ms}\n"
        )
    sentinel = inside(space, "redis-server", conf, "--sentinel")
    return server(home, space, primary), sentinel


def server(home, space, primary=None):
    options = ["--port", str(PORT), "--protected-mode", "no", "--save", "", "--dir", home, "--repl-diskless-sync-delay", "0"]
    return inside(space, "redis-server", *options, *(["--replicaof", primary, str(PORT)] if primary else []))


def wait(what, test):
    until = time.monotonic() + STANDS_WITHIN_S
    while not test():
        if time.monotonic() > until:
            sys.exit(f"{what}: not within {STANDS_WITHIN_S} s")
        time.sleep(0.1)


def whole():
    states = {space: info(space) for space in HOSTS}
    primaries = [s for s, i in states.items() if i.get("role") == "master"]
    return primaries[0] if len(primaries) == 1 and states[primaries[0]].get("connected_slaves") == "2" else None


def sentinels_know():
    return all("num-other-sentinels\n2" in "\n".join(ask(s, SENTINEL_PORT, "SENTINEL", "master", NAME)) and
               "num-slaves\n2" in "\n".join(ask(s, SENTINEL_PORT, "SENTINEL", "master", NAME)) for s in HOSTS)


def sentinel_round(fault, down_after_ms):
    processes = []
    with tempfile.TemporaryDirectory() as directory, network():
        try:
            for space in HOSTS:
                processes += start(directory, space, None if space == "sa" else HOSTS["sa"], down_after_ms)
            wait("replication", whole)
            wait("Sentinels that know each other", sentinels_know)
            stop = os.path.join(directory, "stop")
            outs = {"app": os.path.join(directory, "app.json")}
            writers = [inside(APP, sys.executable, "-P", __file__, "--write", outs["app"], "-", stop)]
            processes += writers
            if fault == "partition":
                outs["own"] = os.path.join(directory, "own.json")
                writers.append(inside("sa", sys.executable, "-P", __file__, "--write", outs["own"], HOSTS["sa"], stop))
                processes.append(writers[1])
            time.sleep(BEFORE_S)
            if fault == "kill":
                processes[0].send_signal(signal.SIGKILL)
                processes[0].wait()
                changed = lambda: any(info(s).get("role") == "master" for s in ("sb", "sc"))
                wait("a new primary", changed)
                time.sleep(BEFORE_S)
                processes.append(server(os.path.join(directory, "sa"), "sa"))
            else:
                run("ip", "link", "set", "vsa", "down")
                time.sleep(max(CUT_S, down_after_ms / 1000 + CUT_S))
                run("ip", "link", "set", "vsa", "up")
            wait("one primary and two replicas", whole)
            open(stop, "w").close()
            [w.wait(timeout=30) for w in writers]
            acked = {k: json.load(open(f)) for k, f in outs.items()}
            times = sorted(t for t, _ in acked["app"])
            keys = [k for of in acked.values() for _, k in of]
            primary = whole()
            there = set(ask(primary, PORT, "--raw", "KEYS", "*"))
            return {
                "outage_ms": round(1000 * max(b - a for a, b in zip(times, times[1:]))),
                "acked": len(keys),
                "lost": sum(k not in there for k in keys),
            }
        finally:
            for p in processes:
                p.kill()
                p.wait()


def holdfast_rounds(program, drill, rounds):
    with tempfile.TemporaryDirectory() as directory:
        command = [program, "drill", "run", drill, "--engine", "redis", "--rounds", str(rounds), "--dir", directory + "/d", "-o", "json"]
        return json.loads(subprocess.run(command, capture_output=True, text=True).stdout)["rounds"]


def row(what, who, rounds):
    outages = [r["outage_ms"] for r in rounds]
    line = (what, who, len(rounds), round(statistics.median(outages)), max(outages), sum(r["acked"] for r in rounds), sum(r["lost"] for r in rounds))
    print("| " + " | ".join(map(str, line)) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow-rounds", type=int, default=2, help="of Sentinel's default, 30 s of silence")
    parser.add_argument("--holdfast", default="target/release/holdfast")
    parser.add_argument("--faults", nargs="+", choices=("kill", "partition"), default=("kill", "partition"))
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        return write(*args.write)
    print("| fault | by | rounds | outage ms, median | worst | acknowledged | of these lost |\n|---|---|---|---|---|---|---|")
    drills = {"kill": "kill-engine", "partition": "partition-primary"}
    for fault in args.faults:
        drill = drills[fault]
        row(fault, "Holdfast, sync", holdfast_rounds(args.holdfast, drill, args.rounds))
        row(fault, "Sentinel, down-after 1000", [sentinel_round(fault, 1000) for _ in range(args.rounds)])
        row(fault, "Sentinel, default", [sentinel_round(fault, 30000) for _ in range(args.slow_rounds)])


main()
