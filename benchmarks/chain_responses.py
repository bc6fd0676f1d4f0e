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
    began = time.perf_counter()
    responses = get_task_responses(task, network=network)
    seconds = time.perf_counter() - began
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
    print(json.dumps({"seconds": seconds, "read": read}))


if __name__ == "__main__":
    main()
