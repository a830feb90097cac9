"""Reading drawn SVGs as XML."""

from xml.etree import ElementTree

NAMESPACE = "{http://www.w3.org/2000/svg}"


class Picture:
    """A parsed SVG."""

    def __init__(self, drawing_or_text):
        text = drawing_or_text if isinstance(drawing_or_text, str) else drawing_or_text.svg
        self.root = ElementTree.fromstring(text)
        self.all = list(self.root.iter())

    def ids(self):
        return [e.get("id") for e in self.all if e.get("id")]

    def by_id(self, own):
        return next(e for e in self.all if e.get("id") == own)

    def of_class(self, cls):
        return [e for e in self.all if cls in (e.get("class") or "").split()]

    def texts(self, inside=None):
        return [e.text for e in (inside if inside is not None else self.root).iter(NAMESPACE + "text")]

    def edges(self):
        return {(e.get("data-source"), e.get("data-target")) for e in self.of_class("edge") if e.get("data-source")}

    def fill_of(self, own):
        return self.by_id(own).find(NAMESPACE + "rect").get("fill")
