#!/bin/sh
# Labels a folder of images for COCO's tools and for Label Studio, and says what is in the files.
# Usage: examples/annotator.sh IMAGES CLASSES OUT, where IMAGES is a folder, a file or a pattern, as in
#     examples/annotator.sh 'examples/*.png' tiger,lemon,crab labels
set -eu
images=$1 classes=$2 out=$3

# The shipped background names take what is none of the classes. The same command goes on with a run that was stopped.
maskclip label "$images" --classes "$classes" --background shipped --out "$out" --format coco,label-studio,overlay

python3 - "$out" <<'PYTHON'
import json, pathlib, sys

out = pathlib.Path(sys.argv[1])
coco = json.loads((out / "coco.json").read_text())
names = {category["id"]: category["name"] for category in coco["categories"]}
for identifier, name in names.items():
    found = sum(annotation["category_id"] == identifier for annotation in coco["annotations"])
    print(f"{name}: in {found} of {len(coco['images'])} images")
tasks = json.loads((out / "label-studio.json").read_text())
print(f"{len(tasks)} tasks for Label Studio, whose labelling configuration is {out / 'label-studio.xml'}")
PYTHON
