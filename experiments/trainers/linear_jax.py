"""The linear model with JAX: gradient descent on batches, compiled."""

import jax
import jax.numpy as jnp
import konsil_trainer
import numpy as np


def mean_square(model, inputs, truths):
    return jnp.mean((inputs @ model["weight"] + model["bias"] - truths) ** 2)


@jax.jit
def descend(model, inputs, truths, rate):
    loss, gradient = jax.value_and_grad(mean_square)(model, inputs, truths)
    return jax.tree.map(lambda one, slope: one - rate * slope, model, gradient), loss


def train(task, model, inputs, truths):
    settings, drawn, losses = task.training, np.random.default_rng(task.seed), []
    model = {name: jnp.asarray(array) for name, array in model.items()}
    for epoch in range(settings["epochs"]):
        order = drawn.permutation(len(inputs))
        for start in range(0, len(order), settings["batch"]):
            batch = order[start : start + settings["batch"]]
            model, loss = descend(model, inputs[batch], truths[batch], settings["learning_rate"])
            losses.append(float(loss))
        task.report(epoch + 1, settings["epochs"], losses[-1])
    return model, {"steps": len(losses), "epochs": settings["epochs"], "loss": np.mean(losses)}


def predict(task, model, inputs):
    return jnp.asarray(inputs) @ model["weight"] + model["bias"]


konsil_trainer.run(train, predict)
