"""Clients that each write a number of their own and read it back, until standard input ends; prints what they saw.

Arguments: user, password, then the proxies as ip:port. A read that does not see its connection's last acknowledged write is `stale`.
"""

import json
import random
import sys
import threading
import time

import redis

user, password, *addresses = sys.argv[1:]
seen = {"reads": 0, "writes": 0, "failed": 0, "stale": []}
lock = threading.Lock()
over = threading.Event()


def connect(number):
    ip, port = addresses[number % len(addresses)].rsplit(":", 1)
    return redis.Redis(ip, int(port), username=user, password=password, single_connection_client=True, socket_timeout=20)


def write(connection, key, value):
    """As one command, or in a transaction."""
    if random.random() < 0.2:
        with connection.pipeline(transaction=True) as pipeline:
            pipeline.set(key, value).execute()
    else:
        connection.set(key, value)


def run(number):
    key, value, connection = f"own:{number}", 0, None
    while not over.is_set():
        try:
            connection = connection or connect(number)
            value += 1
            write(connection, key, value)
            for _ in range(random.choice([1, 3])):
                time.sleep(random.choice([0, random.random() / 300]))
                got = int(connection.get(key) or 0)
                with lock:
                    seen["reads"] += 1
                    if got != value:
                        seen["stale"].append([key, got, value])
            with lock:
                seen["writes"] += 1
        except redis.RedisError as error:
            if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
                connection = None
            with lock:
                seen["failed"] += 1


threads = [threading.Thread(target=run, args=(number,)) for number in range(12)]
for thread in threads:
    thread.start()
sys.stdin.read()
over.set()
for thread in threads:
    thread.join()
print(json.dumps(seen))
