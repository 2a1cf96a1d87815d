"""What a FLARE site and server run in this benchmark; installed into the job as custom code, imports FLARE's world.

Deliberately on FLARE's lowest rungs (an Executor instead of the Client API, no persistor): nothing is spent on comfort.
"""

import json
import time

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.executor import Executor
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.workflows.fedavg import FedAvg


class NullFedAvg(FedAvg):
    """FLARE's FedAvg with a made-up initial model; where FLARE would save the model it stamps the round."""

    def __init__(self, tensors: int, numbers: int, stamps: str, **more):
        super().__init__(persistor_id="", **more)
        self._tensors, self._numbers, self._stamps = tensors, numbers, stamps
        self._first = 0.0

    def load_model(self):
        """Tensors of noise: they do not compress."""
        random = np.random.default_rng(1)
        params = {f"t{k}": random.standard_normal(self._numbers, dtype=np.float32) for k in range(self._tensors)}
        self._first = _sum(params)
        return FLModel(params_type=ParamsType.FULL, params=params)

    def save_model(self, model):
        """Called once the round's aggregate is the global model."""
        at = time.monotonic()
        line = {"round": self.current_round + 1, "at": at, "added": (_sum(model.params) - self._first) / self._tensors}
        with open(self._stamps, "a") as file:
            file.write(json.dumps(line) + "\n")


class AddConstant(Executor):
    """Adds the number in the site's name to every number."""

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        """One round."""
        weights = from_shareable(shareable).data
        constant = np.float32(fl_ctx.get_identity_name().rpartition("-")[2])
        for tensor in weights.values():
            tensor += constant
        return DXO(DataKind.WEIGHTS, data=weights, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: 1}).to_shareable()


def _sum(params) -> float:
    return sum(float(tensor[-1]) for tensor in params.values())
