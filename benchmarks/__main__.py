"""`python -m benchmarks`: every benchmark, what it prints, about how long it takes and which page it feeds."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """A module of this package that is run with `python -m benchmarks.<name>`."""

    name: str
    prints: str
    takes: str
    feeds: str


BENCHMARKS = (
    Benchmark(
        "equality",
        "chains of slices against whole models, bit for bit, over all real models (can be resumed)",
        "1 h",
        "docs/reference/models.md",
    ),
    Benchmark(
        "fuzz",
        "how 10,000 damaged models end: success or a clear error (can be resumed)",
        "20 min",
        "docs/reference/models.md",
    ),
    Benchmark(
        "slicing",
        "seconds and memory of cutting a 100 MB model into 2 and 20 slices",
        "1 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "mixed",
        "chains whose slices run in two runtimes in turns, beside the whole in either",
        "5 min",
        "docs/reference/models.md",
    ),
    Benchmark(
        "slice_costs",
        "memory and time of real slices beside the planner's formulas",
        "10 min",
        "docs/reference/models.md",
    ),
    Benchmark(
        "profile_transfer",
        "times predicted for the other runtime and for half a core, beside measured ones",
        "3 min",
        "docs/explanation/planning.md",
    ),
    Benchmark(
        "data_broker",
        "what a data broker takes of its board for each MB, by how the bytes arrive",
        "2 min",
        "docs/explanation/how-it-works.md",
    ),
    Benchmark(
        "plan_reality",
        "predicted and measured rates of 12 plans on nodes of limited speed and memory",
        "20 min",
        "docs/explanation/planning.md",
    ),
    Benchmark(
        "planner_growth",
        "seconds and certified gap of plans, from 5 nodes and 20 units to 200 and 400 (can be resumed)",
        "15 min",
        "docs/explanation/planning.md",
    ),
    Benchmark(
        "planner_shapes",
        "which shape wins where the model fits every node and where it fits none",
        "1 min",
        "docs/explanation/planning.md",
    ),
    Benchmark(
        "planner_exactness",
        "the planner against all plans of 20,000 random small problems (can be resumed)",
        "5 min",
        "docs/explanation/planning.md",
    ),
    Benchmark(
        "replacement",
        "seconds from the loss of a node to the new assignments, with the plan made ahead and cold",
        "5 min",
        "docs/explanation/planning-live.md",
    ),
    Benchmark(
        "chaos",
        "frames answered, lost, doubled, out of order and different while 19 kinds of faults break the cluster",
        "15 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "recovery",
        "seconds from six kinds of faults to the first result of the new revision, and where they go (as root)",
        "40 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "simulate",
        "100,000 simulated clusters, each broken at least five times; what each kind of fault did (can be resumed)",
        "40 min",
        "docs/explanation/guarantees.md",
    ),
    Benchmark(
        "scaling",
        "ResNet50 and VGG16 on 1, 4, 6 and 8 equal nodes, lossless and with codecs (can be resumed)",
        "40 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "light_nodes",
        "the coordinator with 10, 100 and 1,000 nodes: seconds to join, plan and recover; memory, processor time",
        "8 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "many_nodes",
        "ResNet50 on 1 to 20 equal nodes: rate, processor time, bytes and energy (can be resumed)",
        "12 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "small_memory",
        "ResNet50 on the fewest nodes of 128 MB, and on one such node (can be resumed)",
        "4 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "cluster_latency",
        "latency of an 8-node chain beside its stages and bare hops, and under full load (can be resumed)",
        "8 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "turns",
        "frames/s of copies, of a stage on several nodes and of pipelines side by side, as ratios to one node",
        "8 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "window",
        "the fewest frames on their way that keep the slowest stage busy, beside the plan's window",
        "10 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "upgrades",
        "200 hot upgrades under load, 20 of them broken on purpose; what grows with the revisions (as root)",
        "45 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "relay",
        "Gbit/s and processor time of the emulator's relay, with and without delay",
        "1 min",
        "docs/how-to/emulate.md",
    ),
    Benchmark(
        "overhead",
        "processor time that a node adds to a frame besides invoke, by tensor size, over both data links",
        "6 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "hop",
        "time that a worker adds to a hop, beside bare sockets through the same broker, over both data links",
        "2 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "overhead_real",
        "what a node adds to a frame of real models besides invoke, and what the planner should count for it",
        "3 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "planner_states",
        "how many states models have, how long their tables take, what cuts between branches gain",
        "1 min",
        "docs/explanation/planning.md",
    ),
    Benchmark(
        "codecs",
        "bytes, processor time and errors of codecs on activations of real models",
        "6 min",
        "docs/reference/codecs.md",
    ),
    Benchmark(
        "datalink",
        "processor time of frames over both data links, beside a bare socket; QoS 0 and QoS 1",
        "3 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "memory",
        "resident memory of an idle node, an idle worker and workers with slices",
        "1 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "load_at_tenth",
        "heartbeats of a node at a tenth of a core while it loads ResNet50",
        "1 min",
        "docs/explanation/performance.md",
    ),
    Benchmark(
        "link_rates",
        "how well emulated links from 6 Mbit/s to 1 Gbit/s keep their rates (as root)",
        "2 min",
        "docs/how-to/emulate.md",
    ),
    Benchmark(
        "placement_paper",
        "the placement experiment of arXiv 2210.12219: our planner and seven others (can be resumed)",
        "30 min",
        "docs/explanation/placement-papers.md",
    ),
    Benchmark(
        "ingress",
        "1,000 messages of a plain MQTT camera while the ingress is killed 20 times: missing, repeated",
        "5 min",
        "docs/how-to/plain-devices.md",
    ),
    Benchmark("paper_layers", "what it makes: that experiment's layers, in benchmarks/data/, once", "1 min", "-"),
    Benchmark("make_models", "what it makes: Keras models in .cache/models/, once", "20 min", "-"),
)


def main() -> int:
    """Print the list."""
    print("Run one with `python -m benchmarks.<name>`; each takes --help, most take --format json.\n")
    width = max(len(one.name) for one in BENCHMARKS)
    for one in BENCHMARKS:
        print(f"{one.name:<{width}}  {one.prints}\n{'':<{width}}  about {one.takes}; feeds {one.feeds}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
