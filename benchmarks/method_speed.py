"""Time of every method's direction at 10,000 nodes and a support of 256, on one core.

Prints a table and writes JSON. Each round starts from a fresh batch, so that what methods share
(probabilities, sorted tops, tempered distributions) is paid for once per round, as in a run.

    python benchmarks/method_speed.py --output method_speed.json
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import argument_parser, environment, write_json

from gradalign.methods import Continuations, NodeBatch, SpineView, get, names

VARIANTS = (
    "gkd:beta=0",
    "gkd:beta=1",
    "opd:top_k=16",
    "opd:top_k=20,support=intersection,norm=none",
    "opd:top_k=32,support=teacher",
    "opd:top_k=16,norm=tail",
    "minillm:gamma=0.9",
    "trl/server_distillation:beta=0.5",
    "trl/sdpo:alpha=0.5,top_k=100,tail=true",
)


def make_batch(nodes: int, support: int, continuations: int, tokens: int) -> NodeBatch:
    """Sparse nodes with a tail, `continuations` per node of `tokens` tokens each, and spines."""
    rng = np.random.default_rng(0)
    student = np.sort(rng.normal(size=(nodes, support)) * 3.0, axis=1)[:, ::-1]
    teacher = student + rng.normal(size=(nodes, support))
    tail_N = np.full(nodes, np.log(0.01))
    dense = NodeBatch.from_logits(student, teacher)
    count = nodes * continuations
    stop_K = np.arange(1, count + 1) * tokens
    rolled = Continuations(
        node_K=np.repeat(np.arange(nodes), continuations),
        slot_K=np.tile(np.arange(continuations) // 4, nodes),
        reward_K=rng.integers(0, 2, size=count).astype(np.float64),
        half_K=np.arange(count) % 2,
        start_K=stop_K - tokens,
        stop_K=stop_K,
        log_ratio_T=rng.normal(size=count * tokens),
    )
    spine = 16  # nodes per spine
    length = 512
    begin_N = np.arange(nodes) // spine * length
    spines = SpineView(
        begin_N=begin_N,
        at_N=begin_N + np.arange(nodes) % spine * (length // spine),
        end_N=begin_N + length,
        reward_N=rng.integers(0, 2, size=nodes).astype(np.float64),
        group_mean_N=np.full(nodes, 0.5),
        log_ratio_T=rng.normal(size=(nodes // spine + 1) * length),
    )
    return NodeBatch(
        log_p_NS=dense.log_p_NS + np.log(0.99),
        log_q_NS=dense.log_q_NS + np.log(0.99),
        mask_NS=dense.mask_NS,
        log_tail_p_N=tail_N,
        log_tail_q_N=tail_N,
        num_tail_N=np.full(nodes, 150_000),
        ids_NS=np.ascontiguousarray(dense.ids_NS),
        sampled_N=rng.integers(0, 8, size=nodes),
        top_limit=128,
        continuations=rolled,
        spines=spines,
    )


def run_round(batch: NodeBatch, specs: list[str], estimator: str) -> dict[str, tuple[float, float]]:
    """Wall and processor seconds per method, on a batch that remembers nothing."""
    fresh = replace(batch)
    seconds = {}
    for spec in specs:
        method = get(spec)
        start, cpu = time.perf_counter(), time.process_time()
        if estimator == "variance":
            method.variance_ratio(fresh)
        else:
            method.direction(fresh, estimator)
        seconds[spec] = (time.perf_counter() - start, time.process_time() - cpu)
    return seconds


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--support", type=int, default=256)
    parser.add_argument("--continuations", type=int, default=32, help="per node")
    parser.add_argument("--tokens", type=int, default=32, help="per continuation")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=None, help="JSON file")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    batch = make_batch(options.nodes, options.support, options.continuations, options.tokens)
    groups = {
        "all registered, expected": (names(), "expected"),
        "all registered, sampled": (names(), "sampled"),
        "all registered, variance ratio": (names(), "variance"),
        "variants, expected": (list(VARIANTS), "expected"),
    }
    results = {}
    for title, (specs, estimator) in groups.items():
        run_round(batch, specs, estimator)
        rounds = [run_round(batch, specs, estimator) for _ in range(options.rounds)]
        wall = [sum(one[spec][0] for spec in specs) for one in rounds]
        cpu = [sum(one[spec][1] for spec in specs) for one in rounds]
        per_method = {spec: statistics.median(one[spec][1] for one in rounds) for spec in specs}
        results[title] = {"wall_seconds": wall, "cpu_seconds": cpu, "per_method_cpu": per_method}
        print(
            f"\n{title}: {len(specs)} methods, median {statistics.median(wall):.2f} s wall, "
            f"{statistics.median(cpu):.2f} s processor; best round {min(wall):.2f} s wall"
        )
        for spec, value in sorted(per_method.items(), key=lambda item: -item[1]):
            print(f"  {spec:48s} {1000 * value:8.1f} ms")
    record = {
        "config": vars(options),
        **environment(),
        "results": results,
    }
    if options.output:
        write_json(options.output, record)


if __name__ == "__main__":
    main()
