"""What is timed with `--before`: our sides of the stages, each in turns with that of an earlier build, without peers."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import report
from PIL import Image
from sides import Server
from stages import REQUEST, SMALLEST_COSINE, Bench, Measured, all_of, check, our_precision, timed_requests
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor


def programs(stage: str, precisions: tuple[str | None, ...], before: Bench, now: Bench) -> Measured:
    """A stage of benches/stages.rs in each precision."""
    measured = Measured()
    for precision in precisions:
        title = f"{stage}, {precision}" if precision else stage
        with all_of(before=before.ours(stage, precision), now=now.ours(stage, precision)) as sides:
            earlier, later = (side.output(now.folder) for side in sides.values())
            measured.compared |= check(title, precision or "float32", later, earlier)
            # The comparison has warmed everything up once.
            samples = now.interleave({name: side.run for name, side in sides.items()}, warm_ups=1)
        measured.samples |= {f"{title}, {name}": seconds for name, seconds in samples.items()}
        measured.rows.append(report.builds(title, samples["before"], samples["now"]))
    return measured


def requests(before: Bench, now: Bench) -> Measured:
    """Whole requests to both servers, as in the stage `requests`."""
    with all_of(before=before.our_server(), now=now.our_server()) as servers:
        earlier, later = (labels(server, now.inputs.jpeg.read_bytes()) for server in servers.values())
        precisions = {name: our_precision(server) for name, server in servers.items()}
        compared = check("request", precisions["now"], later, earlier)
        samples = timed_requests(now, servers)
    chosen = " and ".join(dict.fromkeys(precisions.values()))
    titles = {f"whole request, {chosen}": "", "whole request less the model": ", rest"}
    rows = [report.builds(title, samples[f"before{part}"], samples[f"now{part}"]) for title, part in titles.items()]
    return Measured(rows, samples, compared)


def labels(server: Server, photograph: bytes) -> dict[str, Tensor]:
    """The label map of the timed request."""
    reply = server.segment(server.connect(), photograph, REQUEST, "image/png")
    return {"labels": pil_to_tensor(Image.open(io.BytesIO(reply.body)))}


BUILDS: dict[str, Callable[[Bench, Bench], Measured]] = {
    "forward": partial(programs, "forward", tuple(SMALLEST_COSINE)),
    "texts": partial(programs, "texts", tuple(SMALLEST_COSINE)),
    "label-map": partial(programs, "label-map", (None,)),
    "pixels": partial(programs, "pixels", (None,)),
    "requests": requests,
}
"""The stages in the order in which they run; each takes the earlier build and the present one."""
