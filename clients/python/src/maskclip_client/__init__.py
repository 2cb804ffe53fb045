"""Client of the MaskCLIP server: label images by class names.

>>> from maskclip_client import Client
>>> with Client("http://127.0.0.1:8080") as client:
...     result = client.segment("cat.jpg", ["cat", "grass"], background=True)
...     result.mask("cat")  # a NumPy array of bool, [height, width]

`AsyncClient` has the same methods as coroutines.
"""

from ._client import AsyncClient, AsyncImage, Client, Image
from ._errors import MaskclipError, Problem, ProblemError, UnreadableImage
from ._request import ClassSpec, ImageInput, Options
from ._retry import Retry
from ._result import BatchItem, ClassPolygons, ClassResult, HeldImage, Panoptic, Segment, Segmentation, VocabularyStatus

__all__ = [
    "AsyncClient",
    "AsyncImage",
    "BatchItem",
    "ClassPolygons",
    "ClassResult",
    "ClassSpec",
    "Client",
    "HeldImage",
    "Image",
    "ImageInput",
    "MaskclipError",
    "Options",
    "Panoptic",
    "Problem",
    "ProblemError",
    "Retry",
    "Segment",
    "Segmentation",
    "UnreadableImage",
    "VocabularyStatus",
]
