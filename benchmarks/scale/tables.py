"""The tables of docs/scale.md that arithmetic alone gives, as rows of cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from benchmarks.scale import assumptions as given
from benchmarks.scale import traffic
from benchmarks.scale.demand import (
    CONFIG,
    bandwidth_bound,
    candidate_flops,
    demand,
    hpsv3_images_per_second,
    image_flops,
    least_trainers,
    sample_batch,
    sequence_bytes,
)
from benchmarks.scale.flops import decoder_flops, paper_formula_flops, sizes
from benchmarks.scale.mix import Cluster, Forecast, best_mix, distribution_seconds

Table = list[list[str]]  # heads, then rows
TERA, GIGA, MEGA = 1e12, 1e9, 1e6
CARDS = (given.H100, given.H200)
RATES = (given.PUBLISHED, given.PLANNED, given.HIGH)
GPUS = (8, 64, 512)
STAGES = {"prefix": "prefix update", "suffix": "suffix update", "full": "plain GRPO update"}
UPDATES = 1200  # of the paper's run


def model() -> Table:
    """Sizes and FLOPs of the models."""
    rows = {
        "NextFlow-7B, parameters": f"{sizes(CONFIG).parameters / GIGA:.2f} G",
        "of which in the linear maps of the layers": f"{sizes(CONFIG).layers / GIGA:.2f} G",
        "one image of 10,084 tokens, one branch": f"{image_flops(guided=False) / TERA:.0f} TFLOP",
        "the same with guidance, two branches": f"{image_flops(guided=True) / TERA:.0f} TFLOP",
        "one branch by the paper's formula, its multiply-adds as one": f"{paper_formula_flops(CONFIG) / TERA:.0f} T",
        "tokens to pixels": f"{decoder_flops() / TERA:.0f} TFLOP",
        "HPSv3, one image": f"{given.HPSV3_FLOPS / TERA:.1f} TFLOP",
        "training on one candidate, prefix": f"{candidate_flops('prefix') / TERA:.0f} TFLOP",
        "training on one candidate, suffix": f"{candidate_flops('suffix') / TERA:.0f} TFLOP",
        "keys, values and logits of one guided sequence": f"{sequence_bytes() / GIGA:.2f} GB",
    }
    rows |= {f"sequences drawn together, {card.name}": str(sample_batch(card)) for card in CARDS}
    rows |= {f"fewest trainer GPUs, {card.name}": str(least_trainers(card)) for card in CARDS}
    return [["quantity", "value"], *([name, value] for name, value in rows.items())]


def messages() -> Table:
    """What one update sends, by stage."""
    rows: dict[str, Callable[[str], str]] = {
        "jobs into Redis": lambda kind: f"{given.PROMPTS}",
        "bytes of a job": lambda kind: f"{traffic.job_bytes(kind):,}",
        "groups out of Redis": lambda kind: f"{given.PROMPTS}",
        "bytes of a group": lambda kind: f"{traffic.trajectory_bytes(kind):,}",
        "through Redis in and out, MB": lambda kind: f"{2 * redis_bytes(kind) / MEGA:.1f}",
        "images, rollout to each reward": lambda kind: f"{traffic.images_per_update(kind)}",
        "their pixels, MB": lambda kind: f"{traffic.images_per_update(kind) * traffic.raw_image_bytes() / MEGA:,.0f}",
        "weights, bfloat16, GB a reader": lambda kind: f"{traffic.weight_bytes() / GIGA:.1f}",
        "weights, float32 as published today, GB a reader": lambda kind: f"{traffic.weight_bytes(4) / GIGA:.1f}",
    }
    return [["one update", *STAGES.values()], *([name, *map(cell, STAGES)] for name, cell in rows.items())]


def redis_bytes(kind: str) -> int:
    """Bytes of an update's jobs and groups."""
    return given.PROMPTS * (traffic.job_bytes(kind) + traffic.trajectory_bytes(kind))


def gpu_seconds() -> Table:
    """GPU-seconds of one update on H100s, by part, stage and rates."""
    heads = ["one update, H100", *(f"{kind}, {rates.name}" for kind, rates in product(("prefix", "suffix"), RATES))]
    rows: dict[str, Callable[[str, given.Rates], float]] = {
        "draw, guided": lambda kind, rates: demand(kind, given.H100, rates).draw,
        "draw, without guidance": lambda kind, rates: demand(kind, given.H100, rates, guided=False).draw,
        "tokens to pixels": lambda kind, rates: demand(kind, given.H100, rates).decode,
        "HPSv3": lambda kind, rates: demand(kind, given.H100, rates).hpsv3,
        "update": lambda kind, rates: demand(kind, given.H100, rates).update,
    }
    cases = list(product(("prefix", "suffix"), RATES))
    return [heads, *([name, *(f"{given.PROMPTS * of(*case):,.0f}" for case in cases)] for name, of in rows.items())]


def shares() -> Table:
    """The rates behind the three columns, and how much of drawing memory bandwidth bounds."""
    heads = [
        "rates",
        "draw",
        "tokens to pixels",
        "HPSv3",
        "update",
        "HPSv3 images/s",
        *(f"drawing bound by memory, {c.name}" for c in CARDS),
    ]
    return [heads, *(_shares(rates) for rates in RATES)]


def _shares(rates: given.Rates) -> list[str]:
    parts = [f"{share:.1%}" for share in (rates.draw, rates.decode, rates.hpsv3, rates.update)]
    bound = [f"{bandwidth_bound('prefix', card, rates):.1%}" for card in CARDS]
    return [rates.name, *parts, f"{hpsv3_images_per_second(given.H100, rates):.0f}", *bound]


def mixes() -> Table:
    """The best mix of each size of cluster, with the paper's prompts and with prompts that grow with it."""
    heads = [
        "H100s",
        "prompts",
        "rewards",
        "rollout + HPSv3 + trainer",
        "idle",
        "drawn, scored",
        "update",
        "weights",
        "one update",
    ]
    clusters = [
        Cluster(gpus, prompts, hpsv3=hpsv3) for gpus in GPUS for prompts in _prompts(gpus) for hpsv3 in (True, False)
    ]
    return [[*heads, "groups/s", "GPUs busy"], *(_mix(cluster, best_mix(cluster)) for cluster in clusters)]


def _prompts(gpus: int) -> list[int]:
    """The paper's prompts, and as many for each GPU as they are for eight."""
    return sorted({given.PROMPTS, given.PROMPTS * gpus // GPUS[0]})


def _mix(cluster: Cluster, best: Forecast) -> list[str]:
    sizes_ = f"{best.mix.rollout} + {best.mix.hpsv3} + {best.mix.trainer}"
    spans = [f"{span:.0f} s" for span in (best.phases.rollout, best.phases.update, best.phases.weights, best.seconds)]
    rewards = "OCR, HPSv3" if cluster.hpsv3 else "OCR"
    outcome = [f"{best.groups_per_second:.3f}", f"{best.utilisation:.0%}"]
    return [str(cluster.gpus), f"{cluster.prompts:,}", rewards, sizes_, str(best.idle), *spans, *outcome]


def ranges() -> Table:
    """Seconds of an update over the range of rates, with the best mix of each, and what overlapping would give."""
    heads = ["H100s", "prompts", *(f"{rates.name}" for rates in RATES), "planned, rollout beside the update", "its mix"]
    return [heads, *(_range(gpus, prompts) for gpus in GPUS for prompts in _prompts(gpus))]


def _range(gpus: int, prompts: int) -> list[str]:
    spans = [f"{best_mix(Cluster(gpus, prompts, rates=rates)).seconds:,.0f} s" for rates in RATES]
    overlapped = best_mix(Cluster(gpus, prompts, overlap=True))
    mix = overlapped.mix
    found = f"{overlapped.seconds:,.0f} s, {overlapped.utilisation:.0%} busy"
    return [str(gpus), f"{prompts:,}", *spans, found, f"{mix.rollout} + {mix.hpsv3} + {mix.trainer}"]


def weights() -> Table:
    """How long the weights of a version take to reach the workers."""
    size = traffic.weight_bytes()
    rows = [
        [str(workers), f"{_nodes(workers) * size / GIGA:,.0f}", f"{distribution_seconds(workers):.0f} s"]
        for workers in (4, 32, 256, 2048)
    ]
    return [["rollout GPUs", "read by their nodes, GB", "until all have them"], *rows]


def _nodes(workers: int) -> int:
    return -(-workers // given.GPUS_A_NODE)


def run() -> Table:
    """The paper's whole run of 1,200 updates at the planned rates."""
    return [["H100s", "days", "GPU-hours"], *(_run(best_mix(Cluster(gpus, given.PROMPTS)), gpus) for gpus in GPUS[:2])]


def _run(best: Forecast, gpus: int) -> list[str]:
    hours = UPDATES * best.seconds / 3600
    return [f"{gpus}, of which {best.idle} idle", f"{hours / 24:.1f}", f"{hours * (gpus - best.idle):,.0f}"]


TABLES: dict[str, Callable[[], Table]] = {
    "model": model,
    "messages": messages,
    "gpu-seconds": gpu_seconds,
    "shares": shares,
    "mixes": mixes,
    "ranges": ranges,
    "weights": weights,
    "run": run,
}


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The table as Markdown, numbers to the right."""
    heads, *rows = table
    rule = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))
