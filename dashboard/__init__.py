"""The pages and widgets of the app: look at checkpoints, compare them, and merge them in the diagram.

`app.py` at the top (or `unetscope app`) starts it. Pages call the same functions as the command line; anything that reads or
writes weights runs as a job (`jobs`) in a process of its own. Loading a page imports neither torch nor torchview.
"""
