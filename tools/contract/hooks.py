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
    speak(case)
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
    if is_form and case.path == "/v1/classify":
        complete(body, is_batch=False)
    if isinstance(body.get("image"), (bytes, str)):
        body["image"] = PNG if is_form else base64.b64encode(PNG).decode()
    for fields in (body, request):
        if isinstance(fields, dict):
            mend(fields, has_image=isinstance(body.get("image"), (bytes, str)))
    case.body = body
    # Otherwise Schemathesis judges the changed body anew, and then calls a null inside a form's JSON part invalid.
    case._record_starting_state()


IMAGE = "data:image/png;base64," + base64.b64encode(PNG).decode()
CONFIGURATION = (
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="label" toName="image"><Label value="tiger"/></BrushLabels></View>'
)


def speak(case):
    """Mends requests of the protocols of other servers."""
    body, query = case.body, case.query or {}
    if case.headers:
        # What a text says is not in its schema, and this one would have to be the length of the body's JSON.
        case.headers.pop("inference-header-content-length", None)
    if isinstance(body, dict):
        case.body = body = copy.deepcopy(body)
    if case.path == "/v1/embeddings" and isinstance(body, dict):
        mend_inputs(body)
    elif case.path == "/" and case.method == "POST":
        if case.media_type == "application/octet-stream":
            case.body = PNG
        mend_hub_task(body if isinstance(body, dict) else {}, query)
        case.query = query
    elif case.path == "/setup" and isinstance(body, dict) and isinstance(body.get("schema"), str):
        body["schema"] = CONFIGURATION
    elif case.path == "/predict" and isinstance(body, dict):
        mend_prediction(body)
    elif case.path.endswith("/infer") and isinstance(body, dict):
        mend_inference(body)


def mend_inputs(body):
    inputs = body.get("input")
    if inputs == []:
        body["input"] = ["tiger"]
    for value in inputs if isinstance(inputs, list) else [inputs]:
        if isinstance(value, dict) and isinstance(value.get("image"), str):
            value["image"] = IMAGE


def mend_hub_task(body, query):
    parameters = body.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    if isinstance(body.get("inputs"), str):
        body["inputs"] = IMAGE
    if isinstance(query.get("model"), str):
        query["model"] = "demo"
    for name in ("classes", "vocabulary"):
        query.pop(name, None)
    if parameters.get("candidate_labels") is None:
        parameters.pop("hypothesis_template", None)
        query["classes"] = "tiger,lemon"
    elif parameters.get("hypothesis_template") is not None:
        query.pop("templates", None)


def mend_prediction(body):
    if isinstance(body.get("label_config"), str):
        body["label_config"] = CONFIGURATION
    tasks = body.get("tasks")
    for task in tasks if isinstance(tasks, list) else []:
        if isinstance(task, dict) and isinstance(task.get("data"), dict):
            task["data"]["image"] = IMAGE


def mend_inference(body):
    """Tensors of the right types become tensors that the model reads."""
    inputs = body.get("inputs")
    if isinstance(inputs, list) and all(is_tensor(value) for value in inputs):
        body["inputs"] = [
            {"name": "image", "datatype": "BYTES", "shape": [1], "data": [IMAGE]},
            {"name": "classes", "datatype": "BYTES", "shape": [1], "data": ["tiger"]},
        ]
    if isinstance(body.get("parameters"), dict):
        body["parameters"] = {}
    outputs = body.get("outputs")
    if isinstance(outputs, list) and all(is_output(value) for value in outputs):
        # Each once.
        body["outputs"] = list({value["name"]: value for value in outputs}.values())


def is_output(value):
    return isinstance(value, dict) and value.get("name") in ("label_map", "scores", "classes")


def is_tensor(value):
    return (
        isinstance(value, dict)
        and set(value) <= {"name", "shape", "datatype", "parameters", "data"}
        and isinstance(value.get("name"), str)
        and isinstance(value.get("datatype"), str)
        and isinstance(value.get("shape"), list)
        and all(is_count(side) for side in value["shape"])
        and is_place(value.get("parameters", {}))
        and isinstance(value.get("data", []), (list, type(None)))
    )


def is_place(value):
    """Whether it says where the elements of a tensor are."""
    return isinstance(value, dict) and set(value) <= {"binary_data_size"} and is_count(value.get("binary_data_size", 0), None)


def is_count(value, *others):
    return value in others or is_number(value, -1, 2**63 - 1) and value == int(value)


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
    for name in ("x", "y"):
        # Of an image of 8 x 8 pixels.
        if is_number(fields.get(name)) and fields[name] >= 0:
            fields[name] = min(fields[name], 7)
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
