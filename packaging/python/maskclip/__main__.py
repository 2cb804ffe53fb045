"""`python -m maskclip`."""

from . import main

main()
