"""What is known of a file and of a folder of files.

Of a file: what it is and holds by its headers (`inspection`, and `adapter` for LoRAs), what `--prune` leaves out (`needless`), what it
was merged from (`history`), what identifies its weights (`fingerprint`), whether they are healthy (`health`), and all of this read
in one pass (`scan`), which is kept (`scan_cache`). Of a folder: its models (`folder_scan`), the notes next to them (`sidecars`) and
their hashes (`hash_index`).
This room uses `checkpoints` and nothing above it.
"""
