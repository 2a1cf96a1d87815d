"""What a Flower ServerApp and ClientApp run in this benchmark; imports Flower's world.

Flower's own FedAvg; its evaluate_fn, called once a round's aggregate is the global model, stamps the round.
"""

import json
import time

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()


@server.main()
def serve(grid, context):
    """All rounds, from tensors of noise: they do not compress."""
    run = context.run_config
    clients, tensors = int(run["clients"]), int(run["tensors"])
    random = np.random.default_rng(1)
    arrays = {f"t{k}": random.standard_normal(int(run["numbers"]), dtype=np.float32) for k in range(tensors)}
    first = _sum(arrays)

    def stamp(number, record):
        at = time.monotonic()
        if number:
            last = {name: array.numpy() for name, array in record.items()}
            line = {"round": number, "at": at, "added": (_sum(last) - first) / tensors}
            with open(run["stamps"], "a") as file:
                file.write(json.dumps(line) + "\n")

    strategy = FedAvg(
        fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients, weighted_by_key="cases"
    )
    initial = ArrayRecord({name: Array(array) for name, array in arrays.items()})
    del arrays
    strategy.start(grid=grid, initial_arrays=initial, num_rounds=int(run["rounds"]), evaluate_fn=stamp)


@client.train()
def train(message, context):
    """Adds the site's number to every number."""
    constant = np.float32(context.node_config["site"])
    arrays = message.content["arrays"]
    update = ArrayRecord({name: Array(array.numpy() + constant) for name, array in arrays.items()})
    return Message(RecordDict({"arrays": update, "metrics": MetricRecord({"cases": 1})}), reply_to=message)


def _sum(arrays) -> float:
    return sum(float(array[-1]) for array in arrays.values())
