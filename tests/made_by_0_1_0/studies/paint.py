import re

from PIL import Image


def paint(model, shots):
    numbers = [float(x) for x in re.findall(r": (0\.\d+)", model.to_yaml())]
    red = int(255 * sum(numbers) / max(len(numbers), 1)) % 256
    return [Image.new("RGB", (8, 8), (red, shot.seed % 256, 40)) for shot in shots]
