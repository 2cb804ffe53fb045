#!/bin/sh
# Compares methods on a folder of images with truths: a table, a file with every figure, and a picture of the worst cases.
# Usage: examples/researcher.sh IMAGES [FLAGS of maskclip compare], as in
#     examples/researcher.sh examples/scenes/in-style --limit 4
set -eu
images=$1
shift

# Settings that all rows share: the classes in the order of the truths' values, and what competes with them.
set -- --classes examples/scenes/classes.txt --background examples/scenes/backgrounds.txt "$@"

# One row for each combination: the baseline and the method, with and without refinement.
maskclip compare "$images" "$@" --attention clip,maskclip --refinement none,pamr --state compare.state --json compare.json

# The best of them alone, class by class, and its worst cases as a picture.
maskclip eval "$images" "$@" --refinement pamr --markdown eval.md --grid worst.png --grid-rows 3
