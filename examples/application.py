"""Finds things in a picture, then asks again without sending it again. Needs clients/python: pip install ./clients/python.

Usage: python3 examples/application.py IMAGE [ADDRESS]
"""

import sys

from maskclip_client import Client, ProblemError

image = sys.argv[1]
address = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8080"

with Client(address) as client:
    try:
        with client.hold(image) as held:  # the picture is sent once
            for words in (["tiger", "lemon", "penguin"], ["animal", "fruit", "flower"]):
                result = held.segment(words, background=["green background"])
                for found in result.classes:
                    if found.pixels:
                        print(f"{found.name}: {100 * found.fraction:.1f} % of the picture, confidence {found.mean_confidence:.2f}")
            result.overlay().save("overlay.png")
            print("pixels of fruit:", result.mask("fruit").sum())  # a mask is an array of bool, [height, width]
    except ProblemError as error:  # what is wrong, in words, and which field or limit it is
        sys.exit(f"{error.problem.title}: {error.problem.detail}")
