#!/usr/bin/python3
"""What the proxy costs a Redis client, beside what it stands next to, in one run on one machine; prints one table.

Machines drift and others use them too, so everything is measured in turns, and the medians' ratios are what counts.
HAProxy runs in tcp mode with its defaults, twemproxy with its own; where the engine's Unix socket is used, it is said.
Everything listens on loopback, lies in one temporary directory, and is gone at the end.

Usage: redis.py FRONT [ROUNDS [SECONDS]]; FRONT is the example `front` of the proxy, an optimised build.
"""

import csv
import io
import os
import socket
import statistics
import subprocess
import sys

from harness import DIR, run, start, until

FRONT = os.path.realpath(sys.argv[1])
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 7
SECONDS = float(sys.argv[3]) if len(sys.argv) > 3 else 3
CLIENTS, KEYS = 50, 100_000
# Requests per second on a machine like any; how long a turn takes follows from it.
RATES = {1: 60_000, 20: 800_000}
ENGINE, HAPROXY, HAPROXY_UNIX, TWEMPROXY, HOLDFAST, HOLDFAST_TCP, STATS = range(16_379, 16_386)


def answers(port):
    """True once whoever listens there passes a command on."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as client:
            client.settimeout(1)
            client.sendall(b"*2\r\n$3\r\nGET\r\n$4\r\nnone\r\n")
            return client.recv(100) == b"$-1\r\n"
    except OSError:
        return False


def benchmark(port, pipeline):
    """Requests/s of SET and of GET."""
    requests = int(RATES[pipeline] * SECONDS)
    out = subprocess.run(
        ["redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-t", "set,get", "-c", str(CLIENTS), "-P", str(pipeline),
         "-n", str(requests), "-r", str(KEYS), "--csv"], stdout=subprocess.PIPE, check=True, text=True).stdout
    rows = {row["test"]: float(row["rps"]) for row in csv.DictReader(io.StringIO(out))}
    return rows["SET"], rows["GET"]


def set_up():
    unix = DIR / "redis.sock"
    start("redis", "redis-server", "--port", ENGINE, "--bind", "127.0.0.1", "--unixsocket", unix, "--save", "",
          "--appendonly", "no", "--dir", DIR)
    haproxy = DIR / "haproxy.cfg"
    haproxy.write_text(f"""global
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
listen tcp
  bind 127.0.0.1:{HAPROXY}
  server primary 127.0.0.1:{ENGINE}
listen unix
  bind 127.0.0.1:{HAPROXY_UNIX}
  server primary unix@{unix}
""")
    start("haproxy", "haproxy", "-db", "-f", haproxy)
    twemproxy = DIR / "nutcracker.yml"
    twemproxy.write_text(f"""pool:
  listen: 127.0.0.1:{TWEMPROXY}
  redis: true
  hash: fnv1a_64
  servers:
   - 127.0.0.1:{ENGINE}:1
""")
    start("nutcracker", "nutcracker", "-c", twemproxy, "-a", "127.0.0.1", "-s", STATS, "-i", "60000")
    start("front", FRONT, "redis", f"127.0.0.1:{HOLDFAST}", f"127.0.0.1:{ENGINE}", "default", "", unix)
    start("front-tcp", FRONT, "redis", f"127.0.0.1:{HOLDFAST_TCP}", f"127.0.0.1:{ENGINE}", "default", "")


def main():
    load = os.getloadavg()[0]
    set_up()
    ways = {"direct": ENGINE, "HAProxy": HAPROXY, "HAProxy, Unix socket": HAPROXY_UNIX, "twemproxy": TWEMPROXY,
            "Holdfast": HOLDFAST, "Holdfast, TCP": HOLDFAST_TCP}
    until("everybody to answer", lambda: all(answers(port) for port in ways.values()))
    print(f"{CLIENTS} clients, {ROUNDS} rounds of about {SECONDS:g} s in turns, medians; load before: {load:.1f}")
    missed = False
    for pipeline in RATES:
        seen = {name: [] for name in ways}
        for turn in range(ROUNDS):
            # Who follows whom must not decide.
            order = list(ways) if turn % 2 == 0 else list(reversed(ways))
            for name in order:
                seen[name].append(benchmark(ways[name], pipeline))
        for at, command in enumerate(("SET", "GET")):
            rate = {name: statistics.median(row[at] for row in rows) for name, rows in seen.items()}
            for name in ways:
                to_haproxy, to_direct = rate[name] / rate["HAProxy"], rate[name] / rate["direct"]
                target = ""
                if name == "Holdfast":
                    met = to_haproxy >= 1.1 and (pipeline == 1 or to_direct >= 0.95)
                    missed |= not met
                    wanted = ">= 1.1 x HAProxy" + ("" if pipeline == 1 else ", >= 0.95 x direct")
                    target = f"{wanted}: {'met' if met else 'missed'}"
                print(f"{command}, {pipeline:2} per pipeline  {name:21} {rate[name]:9.0f}/s  {to_haproxy:.2f} x HAProxy"
                      f"  {to_direct:.2f} x direct  {target}".rstrip())
    return missed


sys.exit("a target was missed" if run(main) else 0)
