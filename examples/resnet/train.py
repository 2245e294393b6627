"""Trains the ResNet of this example and writes model.onnx, calibration.npz, test.npz and reference.npz beside itself.

    python3 -m venv .venv && .venv/bin/pip install -r requirements.txt
    .venv/bin/python train.py
    .venv/bin/python train.py --blocks 3 --survival 0.5 --learning-rate 0.1

The last one writes resnet20.onnx, which is deeper, and trained to do without some of its blocks.

The network takes pixels as they are (0 to 255): the factor 1/255 is in the weights of the first convolution, so a device
does not normalise anything. Seeds are fixed; the weights still differ in their last bits between processors.
"""

import argparse
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import nn

from data import CLASSES, samples

WIDTHS = (16, 32, 64)
TRAINING_SAMPLES, EPOCHS, BATCH = 30000, 12, 64


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes.

    In training the convolutions count for each sample with a probability, and for so much more when they do (stochastic
    depth, Huang et al. 2016, section 3; dividing then instead of multiplying later leaves the exported network as it is).
    """

    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.survival = 1.0
        self.first = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride) if stride != 1 or channels_in != channels else None

    def forward(self, x):
        shortcut = x if self.shortcut is None else self.shortcut(x)
        y = self.second_norm(self.second(torch.relu(self.first_norm(self.first(x)))))
        if self.training and self.survival < 1:
            y = y * (torch.rand(len(y), 1, 1, 1) < self.survival) / self.survival
        return torch.relu(y + shortcut)


class ResNet(nn.Module):
    """ResNet-8 or deeper (He et al. 2016, the CIFAR form: 6n + 2 layers for n blocks per width)."""

    def __init__(self, blocks_per_width):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(WIDTHS[0])
        widths = [WIDTHS[0], *(width for width in WIDTHS for _ in range(blocks_per_width))]
        self.blocks = nn.ModuleList(
            Block(channels_in, channels, 1 if channels == channels_in else 2)
            for channels_in, channels in zip(widths, widths[1:])
        )
        self.head = nn.Linear(WIDTHS[-1], len(CLASSES))

    def leave_out(self, share):
        """Leaves blocks out of training: the later the more often, the last one for `share` of the samples (eq. 4)."""
        for index, block in enumerate(self.blocks):
            block.survival = 1 - (index + 1) / len(self.blocks) * share

    def forward(self, x):
        x = torch.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))


def train(blocks_per_width, survival, learning_rate):
    torch.manual_seed(1)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images, labels = samples(TRAINING_SAMPLES, seed=100)
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    network = ResNet(blocks_per_width)
    steps = len(labels) // BATCH
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, epochs=EPOCHS, steps_per_epoch=steps)
    for epoch in range(EPOCHS):
        network.train()
        # Blocks learn to do something before the network learns to do without them.
        network.leave_out((1 - survival) * min(1, epoch / (EPOCHS // 2)))
        order = torch.randperm(len(labels))
        total = 0.0
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            batch = images[chosen].float() / 255.0
            # The classes stay what they are under mirroring and quarter turns.
            turn = int(torch.randint(0, 8, ()))
            batch = torch.rot90(batch, turn % 4, (2, 3))
            batch = batch.flip(3) if turn >= 4 else batch
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
        name = f"block{index + 1}"
        y = to.norm(f"{name}.first.norm", block.first_norm, to.conv(f"{name}.first", block.first, x))
        y = to.node("Relu", f"{name}.first.relu", [y])
        y = to.norm(f"{name}.second.norm", block.second_norm, to.conv(f"{name}.second", block.second, y))
        shortcut = x if block.shortcut is None else to.conv(f"{name}.shortcut", block.shortcut, x)
        x = to.node("Relu", f"{name}.relu", [to.node("Add", f"{name}.add", [y, shortcut])])
    x = to.node("Flatten", "flatten", [to.node("GlobalAveragePool", "pool", [x])])
    to.linear("head", network.head, x, "scores")
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 32, 32])
    scores = helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [1, len(CLASSES)])
    graph = helper.make_graph(to.nodes, "resnet", [image], [scores], to.weights)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="partita example resnet"
    )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_data(model, only_print):
    """Writes calibration.npz and test.npz (`x` uint8, `y` labels) and reference.npz: one sample and the answer to it.

    The data are the same for every network: further ones only say how well they do on them.
    """
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])

    def answer(image):
        return session.run(None, {"image": image[None].astype(np.float32)})[0]

    def accuracy(images, labels):
        hits = sum(int(answer(image).argmax() == label) for image, label in zip(images, labels))
        return f"{len(labels)} samples, accuracy {hits / len(labels):.4f}"

    for name, count, seed in (("calibration", 256, 200), ("test", 200, 300)):
        x, y = samples(count, seed)
        if not only_print:
            np.savez_compressed(model.with_name(f"{name}.npz"), x=x, y=y)
        print(f"{name}.npz: {accuracy(x, y)}")
    print(f"others: {accuracy(*samples(5000, seed=400))}")
    if only_print:
        return
    image = samples(1, seed=500)[0]
    np.savez_compressed(model.with_name("reference.npz"), image=image.astype(np.float32), scores=answer(image[0]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1, help="residual blocks of each width [default: 1, ResNet-8]")
    parser.add_argument(
        "--survival", type=float, default=1.0, help="how likely the last block takes part in a step of training [default: 1]"
    )
    parser.add_argument("--learning-rate", type=float, default=0.15, help="the largest of all steps [default: 0.15]")
    arguments = parser.parse_args()
    is_first = arguments.blocks == 1
    name = "model.onnx" if is_first else f"resnet{6 * arguments.blocks + 2}.onnx"
    model = pathlib.Path(__file__).parent / name
    export(train(arguments.blocks, arguments.survival, arguments.learning_rate), model)
    write_data(model, only_print=not is_first)


if __name__ == "__main__":
    main()
