from unetscope.search.rewards import Reward


class Red(Reward):
    measures = "how red an image is"
    is_preference = False

    def score(self, images, prompts):
        return [image.getpixel((0, 0))[0] / 255 - abs(image.getpixel((0, 0))[1] - 90) / 1000 for image in images]
