"""The same as `chain_responses.py` with the published SDK, in its own environment: all that it knows of a response."""

import json
import sys
import time

from ogpu import ChainConfig
from ogpu.protocol import Task


def main() -> None:
    url, task = sys.argv[1:]
    ChainConfig.set_rpc(url)
    began, worked = time.perf_counter(), time.process_time()
    snapshots = [response.snapshot() for response in Task(task).get_responses()]
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    read = [
        [one.address, one.task, one.params.provider, one.data, one.params.payment, int(one.status), one.timestamp,
         one.confirmed]
        for one in snapshots
    ]  # fmt: skip
    print(json.dumps({"seconds": seconds, "cpu": cpu, "read": read}))


if __name__ == "__main__":
    main()
