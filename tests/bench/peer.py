"""One peer on one model: `peer.py PEER MODEL.onnx THREADS SECONDS WORK` prints one line of JSON, times in milliseconds."""

import json
import os
import pathlib
import resource
import subprocess
import sys
import time

PEER, MODEL, THREADS, SECONDS, WORK = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), pathlib.Path(sys.argv[5])
os.environ["OMP_NUM_THREADS"] = str(THREADS)

import numpy as np

ARRAYS = np.load(MODEL.with_suffix(".npz"))
X, WANTED = ARRAYS["input"], ARRAYS["output"]


def onnxruntime():
    import onnxruntime
    loading()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    session = onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: X})[0]


def openvino():
    import openvino
    loading()
    settings = {"INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
    model = openvino.Core().compile_model(str(MODEL), "CPU", settings)
    request, answer = model.create_infer_request(), model.output(0)
    request.set_input_tensor(openvino.Tensor(X, shared_memory=True))

    def run():
        request.infer()
        return request.get_tensor(answer).data
    return run


def ncnn():
    import ncnn
    folder = WORK / "ncnn"
    stem = folder / MODEL.stem
    if not stem.with_suffix(".ncnn.bin").exists():
        # The converter writes beside its input.
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / MODEL.name
        copy.write_bytes(MODEL.read_bytes())
        shape = ",".join(map(str, X.shape))
        converter = pathlib.Path(sys.executable).parent / "pnnx"
        subprocess.run([str(converter), copy.name, f"inputshape=[{shape}]", "fp16=0"], cwd=folder, capture_output=True, check=True)
        copy.unlink()
    loading()
    net = ncnn.Net()
    net.opt.num_threads = THREADS
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage", "use_bf16_packed"):
        if hasattr(net.opt, option):
            setattr(net.opt, option, False)
    if net.load_param(str(stem.with_suffix(".ncnn.param"))) != 0 or net.load_model(str(stem.with_suffix(".ncnn.bin"))) != 0:
        sys.exit("ncnn cannot load the converted model")
    given = np.ascontiguousarray(X[0])

    def run():
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(given))
        return np.array(extractor.extract("out0")[1])
    return run


BEGIN = []


def loading():
    """The library is there; what follows is loading the model."""
    BEGIN.append(time.perf_counter())


run = {"onnxruntime": onnxruntime, "openvino": openvino, "ncnn": ncnn}[PEER]()
load_ms = (time.perf_counter() - BEGIN[-1]) * 1e3
found = np.asarray(run())
error = float(np.abs(found.reshape(-1) - WANTED.reshape(-1)).max() / max(np.abs(WANTED).max(), 1e-9)) if found.size == WANTED.size else 1e9
begin = time.perf_counter()
while time.perf_counter() - begin < SECONDS / 4:
    run()
wall, cpu, begin = [], [], time.perf_counter()
while len(wall) < 5 or time.perf_counter() - begin < SECONDS:
    before, start = time.process_time_ns(), time.perf_counter()
    run()
    wall.append((time.perf_counter() - start) * 1e3)
    cpu.append((time.process_time_ns() - before) * 1e-6)
wall.sort()
cpu.sort()
print(json.dumps({"min_ms": wall[0], "median_ms": wall[len(wall) // 2], "cpu_median_ms": cpu[len(cpu) // 2], "runs": len(wall), "load_ms": load_ms,
                  "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, "error": error}))
