"""One module a page: a function `show()` that draws it, and its record, a `page.Page`."""
