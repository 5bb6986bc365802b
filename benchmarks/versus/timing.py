"""Two sides timed so that a busy machine cannot favor one: in turns, compared round by round."""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Clock = Callable[[], float]


def wall() -> float:
    """Seconds on the wall, once the GPU, if there is one, has done what it was told."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def interleaved(
    sides: dict[str, Callable[[], object]], rounds: int, warmup: int = 1, clock: Clock = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each side in each round; `warmup` rounds before do not count.

    The order turns around from round to round, so that none always runs on a warm cache. The default
    clock counts this process's CPU time, which a neighbor on the same machine does not stretch.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(-warmup, rounds):
        names = list(sides) if round_ % 2 else list(sides)[::-1]
        for name in names:
            started = clock()
            sides[name]()
            if round_ >= 0:
                seconds[name].append(clock() - started)
    return seconds


@dataclass(frozen=True)
class Ratio:
    """How many times as fast ours is: the ratio of medians with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


def ratio(peer: Sequence[float], ours: Sequence[float], seed: int = 0, resamples: int = 2000) -> Ratio:
    """Median seconds of the peer over ours; the interval from rounds drawn with replacement, in pairs.

    Raises ValueError if the two have not the same number of rounds, or none.
    """
    return ratio_of_runs([[value] for value in peer], [[value] for value in ours], seed, resamples)


def ratio_of_runs(
    peer: Sequence[Sequence[float]], ours: Sequence[Sequence[float]], seed: int = 0, resamples: int = 2000
) -> Ratio:
    """The same of runs of several steps each: the medians are over all steps, the interval draws runs.

    Whole ones, because the steps of a run share its luck and tell less than as many runs would.
    """
    if len(peer) != len(ours) or not peer:
        raise ValueError(f"A ratio needs as many rounds of both sides, not {len(peer)} and {len(ours)}.")
    rng = random.Random(seed)
    pairs = list(zip(peer, ours, strict=True))

    def medians(drawn: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
        theirs, own = ([step for pair in drawn for step in pair[side]] for side in (0, 1))
        return statistics.median(theirs) / statistics.median(own)

    found = sorted(medians(rng.choices(pairs, k=len(pairs))) for _ in range(resamples))
    tail = round(0.025 * (resamples - 1))
    return Ratio(medians(pairs), found[tail], found[-1 - tail])


def check_same_loss(ours: Sequence[float], peer: Sequence[float], tolerance: float) -> float:
    """The largest difference of two loss curves; AssertionError, with its step, if over `tolerance` nats.

    Two runs that did not do the same work cannot be compared in speed.
    """
    assert len(ours) == len(peer) > 0, f"{len(ours)} steps of ours, but {len(peer)} of the peer's."
    gaps = [abs(a - b) for a, b in zip(ours, peer, strict=True)]
    worst = max(range(len(gaps)), key=gaps.__getitem__)
    assert gaps[worst] <= tolerance, (
        f"At step {worst} our loss is {ours[worst]:.6f} and the peer's {peer[worst]:.6f}, "
        f"further apart than {tolerance}: these are not the same training."
    )
    return gaps[worst]
