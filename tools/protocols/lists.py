#!/usr/bin/env python3
"""Writes the vocabularies of the published protocols from the class lists that the methods' codes were released with.

    tools/protocols/lists.py                  writes config/vocabularies
    tools/protocols/lists.py --check          fails where a vocabulary is not what this would write
    tools/protocols/lists.py --clone sclip=FOLDER --clone clearclip=FOLDER
                                              also compares the lists here with those in clones of the repositories

The lists lie in tools/protocols/released, byte for byte. A released line is a class, with its synonyms after commas.
"""

import argparse
import difflib
import pathlib
import sys
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent
RELEASED = HERE / "released"
VOCABULARIES = HERE.parent.parent / "config" / "vocabularies"

# Where the folders of `released` come from: the repository and the last commit that changed its lists.
SOURCES = {
    "sclip": ("wangf3014/SCLIP", "57fa9aa7448d476b237547a16a11af4e6c3f50ea"),
    "clearclip": ("mc-lan/ClearCLIP", "fd05ce4a6adf002935445fdfc288d9e4f4c513d8"),
}


@dataclass(frozen=True)
class Protocol:
    """A vocabulary and the list that it is made from."""

    vocabulary: str
    source: str
    file: str
    # Whether the list's first line is the background, class 0. Its texts then go under [background].
    background: bool = False
    # Whether the background is left out. The list without it is not among those released here.
    without_background: bool = False


PROTOCOLS = [
    Protocol("sclip-voc-21", "sclip", "cls_voc21.txt", background=True),
    Protocol("sclip-voc-20", "sclip", "cls_voc20.txt"),
    Protocol("sclip-pascal-context-60", "sclip", "cls_context60.txt", background=True),
    Protocol("sclip-pascal-context-59", "sclip", "cls_context59.txt"),
    Protocol("sclip-coco-object-81", "sclip", "cls_coco_object.txt", background=True),
    Protocol("sclip-coco-stuff-171", "sclip", "cls_coco_stuff.txt"),
    Protocol("sclip-cityscapes-19", "sclip", "cls_city_scapes.txt"),
    Protocol("sclip-ade20k-150", "sclip", "cls_ade20k.txt"),
    Protocol("clearclip-voc-21", "clearclip", "cls_voc21.txt", background=True),
    Protocol("clearclip-voc-20", "clearclip", "cls_voc21.txt", background=True, without_background=True),
]


def vocabulary(protocol: Protocol) -> str:
    """Returns the text of a vocabulary."""
    repository, commit = SOURCES[protocol.source]
    released = (RELEASED / protocol.source / protocol.file).read_text()
    # As the released codes read a line: split at commas. The tokenizer drops white space around a text.
    lines = [[text.strip() for text in line.split(",")] for line in released.splitlines()]
    background = lines.pop(0) if protocol.background else []
    header = [
        "# Written by tools/protocols/lists.py: the released words, unchanged.",
        f"# From {repository}, commit {commit}, configs/{protocol.file}.",
    ]
    if protocol.without_background:
        header.append("# The line of the background is left out.")
        background = []
    classes = [["background"], *lines] if background else lines
    text = [*header, "[options]", "templates: imagenet-80", "synonyms: max", "[classes]"]
    text += ["; ".join(names) for names in classes]
    if background:
        text += ["[background]", *background]
    return "\n".join(text) + "\n"


def check() -> list[str]:
    """Returns how the vocabularies differ from what this would write."""
    differences: list[str] = []
    for protocol in PROTOCOLS:
        path = VOCABULARIES / f"{protocol.vocabulary}.txt"
        there = path.read_text() if path.exists() else ""
        differences += difflib.unified_diff(
            there.splitlines(), vocabulary(protocol).splitlines(), str(path), "as released", lineterm="", n=0
        )
    return differences


def compare(source: str, clone: pathlib.Path) -> list[str]:
    """Returns which of a source's lists are not the bytes of the file in a clone of its repository."""
    return [
        f"{clone / 'configs' / path.name} is not {path}"
        for path in sorted((RELEASED / source).glob("*.txt"))
        if (clone / "configs" / path.name).read_bytes() != path.read_bytes()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    parser.add_argument("--clone", action="append", default=[], metavar="SOURCE=FOLDER", help="a clone to compare with")
    arguments = parser.parse_args()
    faults = []
    for clone in arguments.clone:
        source, _, folder = clone.partition("=")
        if source not in SOURCES or not folder:
            parser.error(f"--clone {clone}: {' or '.join(SOURCES)}, an equals sign and a folder")
        faults += compare(source, pathlib.Path(folder))
    if arguments.check:
        faults += check()
    else:
        for protocol in PROTOCOLS:
            (VOCABULARIES / f"{protocol.vocabulary}.txt").write_text(vocabulary(protocol))
    print("\n".join(faults), end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
