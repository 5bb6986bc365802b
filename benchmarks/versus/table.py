"""The findings as markdown, ready for the README."""

from versus.timing import Ratio

GOALS = {"step": 1.25, "cached": 1.3, "train": 1.5}
"""How many times as fast as the peer: the model step, stage 1's with kept features, a whole run."""

LOWER = 1.1
"""What the lower end of each interval shall exceed."""


def verdict(found: Ratio, goal: float) -> str:
    reached = found.value >= goal and found.low > LOWER
    return f"{found} {'✓' if reached else '✗'} ≥ {goal}"


def rows(cells: list[list[str]]) -> str:
    head, *body = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([head, "|---" * len(cells[0]) + "|", *body])


def speed(stages: dict[str, dict]) -> str:
    """One row for each comparison of each stage."""
    lines = [["stage", "what", "transformers", "minillava", "times as fast (95 %)"]]
    for stage, found in stages.items():
        if step := found.get("step"):
            medians = {name: f"{1000 * value:.0f} ms" for name, value in step["median_seconds"].items()}
            goal = verdict(Ratio(**step["ratio"]), GOALS["step"])
            lines.append([stage, "model step", medians["peer"], medians["ours"], goal])
            kept, ratio = medians["ours, features kept"], Ratio(**step["ratio_features_kept"])
            goal = verdict(ratio, GOALS["cached"]) if stage == "stage1" else str(ratio)
            lines.append([stage, "model step, features kept", medians["peer"], kept, goal])
        if train := found.get("train"):
            rate = {name: f"{value:.1f} samples/s" for name, value in train["samples_per_second"].items()}
            goal = verdict(Ratio(**train["ratio"]), GOALS["train"])
            lines.append([stage, "end to end, same order", rate["peer"], rate["ours"], goal])
            own = str(Ratio(**train["ratio_own_order"]))
            lines.append([stage, "end to end, its own order", rate["peer, its own order"], rate["ours"], own])
        if memory := found.get("memory"):
            held = {name: f"{value / 1e6:.0f} MB" for name, value in memory.items()}
            less = "✓" if memory["ours"] <= memory["peer"] else "✗"
            share = f"{memory['ours'] / memory['peer']:.2f} times the memory {less} ≤ 1"
            lines.append([stage, "peak memory of the process", held["peer"], held["ours"], share])
    return rows(lines)


def peak(stages: dict[str, dict]) -> str:
    """How much of the machine's own matrix products each side reaches, in what it computes itself.

    Useful work is what the formula asks for. A side computes more of it where it pads, and less where
    nothing reads the result; attention is in the useful work alone.
    """
    lines = [["stage", "side", "useful work, GFLOP", "computed, GFLOP", "of a matrix product's GFLOP/s"]]
    for stage, found in stages.items():
        if step := found.get("step"):
            useful, top = step["useful_flops_per_step"] / 1e9, step["matmul_peak_flops"] / 1e9
            for name, side in (("peer", "transformers"), ("ours", "minillava")):
                computed, share = step["executed_flops_per_step"][name] / 1e9, step["percent_of_peak"][name]
                cells = [f"{useful:.1f}", f"{computed:.1f}", f"{share:.0f} % of {top:.0f}"]
                lines.append([stage, side, *cells])
    return rows(lines)


def growth(found: dict[str, dict]) -> str:
    """Seconds of a step, and what a position costs beside the smallest record's."""
    times = list(next(iter(found.values()))["positions"])
    lines = [["what grows", "side", *(f"{n}×" for n in times), f"a position at {times[-1]}×"]]
    for axis, values in found.items():
        for name, side in (("ours", "minillava"), ("peer", "transformers")):
            cost = [values[name][n] / values["positions"][n] for n in times]
            cells = [f"{1000 * values[name][n]:.0f} ms" for n in times]
            lines.append([axis, side, *cells, f"{cost[-1] / cost[0]:.2f} of one at {times[0]}×"])
    return rows(lines)


def generation(found: dict) -> str:
    lines = [["batch", "transformers", "minillava", "times as fast (95 %)"]]
    for size, values in found.items():
        rate = {name: f"{value:.0f} tokens/s" for name, value in values["tokens_per_second"].items()}
        lines.append([str(size), rate["peer"], rate["ours"], str(Ratio(**values["ratio"]))])
    return rows(lines)


def startup(found: dict[str, float]) -> str:
    lines = [["a process that does", "CPU seconds"]]
    return rows(lines + [[name, f"{value:.2f}"] for name, value in found.items()])
