"""What is timed with `--before`: our sides of the stages, each in turns with that of an earlier build, without peers.

Two processes of one program may differ by some per cent for as long as they live. So every round starts both builds anew,
each build first in every other round. The outputs of every round are compared.
"""

from __future__ import annotations

import io
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import report
from PIL import Image
from sides import Server
from stages import REQUEST, SMALLEST_COSINE, WARM_UPS, Bench, Measured, all_of, check, our_precision, timed_requests
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor


def turns(before: Bench, now: Bench) -> Iterator[dict[str, Bench]]:
    """Both builds in the order of each round, for that round alone."""
    pair = [("before", replace(before, rounds=1)), ("now", replace(now, rounds=1))]
    for number in range(now.rounds):
        yield dict(pair[:: -1 if number % 2 else 1])


def programs(stage: str, precisions: tuple[str | None, ...], before: Bench, now: Bench, warm_ups: int = WARM_UPS) -> Measured:
    """A stage of benches/stages.rs in each precision."""
    rows, samples, similar = [], defaultdict(list), {}
    for precision in precisions:
        title = f"{stage}, {precision}" if precision else stage
        for builds in turns(before, now):
            with all_of(**{name: build.ours(stage, precision) for name, build in builds.items()}) as sides:
                seconds = builds["now"].interleave({name: side.run for name, side in sides.items()}, warm_ups)
                results = (sides[name].result(now.folder) for name in ("now", "before"))
                similar |= check(title, precision or "float32", *results)
            for name in sides:
                samples[f"{title}, {name}"] += seconds[name]
        rows.append(report.builds(title, samples[f"{title}, before"], samples[f"{title}, now"]))
    return Measured(rows, dict(samples), similar)


def requests(before: Bench, now: Bench) -> Measured:
    """Whole requests to both servers, as in the stage `requests`; a sample is the median of a round's."""
    photograph = now.inputs.jpeg.read_bytes()
    precisions, samples, similar = set(), defaultdict(list), {}
    for builds in turns(before, now):
        with all_of(**{name: build.our_server() for name, build in builds.items()}) as servers:
            precisions |= {our_precision(server) for server in servers.values()}
            results = (labels(servers[name], photograph) for name in ("now", "before"))
            similar |= check("request", our_precision(servers["now"]), *results)
            for name, seconds in timed_requests(builds["now"], servers).items():
                samples[name].append(statistics.median(seconds))
    titles = {f"whole request, {' and '.join(sorted(precisions))}": "", "whole request less the model": ", rest"}
    rows = [report.builds(title, samples[f"before{part}"], samples[f"now{part}"]) for title, part in titles.items()]
    return Measured(rows, dict(samples), similar)


def labels(server: Server, photograph: bytes) -> dict[str, Tensor]:
    """The label map of the timed request."""
    reply = server.segment(server.connect(), photograph, REQUEST, "image/png")
    return {"labels": pil_to_tensor(Image.open(io.BytesIO(reply.body)))}


BUILDS: dict[str, Callable[[Bench, Bench], Measured]] = {
    "forward": partial(programs, "forward", tuple(SMALLEST_COSINE)),
    "texts": partial(programs, "texts", tuple(SMALLEST_COSINE), warm_ups=0),  # a run is long
    "label-map": partial(programs, "label-map", (None,)),
    "pixels": partial(programs, "pixels", (None,)),
    "requests": requests,
}
"""The stages in the order in which they run; each takes the earlier build and the present one."""
