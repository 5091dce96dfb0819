"""Writes a counter to the primary that redis-py's Sentinel client finds, for ever; prints each number that was acknowledged.

Arguments: service, user, password, key, then the Sentinels as ip:port.
"""

import itertools
import sys
import time

from redis.exceptions import RedisError
from redis.sentinel import Sentinel

service, user, password, key, *addresses = sys.argv[1:]
sentinels = [(ip, int(port)) for ip, port in (address.rsplit(":", 1) for address in addresses)]
primary = Sentinel(sentinels, socket_timeout=2).master_for(service, username=user, password=password, socket_timeout=2)
for number in itertools.count(1):
    try:
        primary.set(key, number)
        print(number, flush=True)
    except RedisError as error:
        print(f"redis-py: {error!r}", file=sys.stderr, flush=True)
        time.sleep(0.05)
    time.sleep(0.01)
