"""`python -m unetscope` is `unetscope`."""

from .cli import main

main()
