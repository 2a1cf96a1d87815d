"""The linear model with scikit-learn: stochastic gradient descent on squared errors, one pass a fit."""

import konsil_trainer
import numpy as np
from sklearn.linear_model import SGDRegressor


def train(task, model, inputs, truths):
    settings = task.training
    regressor = SGDRegressor(
        penalty=None,
        learning_rate="constant",
        eta0=settings["learning_rate"],
        max_iter=1,
        tol=None,
        random_state=task.seed,
    )
    losses = []
    weight, bias = model["weight"].ravel().astype(float), model["bias"].astype(float)
    for epoch in range(settings["epochs"]):
        losses.append(float(np.mean((inputs @ weight + bias - truths[:, 0]) ** 2)))
        regressor.fit(inputs, truths[:, 0], coef_init=weight, intercept_init=bias)
        weight, bias = regressor.coef_, regressor.intercept_
        task.report(epoch + 1, settings["epochs"], losses[-1])
    result = {"steps": settings["epochs"] * len(inputs), "epochs": settings["epochs"], "loss": np.mean(losses)}
    return {"weight": weight.reshape(2, 1), "bias": bias}, result


def predict(task, model, inputs):
    return inputs @ model["weight"] + model["bias"]


konsil_trainer.run(train, predict)
