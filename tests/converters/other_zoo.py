"""A small model of ONNX or PyTorch and what it answers; run in an interpreter that has them, without SliceMQ."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def onnx_model(folder: Path) -> None:
    """model.onnx with an input `x` in NCHW, and frame.npz with `x` in NHWC and the output `y`."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) * 0.3).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "p"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"]),
    ]
    values = [weights("w1", 8, 3, 3, 3), weights("b1", 8), weights("w2", 8, 8, 3, 3), weights("b2", 8)]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [*values, weights("w3", 8, 5), weights("b3", 5)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    frame = rng.standard_normal((1, 3, 16, 16)).astype(np.float32)
    (made,) = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"x": frame})
    np.savez(folder / "frame.npz", x=frame.transpose(0, 2, 3, 1), y=made)


def torch_program(folder: Path) -> None:
    """model.pt2 and frame.npz with the input `x` and the output `y`."""
    import torch

    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, stride=2),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 7 * 7, 5),
    ).eval()
    frame = torch.randn(1, 3, 16, 16)
    torch.export.save(torch.export.export(layers, (frame,)), folder / "model.pt2")
    np.savez(folder / "frame.npz", x=frame.numpy(), y=layers(frame).detach().numpy())


if __name__ == "__main__":
    {"onnx": onnx_model, "torch": torch_program}[sys.argv[1]](Path(sys.argv[2]))
