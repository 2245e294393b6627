"""Trains the network of this example and writes model.onnx, calibration.npz, test.npz and reference.npz beside itself.

    python3 -m venv .venv && .venv/bin/pip install -r requirements.txt
    .venv/bin/python train.py

The network takes pixels as they are (0 to 255): the factor 1/255 is in the weights of the first convolution, so a device
does not normalise anything. Seeds are fixed; the weights still differ in their last bits between processors.
"""

import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import nn

from data import CLASSES, samples

CHANNELS = (24, 32, 32, 48, 48)
STRIDES = (1, 2, 1, 1)
TRAINING_SAMPLES, EPOCHS, BATCH = 30000, 12, 64


class Separable(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, each with batch norm and Relu."""

    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.depthwise = nn.Conv2d(channels_in, channels_in, 3, stride, 1, groups=channels_in, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(channels_in)
        self.pointwise = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        x = torch.relu(self.depthwise_norm(self.depthwise(x)))
        return torch.relu(self.pointwise_norm(self.pointwise(x)))


class Separated(nn.Module):
    """DS-CNN (Zhang et al. 2017, "Hello Edge"), sized for 28x28 grey images."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, CHANNELS[0], 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(CHANNELS[0])
        self.blocks = nn.ModuleList(
            Separable(channels_in, channels, stride)
            for channels_in, channels, stride in zip(CHANNELS, CHANNELS[1:], STRIDES)
        )
        self.head = nn.Linear(CHANNELS[-1], len(CLASSES))

    def forward(self, x):
        x = torch.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))


def train():
    torch.manual_seed(1)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images, labels = samples(TRAINING_SAMPLES, seed=100)
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    network = Separated()
    steps = len(labels) // BATCH
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.15, epochs=EPOCHS, steps_per_epoch=steps)
    for epoch in range(EPOCHS):
        network.train()
        order = torch.randperm(len(labels))
        total = 0.0
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            batch = images[chosen].float() / 255.0
            loss = nn.functional.cross_entropy(network(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {total / steps:.4f}", file=sys.stderr, flush=True)
    return network.eval()


class Writer:
    """Collects ONNX nodes and weights under readable names."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def node(self, operator, name, inputs, output=None, **attributes):
        output = output or f"{name}.out"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))
        return output

    def weight(self, name, tensor):
        array = np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, name, layer, x, factor=1.0):
        operands = [x, self.weight(f"{name}.weight", layer.weight * factor)]
        if layer.bias is not None:
            operands.append(self.weight(f"{name}.bias", layer.bias))
        pads = [layer.padding[0], layer.padding[1]] * 2
        return self.node(
            "Conv", name, operands, kernel_shape=list(layer.kernel_size), strides=list(layer.stride), pads=pads,
            group=layer.groups,
        )

    def norm(self, name, layer, x):
        statistics = {
            "scale": layer.weight, "bias": layer.bias, "mean": layer.running_mean, "variance": layer.running_var,
        }
        operands = [self.weight(f"{name}.{label}", tensor) for label, tensor in statistics.items()]
        return self.node("BatchNormalization", name, [x, *operands], epsilon=layer.eps)

    def linear(self, name, layer, x, output):
        operands = [self.weight(f"{name}.weight", layer.weight), self.weight(f"{name}.bias", layer.bias)]
        return self.node("Gemm", name, [x, *operands], output, transB=1)


def export(network, path):
    """Writes the network as ONNX opset 17, one sample at a time."""
    to = Writer()
    x = to.norm("stem.norm", network.stem_norm, to.conv("stem", network.stem, "image", factor=1.0 / 255.0))
    x = to.node("Relu", "stem.relu", [x])
    for index, block in enumerate(network.blocks):
        for label in ("depthwise", "pointwise"):
            name = f"block{index + 1}.{label}"
            x = to.norm(f"{name}.norm", getattr(block, f"{label}_norm"), to.conv(name, getattr(block, label), x))
            x = to.node("Relu", f"{name}.relu", [x])
    x = to.node("Flatten", "flatten", [to.node("GlobalAveragePool", "pool", [x])])
    to.linear("head", network.head, x, "scores")
    to.node("Softmax", "softmax", ["scores"], "probabilities", axis=1)
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 1, 28, 28])
    answer = helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, [1, len(CLASSES)])
    graph = helper.make_graph(to.nodes, "digits", [image], [answer], to.weights)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="partita example digits"
    )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_data(model):
    """Writes calibration.npz and test.npz (`x` uint8, `y` labels) and reference.npz: one sample and the answer to it."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])

    def answer(image):
        return session.run(None, {"image": image[None].astype(np.float32)})[0]

    def accuracy(images, labels):
        hits = sum(int(answer(image).argmax() == label) for image, label in zip(images, labels))
        return f"{len(labels)} samples, accuracy {hits / len(labels):.4f}"

    for name, count, seed in (("calibration", 400, 200), ("test", 200, 300)):
        x, y = samples(count, seed)
        np.savez_compressed(model.with_name(f"{name}.npz"), x=x, y=y)
        print(f"{name}.npz: {accuracy(x, y)}")
    print(f"others: {accuracy(*samples(5000, seed=400))}")
    image = samples(1, seed=500)[0]
    np.savez_compressed(model.with_name("reference.npz"), image=image.astype(np.float32), probabilities=answer(image[0]))


def main():
    model = pathlib.Path(__file__).parent / "model.onnx"
    export(train(), model)
    write_data(model)


if __name__ == "__main__":
    main()
