"""Train the breast-cancer model and write its float form and its data sets; `overlaid fleet prepare` does the rest.

    python models/breast-cancer/train.py [--out DIR]

Needs torch==2.13.0 (a CPU build), scikit-learn, numpy and onnx. torch and scikit-learn serve this script alone and stay
outside the project's lock. A few seconds on one core.

Seeds are fixed and everything runs on one thread, so two runs on one machine with the same package versions write the
same bytes. The recipe and the seed were fixed beforehand; the test set measures the result, it picks nothing. Half of
the 569 samples are held out: of fewer, one alone would be more than the half a point that INT8 may cost.

Data: W. Wolberg, O. Mangasarian, N. Street and W. Street, Breast Cancer Wisconsin (Diagnostic), UCI Machine Learning
Repository, 1995, https://doi.org/10.24432/C5DW2B, CC BY 4.0, as bundled with scikit-learn; each feature less its mean
over the training set, by its deviation.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

SEED = 1995
SIZES = (30, 512, 256, 2)
EPOCHS = 60
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the breast-cancer model.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="where to write")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)

    data = load_breast_cancer()
    labels = data.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=SEED)
    mean, deviation = data.data[train].mean(axis=0), data.data[train].std(axis=0)
    features = ((data.data - mean) / deviation).astype(np.float32)

    network = fit(torch.from_numpy(features[train]), torch.from_numpy(labels[train]))
    onnx.save(build_graph(network), out / "breast-cancer-fp32.onnx")
    np.savez_compressed(out / "calibrate.npz", features=features[train], labels=labels[train])
    np.savez_compressed(out / "test.npz", features=features[test], labels=labels[test])
    with torch.no_grad():
        right = (network(torch.from_numpy(features[test])).argmax(1).numpy() == labels[test]).mean()
    print(f"{len(train)} training and {len(test)} test samples; test accuracy {right:.2%}")


def fit(features: torch.Tensor, labels: torch.Tensor) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(SIZES):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(labels)).split(BATCH):
            loss = nn.functional.cross_entropy(
                network(features[chosen]), labels[chosen], label_smoothing=0.05
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network


def build_graph(network: nn.Sequential) -> onnx.ModelProto:
    """The network as ONNX, opset 17: features [N,30] to logits [N,2]."""
    arrays, nodes, source = [], [], "features"
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for index, layer in enumerate(linear):
        name = f"layer{index}"
        arrays += [
            numpy_helper.from_array(layer.weight.detach().numpy(), f"{name}.weight"),
            numpy_helper.from_array(layer.bias.detach().numpy(), f"{name}.bias"),
        ]
        last = index == len(linear) - 1
        target = "logits" if last else name
        nodes.append(
            helper.make_node(
                "Gemm", [source, f"{name}.weight", f"{name}.bias"], [target], name=name, transB=1
            )
        )
        if not last:
            nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"], name=f"{name}.relu"))
        source = f"{name}.relu"
    graph = helper.make_graph(
        nodes,
        "breast-cancer",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", SIZES[0]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", SIZES[-1]])],
        arrays,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    main()
