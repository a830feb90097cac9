"""What is known of a file and of a folder of files.

Of a file:

- `inspection`: what it is and holds by its headers; `adapter` for LoRAs, `needless` for what `--prune` leaves out;
- `history`: what it was merged from;
- `fingerprint`: what identifies its weights; `health`: whether they are sound;
- `scan`: all of this, read in one pass; `scan_cache` keeps it.

Of a folder: its models (`folder_scan`), the notes next to them (`sidecars`) and their hashes (`hash_index`).
This room uses `checkpoints` and nothing above it.
"""
