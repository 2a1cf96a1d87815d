"""The linear model with TensorFlow and Keras: one dense layer."""

import keras
import konsil_trainer
import numpy as np


def build(model):
    net = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    net.set_weights([model["weight"], model["bias"]])
    return net


def train(task, model, inputs, truths):
    settings, net = task.training, build(model)
    keras.utils.set_random_seed(task.seed)
    net.compile(optimizer=keras.optimizers.SGD(settings["learning_rate"]), loss="mse")

    def tell(epoch, logs):
        task.report(epoch + 1, settings["epochs"], logs["loss"])

    told = keras.callbacks.LambdaCallback(on_epoch_end=tell)
    fitted = net.fit(
        inputs, truths, batch_size=settings["batch"], epochs=settings["epochs"], verbose=0, callbacks=[told]
    )
    weight, bias = net.get_weights()
    steps = settings["epochs"] * -(-len(inputs) // settings["batch"])
    result = {"steps": steps, "epochs": settings["epochs"], "loss": np.mean(fitted.history["loss"])}
    return {"weight": weight, "bias": bias}, result


def predict(task, model, inputs):
    return build(model).predict(inputs, verbose=0)


konsil_trainer.run(train, predict)
