"""The overhead of `--engine ray` against the local engine: `python -m bench.engine_overhead`.

Both classify the same PNG files with the same number of processes on this machine, in turn, and write parquet. From two
sizes follow a fixed time T (processes, cluster, first images) and a time per image t. With the default sizes this
takes under two minutes; larger ones and more rounds give a steadier time per image. With m machines like this one,
Ray is faster than one machine alone from N = (T_ray - T_local) / (t_local - t_ray / m) images on.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

MACHINES = (2, 4, 16)


def make_images(folder: Path, count: int) -> None:
    """Grey images of 28 x 28 pixels in MNIST's form: a bright bar, centred."""
    generator = np.random.default_rng(0)
    for number in range(count):
        image = np.zeros((28, 28), np.uint8)
        image[4:24, 11:17] = generator.integers(100, 255, (20, 6))
        cv2.imwrite(str(folder / f"{number:07}.png"), image)


def seconds(engine: str, images: Path, out: Path, processes: int) -> float:
    """Wall time of the whole command."""
    command = [sys.executable, "-m", "serve.cli", "predict", f"@{images}", "--workers", str(processes)]
    output = [str(out / "rows.parquet")] if engine == "local" else [str(out / "rows"), "--engine", engine]
    started = time.perf_counter()
    subprocess.run([*command, "-o", *output], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", type=int, nargs=2, default=(2_000, 10_000), help="numbers of images")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    times: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        make_images(images, max(options.sizes))
        for size in options.sizes:
            names = [str(images / f"{number:07}.png") for number in range(size)]
            (Path(folder) / f"{size}.txt").write_text("\n".join(names))
        for _ in range(options.rounds):
            for size in options.sizes:
                for engine in ("local", "ray"):
                    out = Path(folder) / "out"
                    out.mkdir()
                    list_of_images = Path(folder) / f"{size}.txt"
                    took = seconds(engine, list_of_images, out, options.processes)
                    print(f"{engine}, {size:,} images: {took:.2f} s", file=sys.stderr, flush=True)
                    times.setdefault((engine, size), []).append(took)
                    shutil.rmtree(out)
    small, large = sorted(options.sizes)
    results: dict[str, float] = {}
    for engine in ("local", "ray"):
        first, second = (statistics.median(times[engine, size]) for size in (small, large))
        results[f"{engine}_per_image_us"] = per_image = (second - first) / (large - small) * 1e6
        results[f"{engine}_fixed_s"] = first - per_image * small / 1e6
    for machines in MACHINES:
        gain = (results["local_per_image_us"] - results["ray_per_image_us"] / machines) / 1e6
        extra = results["ray_fixed_s"] - results["local_fixed_s"]
        results[f"pays_from_images_on_{machines}_machines"] = extra / gain if gain > 0 else float("inf")
    print(json.dumps({"rounds": options.rounds, "seconds": {f"{e} {n}": t for (e, n), t in times.items()}} | results))


if __name__ == "__main__":
    main()
