"""The linear model with PaddlePaddle: one linear layer."""

import konsil_trainer
import numpy as np
import paddle


def build(model):
    net = paddle.nn.Linear(2, 1)
    net.set_state_dict({name: paddle.to_tensor(array) for name, array in model.items()})
    return net


def train(task, model, inputs, truths):
    settings, net, drawn, losses = task.training, build(model), np.random.default_rng(task.seed), []
    optimizer = paddle.optimizer.SGD(settings["learning_rate"], parameters=net.parameters())
    for epoch in range(settings["epochs"]):
        order = drawn.permutation(len(inputs))
        for start in range(0, len(order), settings["batch"]):
            batch = order[start : start + settings["batch"]]
            found = net(paddle.to_tensor(inputs[batch]))
            loss = paddle.nn.functional.mse_loss(found, paddle.to_tensor(truths[batch]))
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            losses.append(float(loss))
        task.report(epoch + 1, settings["epochs"], losses[-1])
    tensors = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    return tensors, {"steps": len(losses), "epochs": settings["epochs"], "loss": np.mean(losses)}


def predict(task, model, inputs):
    return build(model)(paddle.to_tensor(inputs)).numpy()


konsil_trainer.run(train, predict)
