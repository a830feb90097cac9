"""Finds a recipe: an optimiser proposes its free numbers, images made with the merge are scored by a reward.

A study (YAML) names a recipe with free numbers, payloads, a generator, a reward and a budget; everything that is learnt goes
into a run folder. `search(Study.load(path), folder)` runs one, `RunFolder(folder)` reads what came of it.
This room uses `merge`, `diagrams`, `analysis` and `checkpoints`, and nothing above them.

In the order in which data passes:

- `study`, `study_settings`: YAML -> a study that is checked
- `search_space`, `placeholders`, `weight_placeholders`, `parameters`: its recipe -> what is free, and the recipe of a point
- `payloads`, `payload_files`, `wildcards`, `image_requests`: its prompts -> the images that every trial makes
- `baselines`, `prior`, `automb`: what is scored first, and what is known already
- `run_setup`: all of these in a row
- `loop`, `optimiser`, `proposals`, `stopping`, `interrupts`: ask, measure, tell, until it is enough
- `objective`, `pruning`, `generators`, `rewards`, `user_code`: a point -> images -> its score
- `records`, `run_folder`, `validation`: what was measured, on disk
- `storage`, `journal`: the optimiser's memory
- `confirmation`: the best ones on images that the search never saw
- `overview`, `importance`, `plots`, `report`, `report_page`: what people see of it
- `errors`: what is told when it cannot continue
"""

from typing import TYPE_CHECKING

from ..checkpoints.first_use import on_first_use

if TYPE_CHECKING:
    from .confirmation import confirm
    from .errors import SearchError
    from .image_requests import ImageRequest
    from .loop import Outcome, search
    from .parameters import FreeParameter
    from .records import TrialRecord
    from .run_folder import RunFolder
    from .study import Study

__all__ = [
    "FreeParameter",
    "ImageRequest",
    "Outcome",
    "RunFolder",
    "SearchError",
    "Study",
    "TrialRecord",
    "confirm",
    "search",
]
__getattr__ = on_first_use(
    __name__,
    {
        "confirmation": ("confirm",),
        "errors": ("SearchError",),
        "loop": ("Outcome", "search"),
        "parameters": ("FreeParameter",),
        "records": ("TrialRecord",),
        "run_folder": ("RunFolder",),
        "image_requests": ("ImageRequest",),
        "study": ("Study",),
    },
)
