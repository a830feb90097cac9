"""Files on disk: read at a place, written whole or not at all, locked while a run lives. Each of these builds on those before it:

- `system`: what the operating system and the file system take, and how long is waited for a file that another program holds.
- `positioned`: byte ranges of a file, read (`FileReader`) and written (`FileWriter`) from any thread.
- `locks`: who is at work on what, until it ends, however it ends.
- `partial`: files and folders under construction, their names, and what killed runs left of them.
- `targets`: what may be written where.
- `output`: the one way in which a file comes to its name: `OutputFile`, `write_output`, `replace_file`; and lines at a file's end.
- `folder`, `resumable`: the same for folders, and for files that a later run can continue.
- `cache`: what can be worked out again, and small records, as JSON; `yaml_text`: YAML, as people write it.
"""

from .positioned import FileReader, FileWriter

__all__ = ["FileReader", "FileWriter"]
