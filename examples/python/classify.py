"""Classifies the samples of an .npz through a running cluster, several at a time.

    python3 classify.py out/report.json INPUT_SOCKET OUTPUT_SOCKET samples.npz

The file holds one array per sample axis: the inputs, and their labels as whole numbers.
"""

import collections
import sys
import time

import numpy

import partita


def main(report, input_socket, output_socket, samples):
    arrays = numpy.load(samples)
    labels = next(arrays[name] for name in arrays.files if arrays[name].ndim == 1)
    inputs = next(arrays[name] for name in arrays.files if arrays[name].ndim > 1)
    outcomes, right, begin = collections.Counter(), 0, time.monotonic()
    with partita.Cluster(report, input=input_socket, output=output_socket) as cluster:
        for answer, label in zip(cluster.stream(inputs), labels):
            (scores,) = answer.outputs.values()
            right += int(scores.argmax() == label)
            outcomes[answer.record.outcome] += 1
    seconds = time.monotonic() - begin
    said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"{right} of {len(labels)} right ({said}), {len(labels) / seconds:.0f} per second")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
