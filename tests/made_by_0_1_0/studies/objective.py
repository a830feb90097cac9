import os
import signal
from pathlib import Path

ASKED = Path("asked.txt")


def score(weights):
    count = len(ASKED.read_text().splitlines()) if ASKED.exists() else 0
    with ASKED.open("a") as file:
        file.write("x\n")
    if os.environ.get("DIE_AT") == str(count):
        os.kill(os.getpid(), signal.SIGKILL)
    numbers = [x if isinstance(x, float) else len(x) / 10 for x in weights.values()]
    return -sum((x - 0.3) ** 2 for x in numbers)


def with_recipe(weights, recipe):
    return score(weights) + len(recipe.models) / 10
