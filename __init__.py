"""See inside the checkpoints of diffusion models, compare them layer by layer, and merge them.

The rooms, each of which may import those before it:

- `checkpoints`: files on disk as named tensors of a known family; in it `formats` (containers), `encodings` (ways to store
  numbers), `families` (kinds of model), `recognition` (whose names a file has), `lora` (adapters), `files` (reading and writing),
  `kernels` (what is done to every number)
- `library`: what is known of a file and of a folder
- `analysis`: numbers about weights, and their plots
- `diagrams`: pictures of architectures, coloured by any number
- `merge`: a recipe becomes a new checkpoint; in it `methods`, `lora`, `lint` (what is questionable about a recipe) and `exchange`
  (other tools' recipes)
- `search`: a reward finds a recipe; in it `generators` (what makes images), `rewards` (what scores them)
- `dashboard`: the app; `app.py` only starts it
- `cli`: the command line

docs/architecture.md is their map, docs/api.md says what each offers, docs/glossary.md what the words mean. Importing this package
imports none of them, and never torch.
"""

__version__ = "0.1.0"
