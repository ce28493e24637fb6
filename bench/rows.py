"""What a row tells beside pytest-benchmark's statistics: everything that a reader needs to believe or repeat it."""

from typing import Any

from bench.gemm import GFLOP
from bench.measure import Timing
from bench.networks import Network
from zoo.card import Card


def facts(card: Card) -> dict[str, Any]:
    """The model's part of a row."""
    return {
        "model": card.name,
        "dataset": card.dataset.title,
        "parameters": card.parameters.keras,
        "macs": card.macs,
        "accuracy": card.accuracy.value,
        "interval95": list(card.accuracy.interval95),
    }


def row(
    card: Card, network: Network, scope: str, runtime: str, batch: int, timing: Timing, gemm: Timing,
    peak_mb: float | None = None, ours: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """extra_info of one row.

    gflops counts two operations a MAC, at the median; peak_gflops is that of the GEMM timed beside it. peak_mb is that
    of a fresh process that answers one such batch, where it was measured. ratios are to what is timed beside it: less
    is better, and `bench/compare.py` compares them across commits; others' runtimes are not ours to keep from growing.
    """
    work = 2 * card.macs * batch / 1e9
    gflops, peak = work / timing.p50, GFLOP / gemm.p50
    return {
        "scope": scope,
        **facts(card),
        "runtime": runtime,
        "provider": network.provider,
        "threads": network.threads,
        "batch": batch,
        **timing.info(),
        "images_per_s": round(batch / timing.p50, 1),
        "gflops": round(gflops, 2),
        "peak_gflops": round(peak, 1),
        "share_of_peak": round(gflops / peak, 4),
        **({"peak_mb": round(peak_mb, 1)} if peak_mb else {}),
        **({"ratios": {"time over that of the same work in a GEMM": round(peak / gflops, 3)}} if ours else {}),
    }
