"""What the document's schemas cannot say of a valid request, such as which bytes are an image and which parts of a form go together.

The hook changes only what its schema allows, so that an invalid request stays invalid.
"""

import base64
import copy
import re

import schemathesis

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mP4v4ABK2IYWhIAyeBnwXyeEDwAAAAASUVORK5CYII="
)
NAME = re.compile(r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$")
"""A name, as the document has it."""
LARGEST = 2**32 - 1
"""Of the document's 32-bit numbers."""
SECONDS = 60
"""Long enough for any answer of this test. A short deadline is answered with 504."""


@schemathesis.hook
def before_call(context, case, kwargs):
    """Mends JSON bodies, and the part `request` of forms."""
    for name in ("If-Match", "If-None-Match"):
        # Schemathesis takes 0 for a text of any pattern.
        if case.headers and case.headers.get(name) == "0":
            del case.headers[name]
    body = case.body
    if not isinstance(body, dict):
        return
    body = copy.deepcopy(body)
    request = body.get("request")
    is_form = case.media_type == "multipart/form-data"
    if is_form and case.path in ("/v1/segment", "/v1/segment/batch"):
        complete(body, is_batch=case.path.endswith("/batch"))
    if is_form and case.path == "/v1/segment/batch":
        images = body.pop("image", None)
        # On the wire every part is bytes, so that one of another type would be an image like any other.
        if isinstance(images, list) and all(isinstance(image, (bytes, str)) for image in images):
            body["image"] = [PNG for _ in images]
    if isinstance(body.get("image"), (bytes, str)):
        body["image"] = PNG if is_form else base64.b64encode(PNG).decode()
    for fields in (body, request):
        if isinstance(fields, dict):
            mend(fields, has_image=isinstance(body.get("image"), (bytes, str)))
    case.body = body
    # Otherwise Schemathesis judges the changed body anew, and then calls a null inside a form's JSON part invalid.
    case._record_starting_state()


def complete(form, is_batch):
    """Adds what a form needs, and its schema cannot say: an image or its id, which a batch must have, and texts."""
    request = form.get("request")
    if not isinstance(request, dict):
        return
    if request.get("image_id") is None and not is_batch:
        form.setdefault("image", PNG)
    if all(request.get(name) is None for name in ("classes", "vocabulary", "protocol")):
        request["classes"] = ["tiger"]


def mend(fields, has_image):
    if isinstance(fields.get("model"), str):
        fields["model"] = "demo"
    if fields.get("attention") == "clip-no-positions":
        # It is for ResNets, and the model of this test is a ViT, which has all others.
        fields["attention"] = "clip"
    if isinstance(fields.get("protocol"), str):
        fields["protocol"] = "sclip-voc21"
    if has_image and isinstance(fields.get("image_id"), str):
        del fields["image_id"]
    if fields.get("classes") and isinstance(fields.get("vocabulary"), str):
        del fields["vocabulary"]
    if is_number(fields.get("deadline_seconds"), 0, float("inf")):
        fields["deadline_seconds"] = SECONDS
    if is_number(fields.get("temperature"), 0, 1000):
        fields["temperature"] = max(fields["temperature"], 0.01)
    if is_whole(fields.get("short_side")):
        fields["short_side"] = min(fields["short_side"], 448)
    scales = fields.get("scales")
    if isinstance(scales, list) and scales and all(is_number(scale) for scale in scales):
        fields["scales"] = [1]
    output = fields.get("output")
    if isinstance(output, dict):
        if is_whole(output.get("unlabelled"), least=0, most=65535):
            # No class, and the largest value of few classes.
            output["unlabelled"] = 255
        if isinstance(output.get("colors"), list):
            # One for each class at most.
            output["colors"] = output["colors"][:1]
        names = output.get("probability_maps")
        if isinstance(names, list) and all(isinstance(name, str) and NAME.search(name) for name in names):
            # Names are those of classes.
            output["probability_maps"] = []
    window = fields.get("window")
    if isinstance(window, dict) and set(window) <= {"side", "stride"} and is_whole(window.get("side")):
        stride = window.get("stride")
        if stride is None or is_whole(stride):
            window["side"] = 224
        if is_whole(stride):
            window["stride"] = 112


def is_number(value, above=float("-inf"), at_most=float("inf")):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and above < value <= at_most


def is_whole(value, least=1, most=LARGEST):
    return is_number(value) and least <= value <= most and value == int(value)
