"""`python -m deploy.privacy.step_audit`: the private training step put to the test with canaries."""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from deploy.privacy.apart import Tell, serve_request
from deploy.privacy.canaries import SPARE, run_canaries
from deploy.privacy.claims import Verdict, check_noise, check_sampling, check_sensitivity
from deploy.privacy.one_run import bound_epsilon, choose_guesses, guess_membership
from messages.experiment import Experiment
from messages.ground.units import human_seconds
from site_agent.privacy.accountant import find_epsilon

CONFIDENCE = 0.95


def audit_step(request: dict[str, Any], tell: Tell, secret: bytes | None = None) -> dict[str, Any]:
    """Run the canaries, and hold what they show against the claim.

    Args:
        request: `experiment` as plain data, `canaries`, `rounds`, `delta`, `threads`.
        secret: 32 bytes that all chances follow from; None: new ones.
    """
    torch.set_num_threads(request["threads"])
    experiment = Experiment.model_validate(request["experiment"])
    dp = experiment.privacy.dp
    if dp is None:
        raise ValueError("the experiment has no [privacy.dp]")
    canaries, rounds, delta = request["canaries"], request["rounds"], request["delta"]
    steps = rounds * dp.count_steps(experiment.training)
    tell("reckoning what the file claims")
    claimed = find_epsilon(dp.noise_multiplier, dp.sample_rate, steps, delta)
    made = choose_guesses(canaries, steps, dp.sample_rate, dp.noise_multiplier, delta, CONFIDENCE)
    began = time.monotonic()

    def tell_step(done: int) -> None:
        left = (time.monotonic() - began) / done * (steps - done)
        tell(f"canaries: step {done} of {steps}, {human_seconds(left)} left")

    trial = run_canaries(experiment, dp, canaries, rounds, secret or secrets.token_bytes(32), tell_step)
    tell("judging")
    guesses = guess_membership(trial.scores, trial.included, made)
    blocks = [np.arange(begin, begin + SPARE) for begin in range(0, trial.noise[0].size, SPARE)]
    verdicts = {
        "noise": check_noise(np.stack(trial.noise), dp.noise_multiplier, blocks),
        "sensitivity": check_sensitivity(trial.list_means(), dp.noise_multiplier),
        "sampling": check_sampling(np.stack(trial.drawn), dp.sample_rate),
    }
    lower = bound_epsilon(guesses, delta, CONFIDENCE)
    return {
        "epsilon_claimed": claimed,
        "epsilon_lower": lower,
        "delta": delta,
        "confidence": CONFIDENCE,
        **{f"{name}_ok": verdict.ok for name, verdict in verdicts.items()},
        "ok": lower <= claimed and all(verdict.ok for verdict in verdicts.values()),
        "canaries": canaries,
        "guesses": guesses.made,
        "right": guesses.right,
        "rounds": rounds,
        "steps": steps,
        "tests": {name: _describe(verdict) for name, verdict in verdicts.items()},
    }


def _describe(verdict: Verdict) -> list[dict[str, Any]]:
    return [{**asdict(one), "ok": one not in verdict.failed} for one in verdict.tests]


if __name__ == "__main__":
    raise SystemExit(serve_request(audit_step))
