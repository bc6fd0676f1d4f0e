"""Reads all responses of a task once, with `chain.client`: seconds and what was read, as JSON.

python -m benchmarks.chain_responses RPC_URL TASK
"""

import json
import sys
import time

from chain.client import ChainId, Network, get_task_responses


def main() -> None:
    url, task = sys.argv[1:]
    network = Network("bench", chain_id=ChainId.LOCAL.value, rpc_url=url)
    began, worked = time.perf_counter(), time.process_time()
    responses = get_task_responses(task, network=network)
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    read = [
        [
            one.address,
            one.task,
            one.provider,
            one.data,
            one.payment,
            int(one.status),
            one.timestamp,
            one.confirmed,
        ]
        for one in responses
    ]
    print(json.dumps({"seconds": seconds, "cpu": cpu, "read": read}))


if __name__ == "__main__":
    main()
