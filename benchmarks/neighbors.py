"""Time of the exact neighbour graph, beside scikit-learn, SciPy, faiss and the approximate pynndescent.

    python benchmarks/neighbors.py [--quick] [--device cpu] [--threads 1] [--queries 6000] [--rounds 3] [--json PATH]

All libraries take a turn in every round; ratios are taken within a round, and the table shows medians over rounds, so
that other work on the machine disturbs all of them alike. Where a library goes through all pairs, its time for some
queries is scaled to all points; what is built once, a tree or an index, counts whole. The processor's time on the
CPU, summed over threads, and the wall's clock on a GPU or with more than one thread. Images where
``$NRAE_DATA`` has them and random data, because trees and approximate graphs live from the structure of the data.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from nrae_lib import runs
from nrae_lib.core.graph import knn_graph

OURS = "nrae_lib"
# Name -> points, features. Normal data of many dimensions is the worst case: all points are almost equally far.
SIZES = {
    "MNIST": (60_000, 784),
    "CIFAR-10": (16_000, 3072),
    "normal 60000 x 784": (60_000, 784),
    "normal 60000 x 8": (60_000, 8),
    "normal 60000 x 3": (60_000, 3),
    "normal 60000 x 2": (60_000, 2),
    "normal 10000 x 2": (10_000, 2),
}
QUICK = {"normal 2000 x 784": (2000, 784), "normal 3000 x 2": (3000, 2)}


def points_of(name: str, count: int, features: int) -> np.ndarray:
    folder = Path(os.environ.get("NRAE_DATA", "data"))
    if name == "MNIST":
        raw = (folder / "MNIST/raw/train-images-idx3-ubyte").read_bytes()
        return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, features)[:count].astype(np.float32) / 255
    if name == "CIFAR-10":
        images = np.load(folder / "cifar10.npz")["train_images"]
        return images.reshape(len(images), -1)[:count].astype(np.float32) / 255
    return np.random.default_rng(0).standard_normal((count, features), dtype=np.float32)


def contenders(
    points: np.ndarray, n_neighbors: int, device: torch.device, threads: int, queries: int
) -> dict[str, Callable[[], tuple[float, np.ndarray | None]]]:
    """Name -> a function that returns its seconds and the neighbours of the first points; absent libraries miss."""
    count, features = points.shape
    tensor = torch.from_numpy(points).to(device)
    some = points[:queries]

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if device.type == "cpu" and threads == 1 else time.perf_counter()

    def ours():
        begin = clock()
        graph = knn_graph(tensor, n_neighbors)
        return clock() - begin, graph.cpu().numpy()

    def indexed(build: Callable[[], object], search: Callable[[object, np.ndarray], np.ndarray], wanted: np.ndarray):
        def run():
            begin = clock()
            index = build()
            middle = clock()
            found = search(index, wanted)
            seconds = middle - begin + (clock() - middle) * count / len(wanted)
            return seconds, without_self(found, n_neighbors)

        return run

    found = {OURS: ours}
    if device.type == "cpu":
        try:
            from sklearn.neighbors import NearestNeighbors

            for algorithm in ("brute", "kd_tree", "ball_tree"):
                if algorithm != "brute" and features > 20:
                    continue  # hours: a tree does not help there
                found[f"scikit-learn {algorithm}"] = indexed(
                    lambda algorithm=algorithm: NearestNeighbors(
                        n_neighbors=n_neighbors + 1, algorithm=algorithm, n_jobs=threads
                    ).fit(points),
                    lambda index, wanted: index.kneighbors(wanted, return_distance=False),
                    some,
                )
        except ImportError as error:
            print(f"scikit-learn is left out: {error}")
        try:
            from scipy.spatial import cKDTree

            if features <= 20:
                found["SciPy cKDTree"] = indexed(
                    lambda: cKDTree(points),
                    lambda tree, wanted: tree.query(wanted, n_neighbors + 1, workers=threads)[1],
                    some,
                )
        except ImportError as error:
            print(f"SciPy is left out: {error}")
    try:
        import faiss

        faiss.omp_set_num_threads(threads)

        def flat():
            index = faiss.IndexFlatL2(features)
            if device.type == "cuda":
                index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
            index.add(points)
            return index

        if device.type == "cpu" or hasattr(faiss, "StandardGpuResources"):
            found["faiss IndexFlatL2"] = indexed(
                flat, lambda index, wanted: index.search(wanted, n_neighbors + 1)[1], some
            )
    except ImportError as error:
        print(f"faiss is left out: {error}")
    try:
        from pynndescent import NNDescent

        def approximate():
            begin = clock()
            graph = NNDescent(points, n_neighbors=n_neighbors + 1, random_state=0, n_jobs=threads).neighbor_graph[0]
            return clock() - begin, without_self(graph, n_neighbors)

        if device.type == "cpu":
            NNDescent(np.random.default_rng(1).random((500, 5), dtype=np.float32), n_neighbors=5)  # compiles
            found["pynndescent (approximate)"] = approximate
    except ImportError as error:
        print(f"pynndescent is left out: {error}")
    return found


def without_self(found: np.ndarray, n_neighbors: int) -> np.ndarray:
    """The first k found that are not the point itself."""
    own = found == np.arange(len(found))[:, None]
    order = np.argsort(own, axis=1, kind="stable")  # the point itself goes last
    return np.take_along_axis(found, order, axis=1)[:, :n_neighbors]


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the exact neighbours that were found."""
    rows = min(len(found), len(exact), 5000)
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found[:rows], exact[:rows], strict=True)]))


def measure(
    sizes: dict[str, tuple[int, int]] | None = None,
    device: str = "cpu",
    threads: int = 1,
    n_neighbors: int = 15,
    queries: int = 6000,
    rounds: int = 3,
) -> dict[str, dict[str, dict[str, float]]]:
    """Size -> library -> median seconds for the whole graph, median ratio of ours to it, recall of the exact graph.

    Arguments:
        sizes: name -> points and features (default: :data:`SIZES`).
        device: where ours, and faiss if it can, computes.
        threads: of every library.
        n_neighbors: k.
        queries: so many points are looked up by the other libraries, and their time scaled to all.
        rounds: of all libraries, one after the other.
    """
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    results = {}
    try:
        for name, (count, features) in (SIZES if sizes is None else sizes).items():
            try:
                points = points_of(name, count, features)
            except FileNotFoundError as error:
                print(f"{name} is left out: {error}")
                continue
            with threadpool_limits(threads):
                found = contenders(points, n_neighbors, torch.device(device), threads, min(queries, count))
                turns = [{library: run() for library, run in found.items()} for _ in range(max(1, rounds))]
            exact = turns[0][OURS][1]
            results[name] = {
                library: {
                    "seconds": round(median(turn[library][0] for turn in turns), 4),
                    "ratio": round(median(turn[OURS][0] / turn[library][0] for turn in turns), 3),
                    "recall": round(recall(turns[0][library][1], exact), 5),
                }
                for library in found
            }
    finally:
        torch.set_num_threads(before)
    return results


def table(title: str, rows: dict[str, dict[str, float]]) -> str:
    heading = f"{title:28}{'seconds':>12}{'ours / it':>12}{'recall':>10}"
    lines = [f"{name:28}{row['seconds']:12.3f}{row['ratio']:12.2f}{row['recall']:10.4f}" for name, row in rows.items()]
    return "\n".join([heading, "-" * len(heading), *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all runs")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--queries", type=int, default=6000, help="points looked up by others (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every library (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args()
    runs.check_device(arguments.device)
    options = {name: getattr(arguments, name) for name in ("device", "threads", "queries", "rounds")}
    provenance = {
        "device": runs.device_name(arguments.device),
        **runs.environment(),
        "clock": "processor" if arguments.device == "cpu" and arguments.threads == 1 else "wall",
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "n_neighbors": 15,
    }
    print(", ".join(f"{key} {value}" for key, value in provenance.items()))
    results = {}
    for name, size in (QUICK if arguments.quick else SIZES).items():
        for title, rows in measure({name: size}, **options).items():
            results[title] = rows
            print("\n" + table(title, rows), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(provenance | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
