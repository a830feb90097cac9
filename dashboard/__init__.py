"""The pages and widgets of the app: look at checkpoints, compare them, and merge them in the diagram.

`app.py` at the top (or `unetscope app`) starts it. Pages call the same functions as the command line; anything that reads or
writes weights runs as a job in a process of its own. Loading a page imports neither torch nor torchview. This room uses every other
but `cli`, and offers nothing to them.

In the order in which data passes:

- `launch`, `address`, `shell`, `folders`, `folder_choice`: the server, what surrounds every page, and the folders that it may touch
- `page`, `pages`: what a page is, and the pages
- `library`, `choices`, `drawable`, `drawable_choice`: the models folder -> what a page looks at
- `tasks`, `jobs`, `worker`, `results`, `job_view`: work in processes of its own
- `measuring`, `scanning`, `merging`, `demo`: what such work does
- `state_files`: what is remembered, on disk
- `diagram`, `heatmap`, `histogram`, `collection_charts`, `map_labels`, `search_charts`, `history_view`, `report_view`:
  results -> pictures
- `merge_controls`, `merge_parameters`, `merge_weights`, `weights_editing`, `merge_form`, `merge_load`, `merge_state`,
  `merge_draft`, `merge_predict`, `merge_run`, `own_methods`: the page Merge
- `search_runs`: the page Search
- `unfinished_files`: what killed runs left
- `markdown`: how pages say things
"""
