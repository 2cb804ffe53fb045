"""What is timed: the sides of each stage, what is compared before, and the rows of the tables.

In a round each side runs once, ours next to theirs. Ratios are of samples of the same round.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from inputs import (
    COMPARED_NAMES, LABEL_MAP_SIZE, NAMES, PATCH, REPOSITORY, SAMPLED_PROMPTS, SIDE, TEMPLATES, Inputs, forward_flop,
)  # fmt: skip
from peer import GEMM_SIDE
from report import Row, at_least, at_most, compared, percentile, ratios, seconds, significant, spread
from sides import Process, Server, Side, environment
from torch import Tensor

HERE = Path(__file__).parent
WARM_UPS = 2
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
CLIENTS = 16
REQUESTS_PER_CLIENT = 2
"""Requests of each of the CLIENTS in a round."""
REQUESTS_PER_ROUND = 3
"""Requests of a single client in a round."""
SMALLEST_COSINE = {"float32": 0.9999, "bfloat16": 0.999}
"""The smallest cosine allowed between our feature of a cell, or embedding of a name, and the reference's."""
SAME_LABELS = {"float32": 0.9999, "bfloat16": 0.99}
"""The smallest share of pixels whose label must be the reference's."""
BATCH_IMAGES = 4
BATCH_SIDES = (224, 256, 448)
"""Images of the stage `batch`, and their sides in pixels."""
LARGEST_PIXEL_ERROR = 4 / 255 / 0.26
"""In units of the normalisation: JPEG decoders differ by up to 3 of 255, resizes by 1."""


@dataclass
class Measured:
    """A stage's rows, and the samples behind them."""

    rows: list[Row] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)
    """Seconds unless the name says otherwise, in the order of measuring."""
    compared: dict[str, float] = field(default_factory=dict)
    """How similar the compared outputs were."""


@dataclass(frozen=True)
class Bench:
    """What all stages need: inputs, programs and settings."""

    inputs: Inputs
    stages: Path
    """The program of benches/stages.rs."""
    maskclip: Path
    """The server."""
    python: str
    folder: Path
    """The folder for logs and for files that processes exchange."""
    threads: int
    rounds: int
    quick: bool
    """Whether to do less work, only to see that everything runs."""

    @property
    def names(self) -> Path:
        """The file of the names that `texts` embeds when it is timed."""
        return self.inputs.compared_names if self.quick else NAMES

    def ours(self, stage: str, precision: str | None = None, names: Path | None = None) -> Side:
        """Our program for a stage. A stage that runs the model needs a precision; `names` are for `texts`."""
        width, height = map(str, LABEL_MAP_SIZE)
        arguments = {
            "forward": ["--pixels", self.inputs.tensors],
            "texts": ["--names", names or self.names],
            "label-map": ["--scores", self.inputs.tensors, "--width", width, "--height", height],
            "pixels": ["--image", self.inputs.jpeg, "--short-side", str(SIDE), "--patch", str(PATCH)],
        }[stage]
        model = ["--weights", self.inputs.weights, "--precision", precision] if precision else []
        command = [self.stages, stage, "--threads", str(self.threads), *model, *arguments]
        return self.side(f"{self.stages} {stage}", command)

    def batch(self, weights: Path, side: int, together: bool) -> Side:
        """Our program for BATCH_IMAGES images in bfloat16."""
        model = ["--weights", weights, "--precision", "bfloat16", "--threads", str(self.threads)]
        images = ["--images", str(BATCH_IMAGES), "--side", str(side), *(["--together"] if together else [])]
        return self.side(f"{self.stages} batch", [self.stages, "batch", *model, *images])

    def peer(self, kind: str, precision: str = "float32") -> Side:
        options = ["--inputs", self.inputs.folder, "--precision", precision, "--threads", str(self.threads)]
        return self.side(kind, [self.python, HERE / "peer.py", kind, *options])

    def side(self, name: str, command: list[str | Path]) -> Side:
        # The cache of torch.compile lies beside the inputs.
        more = {"TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor")}
        return Side(name, command, environment(self.threads, more), self.folder / "log.txt")

    def our_server(self, store: str = "none", keeps: bool = False) -> Server:
        """Our server. Unless it `keeps` features, every request runs the model on its image, as with the peer."""
        command = [self.maskclip, "serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--model", self.inputs.weights]
        more = {
            "MASKCLIP_TELEMETRY__LOG_FILTER": "warn",
            "MASKCLIP_VOCABULARY__STORE_PATH": store,
            **({} if keeps else {"MASKCLIP_IMAGES__CACHE_BYTES": "0"}),
            "MASKCLIP_MODEL__THREADS": str(self.threads),
        }
        return Server(str(self.maskclip), command, environment(self.threads, more), self.folder / "log.txt")

    def peer_server(self) -> Server:
        options = ["--inputs", self.inputs.folder, "--precision", "bfloat16", "--threads", str(self.threads)]
        command = [self.python, HERE / "peer_server.py", *options]
        return Server("FastAPI and open_clip", command, environment(self.threads), self.folder / "log.txt")

    def interleave(self, sides: Mapping[str, Callable[[], float]], warm_ups: int = WARM_UPS) -> dict[str, list[float]]:
        """Measures round after round; returns the samples of each side."""
        for _ in range(warm_ups):
            for run in sides.values():
                run()
        samples: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(self.rounds):
            for name, run in sides.items():
                samples[name].append(run())
        return samples


@contextmanager
def all_of(**processes: Process) -> Iterator[dict[str, Process]]:
    """Yields the processes by name and ends them with the block."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(closing(process)) for name, process in processes.items()}


def check(name: str, precision: str, ours: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
    """How similar our output is to a reference, by name. Ends the run if it shows that ours computed something else."""
    similar = {}
    for kind, tensor in ours.items():
        other = reference[kind]
        if tensor.shape != other.shape:
            raise SystemExit(f"{name} gives {kind} of {list(tensor.shape)}, not {list(other.shape)}")
        match kind:
            case "labels":
                what, value = "share that is the same", (tensor == other).float().mean().item()
                holds = value >= SAME_LABELS[precision]
            case "confidence":
                what, value = "largest difference of 255", (tensor.int() - other.int()).abs().max().item()
                holds = value <= 1
            case "pixels":
                what, value = "largest difference", (tensor - other).abs().max().item()
                holds = value <= LARGEST_PIXEL_ERROR
            case _:
                what, value = "smallest cosine", torch.cosine_similarity(tensor, other, dim=-1).min().item()
                holds = value >= SMALLEST_COSINE[precision]
        if not holds:
            raise SystemExit(f"{name} computes something else than the reference: {kind}, {what}: {value}")
        similar[f"{name}, {kind}, {what}"] = value
    return similar


def forward(bench: Bench) -> Measured:
    """One image through the visual tower, MaskCLIP's dense features of all tokens."""
    precisions = ("float32", "bfloat16")
    makers = {
        (precision, name): make
        for precision in precisions
        for name, make in {
            "ours": lambda precision: bench.ours("forward", precision),
            "open_clip": lambda precision: bench.peer("eager", precision),
            "torch.compile": lambda precision: bench.peer("compile", precision),
            "OpenVINO": lambda precision: bench.peer("openvino", precision),
            "ONNX Runtime": lambda precision: bench.peer("onnxruntime", precision),
            "GEMM": lambda precision: bench.peer("gemm", precision),
        }.items()
        if (precision, name) != ("bfloat16", "ONNX Runtime")  # it has no bfloat16 on a CPU
    }
    measured = Measured()
    with ExitStack() as stack:
        sides = {
            f"{name} {precision}": stack.enter_context(closing(make(precision)))
            for (precision, name), make in makers.items()
        }
        reference = sides["open_clip float32"].output(bench.folder)
        for (precision, kind), name in zip(makers, sides, strict=True):
            if kind != "GEMM":
                measured.compared |= check(name, precision, sides[name].output(bench.folder), reference)
        measured.samples = bench.interleave({name: side.run for name, side in sides.items()})

    samples = measured.samples
    bars = {
        ("ours bfloat16", "OpenVINO bfloat16"): 0.95,
        ("ours float32", "ONNX Runtime float32"): 1.0,
    }
    for precision in precisions:
        ours = f"ours {precision}"
        for (peer_precision, kind), name in zip(makers, samples, strict=True):
            if peer_precision == precision and kind not in ("ours", "GEMM"):
                bar = bars.get((ours, name))
                measured.rows.append(compared(f"forward, {precision}", (ours, samples[ours]), (name, samples[name]), bar))
    ours, eager = "ours bfloat16", "open_clip float32"
    measured.rows.append(compared("forward, bfloat16 beside float32", (ours, samples[ours]), (eager, samples[eager])))
    for precision, bar in (("float32", None), ("bfloat16", 0.85)):
        rate = [forward_flop() / sample for sample in samples[f"ours {precision}"]]
        limit = [2 * GEMM_SIDE**3 / sample for sample in samples[f"GEMM {precision}"]]
        share = ratios(rate, limit)
        row = Row(
            f"forward, {precision}, share of the GEMM rate",
            spread([value / 1e9 for value in rate], "GFLOPS"),
            f"torch {GEMM_SIDE} x {GEMM_SIDE} matmul: {spread([value / 1e9 for value in limit], 'GFLOPS')}",
            spread(share),
            "" if bar is None else at_least(share, bar),
        )
        measured.rows.append(row)
    return measured


def batch(bench: Bench) -> Measured:
    """Several images of one size in bfloat16, each alone beside all in one pass."""
    measured = Measured()
    models = {name: REPOSITORY / "models" / name / "model.safetensors" for name in ("demo", "demo-vit")}
    for (name, weights), side in itertools.product((models | {"ViT-B/16": bench.inputs.weights}).items(), BATCH_SIDES):
        title = f"{BATCH_IMAGES} images through {name}, {side} pixels"
        with all_of(together=bench.batch(weights, side, True), alone=bench.batch(weights, side, False)) as sides:
            outputs = (program.output(bench.folder) for program in sides.values())
            measured.compared |= check(title, "bfloat16", *outputs)
            samples = bench.interleave({way: program.run for way, program in sides.items()})
        measured.samples |= {f"{title}, {way}": found for way, found in samples.items()}
        measured.rows.append(compared(title, ("together", samples["together"]), ("alone", samples["alone"])))
    return measured


def texts(bench: Bench) -> Measured:
    """171 classes in 85 templates, cold. open_clip embeds a sample of the prompts, and its time is scaled."""
    prompts = len(bench.names.read_text().splitlines()) * len(TEMPLATES.read_text().splitlines())
    measured = Measured()
    with all_of(peer=bench.peer("texts")) as sides:
        peer = sides["peer"]
        reference = peer.output(bench.folder)
        for precision in SMALLEST_COSINE:
            with all_of(ours=bench.ours("texts", precision, bench.inputs.compared_names)) as few_names:
                embeddings = few_names["ours"].output(bench.folder)
            measured.compared |= check(f"ours {precision}", precision, embeddings, reference)
        ours = {f"ours {precision}": bench.ours("texts", precision) for precision in SMALLEST_COSINE}
        with all_of(**ours):
            runs = {name: side.run for name, side in ours.items()}
            scale = prompts / SAMPLED_PROMPTS
            runs["open_clip float32, scaled"] = lambda: scale * peer.run()
            # The comparison has warmed everything up, and a run is long.
            measured.samples = bench.interleave(runs, warm_ups=0)
    samples = measured.samples
    peer_samples = ("open_clip float32, scaled", samples["open_clip float32, scaled"])
    for precision, bar in (("float32", 20), ("bfloat16", 40)):
        name = f"ours {precision}"
        measured.rows.append(compared(f"vocabulary, cold, {prompts:,} prompts", (name, samples[name]), peer_samples, bar))
    return measured


def seen(bench: Bench) -> Measured:
    """The server's start, and `text_seconds` for a vocabulary that it has seen, in memory and after a restart."""
    photograph = bench.inputs.jpeg.read_bytes()
    names = [NAMES.read_text().splitlines()[index] for index in COMPARED_NAMES]
    request = {
        **({"classes": names} if bench.quick else {"vocabulary": "coco-stuff-171"}),
        "templates": "maskclip-85",
        "short_side": 224,
        "deadline_seconds": 300,
        "output": {"label_map": "none"},
    }
    samples: dict[str, list[float]] = {"start": [], "after a restart": [], "in memory": []}

    def text_seconds(server: Server) -> float:
        # The server goes on embedding after the deadline, so a repeat finds the texts.
        while True:
            reply = server.segment(server.connect(), photograph, request, "application/json", (200, 504))
            if reply.status == 200:
                return json.loads(reply.body)["timings"]["text_seconds"]

    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/store.sqlite3"
        with closing(bench.our_server(store)) as server:
            samples["cold, through the server"] = [text_seconds(server)]
        for _ in range(bench.rounds):
            with closing(bench.our_server(store)) as server:
                samples["start"].append(server.start_seconds)
                samples["after a restart"].append(text_seconds(server))
                samples["in memory"].append(text_seconds(server))
    bars = {"start": (2.0, "2 s"), "after a restart": (0.010, "10 ms"), "in memory": (0.001, "1 ms")}
    titles = {"start": "start, until ready"}
    rows = [
        Row(titles.get(name, f"vocabulary seen before, {name}"), seconds(samples[name]), bar=at_most(samples[name], *bar))
        for name, bar in bars.items()
    ]
    return Measured(rows, samples)


def label_map(bench: Bench) -> Measured:
    """Labels and confidence of 171 classes at image size; ours computes statistics, too."""
    width, height = LABEL_MAP_SIZE
    measured = Measured()
    with all_of(ours=bench.ours("label-map"), torch=bench.peer("label-map")) as sides:
        outputs = (side.output(bench.folder) for side in sides.values())
        measured.compared = check("ours", "float32", *outputs)
        measured.samples = bench.interleave({name: side.run for name, side in sides.items()})
        peaks = {name: side.peak_bytes for name, side in sides.items()}
    samples = measured.samples
    measured.samples |= {f"{name}, peak bytes": [peak] for name, peak in peaks.items()}
    size = f"{width} x {height}"
    beyond = max(0, peaks["ours"] - width * height * 3) / 1e6  # 16 bits of label and 8 of confidence
    memory = Row(
        f"label map, {size}, memory beyond the result",
        f"{significant(beyond)} MB",
        f"{significant(peaks['torch'] / 1e6)} MB, its result of 12 bytes a pixel included",
        bar=at_most([beyond], 64, "64 MB"),
    )
    ours, peer = (("ours", samples["ours"]), ("torch interpolate, softmax, max", samples["torch"]))
    measured.rows = [compared(f"label map, {size}", ours, peer, 20), memory]
    return measured


def pixels(bench: Bench) -> Measured:
    """From a JPEG of one megapixel to the model's input."""
    measured = Measured()
    with all_of(ours=bench.ours("pixels"), peer=bench.peer("pixels")) as sides:
        outputs = (side.output(bench.folder) for side in sides.values())
        measured.compared = check("ours", "float32", *outputs)
        measured.samples = bench.interleave({name: side.run for name, side in sides.items()})
    samples = measured.samples
    pair = (("ours", samples["ours"]), ("Pillow and torchvision", samples["peer"]))
    measured.rows = [compared("decode, resize, normalise, 1 megapixel", *pair)]
    return measured


REQUEST = {"classes": CLASSES, "templates": "simple", "short_side": SIDE, "deadline_seconds": 300}


def segment(server: Server, photograph: bytes) -> tuple[float, float]:
    """The seconds of a whole request on an open connection, and the model's share of them in seconds."""
    connection = server.connect()
    connection.connect()
    before = server.model_seconds()
    reply = server.segment(connection, photograph, REQUEST, "image/png")
    connection.close()
    return reply.seconds, server.model_seconds() - before


def our_precision(server: Server) -> str:
    """The precision that `auto` chose."""
    models = json.loads(server.request(server.connect(), "GET", "/v1/models").body)["models"]
    return models[0]["precision"]


def timed_requests(bench: Bench, servers: Mapping[str, Server]) -> dict[str, list[float]]:
    """The seconds of whole requests to each server in turns, and how much of them was the model's and the rest's."""
    photograph = bench.inputs.jpeg.read_bytes()
    samples: dict[str, list[float]] = {f"{name}{part}": [] for name in servers for part in ("", ", model", ", rest")}
    for server in servers.values():
        for _ in range(WARM_UPS):
            segment(server, photograph)
    for _ in range(bench.rounds * REQUESTS_PER_ROUND):
        for name, server in servers.items():
            whole, model = segment(server, photograph)
            samples[name].append(whole)
            samples[f"{name}, model"].append(model)
            samples[f"{name}, rest"].append(whole - model)
    return samples


def requests(bench: Bench) -> Measured:
    """A JPEG of one megapixel in, a PNG out, 20 classes that are embedded already, one client."""
    with all_of(ours=bench.our_server(), peer=bench.peer_server()) as servers:
        ours = f"ours {our_precision(servers['ours'])}"
        samples = timed_requests(bench, servers)
        memory = [f"{significant(server.status_bytes('VmRSS') / 1e6)} MB" for server in servers.values()]
    rest = samples["ours, rest"]
    peer = "FastAPI and open_clip bfloat16"
    less_model = compared("whole request less the model", (ours, rest), (peer, samples["peer, rest"]))
    rows = [
        compared("whole request, 1 megapixel, 20 classes", (ours, samples["ours"]), (peer, samples["peer"])),
        Row(less_model.stage, less_model.ours, less_model.peer, less_model.ratio, at_most(rest, 0.025, "25 ms")),
        Row("resident memory after these", memory[0], memory[1]),
    ]
    return Measured(rows, samples)


def crowd(server: Server, photograph: bytes) -> tuple[list[float], float]:
    """All clients at once, each with one request after the other: the seconds of each request and of the whole."""

    def client(_: int) -> list[float]:
        with closing(server.connect()) as connection:
            return [
                server.segment(connection, photograph, REQUEST, "image/png").seconds for _ in range(REQUESTS_PER_CLIENT)
            ]

    with ThreadPoolExecutor(CLIENTS) as pool:
        start = time.perf_counter()
        latencies = [seconds for client_seconds in pool.map(client, range(CLIENTS)) for seconds in client_seconds]
        return latencies, time.perf_counter() - start


def clients(bench: Bench) -> Measured:
    """16 clients at once, and one client at the same server in the same round."""
    photograph = bench.inputs.jpeg.read_bytes()
    kinds = ("alone", "alone, model", "latency", "requests per second", "resident bytes")
    samples: dict[str, list[float]] = {f"{side}, {kind}": [] for side in ("ours", "peer") for kind in kinds}
    with all_of(ours=bench.our_server(), peer=bench.peer_server()) as servers:
        ours = f"ours {our_precision(servers['ours'])}"
        for server in servers.values():
            for _ in range(WARM_UPS):
                segment(server, photograph)
        for _ in range(bench.rounds):
            for name, server in servers.items():
                alone = [segment(server, photograph) for _ in range(REQUESTS_PER_ROUND)]
                samples[f"{name}, alone"].append(statistics.median(whole for whole, _ in alone))
                samples[f"{name}, alone, model"].append(statistics.median(model for _, model in alone))
                latencies, elapsed = crowd(server, photograph)
                samples[f"{name}, latency"] += latencies
                samples[f"{name}, requests per second"].append(len(latencies) / elapsed)
                samples[f"{name}, resident bytes"].append(server.status_bytes("VmRSS"))
    return Measured(rows_of_clients(samples, ours), samples)


def rows_of_clients(samples: Mapping[str, Sequence[float]], ours: str) -> list[Row]:
    peer = "FastAPI and open_clip bfloat16"
    rates = {name: samples[f"{name}, requests per second"] for name in ("ours", "peer")}
    shares = {
        name: [rate * model for rate, model in zip(rates[name], samples[f"{name}, alone, model"], strict=True)]
        for name in rates
    }

    def latency(name: str) -> str:
        p50, p99 = (1000 * percentile(samples[f"{name}, latency"], share) for share in (0.5, 0.99))
        return f"{significant(p50)} and {significant(p99)} ms"

    def memory(name: str) -> str:
        first, last = (samples[f"{name}, resident bytes"][index] / 1e6 for index in (0, -1))
        return f"{first:.0f} and {last:.0f} MB"

    service = [percentile(samples["ours, latency"], 0.99) / statistics.median(samples["ours, alone"])]
    return [
        Row(
            f"{CLIENTS} clients at once",
            f"{ours}: {spread(rates['ours'], 'requests/s')}",
            f"{peer}: {spread(rates['peer'], 'requests/s')}",
            spread(ratios(rates["ours"], rates["peer"])),
        ),
        Row(
            f"{CLIENTS} clients, share of one client's model rate",
            spread(shares["ours"]),
            spread(shares["peer"]),
            bar=at_least(shares["ours"], 0.95),
        ),
        Row(f"{CLIENTS} clients, median and 99th percentile", latency("ours"), latency("peer")),
        Row(
            f"{CLIENTS} clients, 99th percentile in service times of one client",
            significant(service[0]),
            bar=at_most(service, 20, "20"),
        ),
        Row(f"{CLIENTS} clients, resident memory after the first and the last round", memory("ours"), memory("peer")),
    ]


OTHER_REQUEST = REQUEST | {"classes": NAMES.read_text().splitlines()[: len(CLASSES)]}


def commented(photograph: bytes, comment: str) -> bytes:
    """The same picture in other bytes: a JPEG with a comment after its first marker."""
    segment = b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment.encode()
    return photograph[:2] + segment + photograph[2:]


def kept(bench: Bench) -> Measured:
    """An image that the server has not seen, then another class list for it: by the same upload, or by `image_id`."""
    photograph = bench.inputs.jpeg.read_bytes()
    samples: dict[str, list[float]] = {"first": [], "same upload": [], "image_id": []}
    with closing(bench.our_server(keeps=True)) as server, closing(server.connect()) as connection:
        ours = f"ours {our_precision(server)}"
        for number in range(WARM_UPS + bench.rounds * REQUESTS_PER_ROUND):
            image = commented(photograph, f"number {number}")
            first = server.segment(connection, image, REQUEST, "image/png")
            upload = server.segment(connection, image, OTHER_REQUEST, "image/png")
            held = server.upload(connection, "/v1/images", image, {"short_side": SIDE}, allowed=(201,))
            body = json.dumps(OTHER_REQUEST | {"image_id": json.loads(held.body)["image_id"]}).encode()
            headers = {"Content-Type": "application/json", "Accept": "image/png"}
            by_id = server.request(connection, "POST", "/v1/segment", body, headers)
            if by_id.body != upload.body:
                raise SystemExit("the image_id has another label map than its upload")
            if number >= WARM_UPS:
                for name, reply in zip(samples, (first, upload, by_id), strict=True):
                    samples[name].append(reply.seconds)
    first = ("first request", samples["first"])
    rows = [
        compared(f"another class list, {name}", (ours, samples[name]), first, bar)
        for name, bar in (("same upload", None), ("image_id", 20))
    ]
    return Measured(rows, samples)


STAGES: dict[str, Callable[[Bench], Measured]] = {
    "forward": forward,
    "batch": batch,
    "texts": texts,
    "seen": seen,
    "label-map": label_map,
    "pixels": pixels,
    "requests": requests,
    "kept": kept,
    "clients": clients,
}
"""The stages in the order in which they run."""
