"""`unetscope merge ...`: one command a method, made from the registry, and `run` for recipes, `grid` for combinations."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..checkpoints.text import file_size
from ..merge.methods import METHODS, Method, load_methods
from . import short_forms
from .arguments import DType, Json, ListCommand, Methods, Overwrite, Threads, expand
from .exit_codes import complain, stop_code
from .lazy_commands import LazyGroup, Maker, command
from .screen import progress, say, show_json, show_report, show_table
from .short_forms import option

if TYPE_CHECKING:
    from ..merge import Recipe

Output = Annotated[Path, typer.Option("-o", "--output", help="The .safetensors file to write.")]
# Options of every merge: name -> (type, default).
_COMMON: dict[str, tuple[Any, Any]] = {
    "dtype": (Annotated[DType | None, typer.Option(help="Dtype of the merged weights.", show_default="fp16")], None),
    "convention": (Annotated[str | None, typer.Option(help="How weight vectors are read.", show_default="supermerger")], None),
    "vae": (Annotated[str | None, typer.Option(help="Bake this file's VAE in, or `merge` it; else the first model's.")], None),
    "text_encoders": (Annotated[str | None, typer.Option(help="Take the text encoders from this file.")], None),
    "unet": (Annotated[str | None, typer.Option(help="Take the UNET from this file.")], None),
    "part": (Annotated[list[str] | None, typer.Option(help="Any part from a file: model=FILE, clip_g=FILE.")], None),
    "position_ids": (Annotated[Literal["keep", "restore"] | None, typer.Option(help="Write position ids as 0..76.")], None),
    "nan": (Annotated[Literal["error", "zero", "copy"] | None, typer.Option(help="NaN or infinity in an input.")], None),
    "overflow": (Annotated[Literal["error", "clamp"] | None, typer.Option(help="Results too large for the dtype.")], None),
    "mix_predictions": (Annotated[bool, typer.Option("--mix-predictions", help="Allow epsilon and v models together.")], False),
    "allow_missing": (Annotated[bool, typer.Option("--allow-missing", help="Allow models with holes.")], False),
    "title": (Annotated[str | None, typer.Option(help="A name for the result, kept in its metadata.")], None),
    "threads": (Threads, None),
    "dry_run": (Annotated[bool, typer.Option("--dry-run", help="Say what would be done and write nothing.")], False),
    "json": (Json, False),
    "save_recipe": (Annotated[Path | None, typer.Option(help="Write the recipe to this YAML file as well.")], None),
    "overwrite": (Overwrite, False),
    "hash": (Annotated[bool, typer.Option("--hash", help="SHA-256 of inputs and output (costs more than merging).")], False),
    "reproducible": (Annotated[bool, typer.Option("--reproducible", help="No dates or hashes: equal merges, equal files.")], False),
    "resumable": (Annotated[bool, typer.Option("--resumable", help="When stopped, keep what is finished and go on later.")], False),
    "methods": (Methods, None),
    "fsync": (Annotated[bool, typer.Option("--fsync/--no-fsync", help="Wait until the disk has the file.")], True),
}  # fmt: skip


@dataclass
class Options:
    """The values of the common options."""

    values: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.values[name]


def _with_common(function: Callable, own: list[inspect.Parameter]) -> Callable:
    """A command that takes `own` parameters and the common options, the latter as one `Options`."""
    common = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d, annotation=t) for n, (t, d) in _COMMON.items()
    ]

    def command(**given):
        options = Options({name: given.pop(name) for name in _COMMON})
        return function(options=options, **given)

    command.__signature__ = inspect.Signature([*own, *common])
    command.__annotations__ = {p.name: p.annotation for p in (*own, *common)}
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    return command


# -- carrying out -----------------------------------------------------------------------------------------------------


def carry_out(recipe: Recipe, output: Path, options: Options) -> None:
    """Merge, or say what a merge would do, and show the report."""
    with _kept_when_stopped(output, options.resumable):
        _carry_out(recipe, output, options)


def _carry_out(recipe: Recipe, output: Path, options: Options) -> None:
    from ..merge import dry_run, merge

    recipe = _with_options(recipe, options)
    if options.save_recipe:
        _check_recipe_file(recipe, output, options)
    if options.dry_run:
        report = dry_run(recipe, output, threads=options.threads, overwrite=options.overwrite)
    else:
        with progress("merging") as moved:
            report = merge(
                recipe,
                output,
                threads=options.threads,
                overwrite=options.overwrite,
                fsync=options.fsync,
                hash_files=options.hash,
                reproducible=options.reproducible,
                resumable=options.resumable,
                progress=moved,
            )
    if options.save_recipe:
        save_recipe(recipe, options.save_recipe)
    if options.json:
        show_json(report.to_plain())
        return
    show_report(report)
    if options.dry_run:
        times = "once" if report.passes == 1 else f"up to {report.passes} times"
        say(
            f"would read {file_size(report.bytes_read)} {times} and write {file_size(report.bytes_written)} to {output}, "
            f"with {report.threads} threads and at most {file_size(report.memory)} of buffers; nothing was written"
        )
    else:
        rate = (report.bytes_read + report.bytes_written) / max(report.seconds, 1e-9)
        say(f"wrote {output} ({file_size(report.bytes_written)}) in {report.seconds:.1f} s, {file_size(rate)}/s")
        if report.resumed:
            say(f"{report.resumed:,} of {report.tensors:,} tensors were finished by an earlier run")
        if report.sha256:
            say(f"sha256 {report.sha256}")


@contextlib.contextmanager
def _kept_when_stopped(output: Path, resumable: bool) -> Iterator[None]:
    """Say what Ctrl-C leaves of a merge that can be gone on with; of others nothing is left, which needs no word here."""
    try:
        yield
    except KeyboardInterrupt as stop:
        from ..checkpoints.files.partial import JOURNAL

        if not resumable or not Path(f"{output}{JOURNAL}").exists():
            raise
        complain(
            f"stopped; what is finished is kept next to {output}, and the same command with --resumable continues from there"
        )
        raise typer.Exit(stop_code(stop)) from None


def _with_options(recipe: Recipe, options: Options) -> Recipe:
    """The recipe as the options change it."""
    fields = ("dtype", "position_ids", "nan", "overflow")
    changed = {name: options.values[name] for name in fields if options.values[name] is not None}
    for switch in ("mix_predictions", "allow_missing"):
        if getattr(options, switch):
            changed[switch] = True
    from ..checkpoints.errors import RecipeError

    data = recipe.to_plain()
    data["output"] = {**data.get("output", {}), **changed}
    named = [(c, options.values[c]) for c in ("vae", "text_encoders", "unet") if options.values[c]]
    named += [_component(text) for text in options.part or ()]
    components = {c: _source(text, recipe) for c, text in named}
    if len(components) < len(named):
        raise RecipeError(
            "a component is taken from one place: name each once (--vae, --unet, --text-encoders, --part)"
        )
    data["components"] = {**data.get("components", {}), **components}
    if options.convention:
        data["convention"] = options.convention
    if options.title:
        data["title"] = options.title
    return type(recipe).parse(data)


def _component(text: str) -> tuple[str, str]:
    """The name and the source in `clip_g=FILE`."""
    from ..checkpoints.errors import RecipeError

    name, _, source = text.partition("=")
    if not name.strip() or not source.strip():
        raise RecipeError(f"--part {text}: write NAME=FILE, such as model=other.safetensors")
    return name.strip(), source.strip()


def _source(text: str, recipe: Recipe) -> str:
    """What --vae and the like name: `merge`, a model or step of the recipe, else a file or folder, however it is called."""
    known = text == "merge" or text in recipe.models or text in recipe.steps or recipe.is_file(text)
    return text if known else f"./{text}"


def _check_recipe_file(recipe: Recipe, output: Path, options: Options) -> None:
    """Refuse, before any work, a recipe file that cannot be written or that would replace a model or a part of one."""
    from ..checkpoints.errors import OutputError
    from ..checkpoints.files.targets import check_target, refuse_inputs, resolved

    path = options.save_recipe
    refuse_inputs(path, recipe.files())
    check_target(path, overwrite=options.overwrite)
    if resolved(path) == resolved(output):
        raise OutputError(
            f"{path}: --save-recipe and --output are one file; choose another name for the recipe, such as recipe.yaml"
        )


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe whose paths count from its own folder, where that is possible."""
    from ..checkpoints.files.output import write_output

    def seen_from_there(model: str) -> str:
        try:
            return Path(os.path.relpath(model, path.parent)).as_posix()
        except ValueError:  # another drive
            return os.path.realpath(model)

    write_output(path, recipe.with_paths(seen_from_there).to_yaml())


# -- commands ---------------------------------------------------------------------------------------------------------


def _run(recipe: Path, output: Path, options: Options) -> None:
    """Merge as a recipe file says (see docs/recipes.md)."""
    from ..merge import Recipe

    carry_out(Recipe.load(recipe), output, options)


_RECIPE = Annotated[Path, typer.Argument(help="A recipe, YAML.", show_default=False)]


def _run_command() -> Any:
    return command("run", _with_common(_run, [option("recipe", _RECIPE), option("output", Output)]))


def _method_command(method: Method) -> Any:
    """The command of a method: its inputs as arguments, its parameters as options."""
    own = [*short_forms.inputs(method), option("output", Output), *short_forms.parameters(method)]

    def merged(options: Options, output: Path, **given) -> None:
        with short_forms.in_options():
            carry_out(short_forms.recipe(method, given, options.convention), output, options)

    merged.__name__, merged.__doc__ = method.name, method.doc
    return command(method.command, _with_common(merged, own), summary=method.summary)


_UNETS = Annotated[list[str], typer.Option("--unets", help="Checkpoints whose UNETs to combine.")]
_TEXTS = Annotated[list[str], typer.Option("--text-encoders", help="Checkpoints whose text encoders to combine.")]
_FOLDER = Annotated[Path, typer.Option("-o", "--output", help="The folder to write the combinations into.")]
_GRID_VAE = Annotated[str | None, typer.Option(help="Bake this file's VAE into all of them; else each UNET's own.")]


def grid(
    unets: _UNETS,
    text_encoders: _TEXTS,
    output: _FOLDER,
    vae: _GRID_VAE = None,
    dtype: Annotated[DType, typer.Option(help="Dtype of the written weights.")] = "fp16",
    threads: Threads = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the combinations and write nothing.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write every combination of UNETs and text encoders: --unets A B C --text-encoders D E -o DIR."""
    from ..merge import grid as grids

    made = grids.combinations(expand(unets), expand(text_encoders), output, vae=vae, dtype=dtype)
    reports = []
    for combination in made if not dry_run else ():
        # All of them, before the first is written.
        grids.check(combination, threads=threads, overwrite=overwrite)
    for combination in made:
        if dry_run:
            report = grids.check(combination, threads=threads, overwrite=overwrite)
        else:
            with progress(combination.target.name) as moved:
                report = grids.write(combination, threads=threads, overwrite=overwrite, progress=moved)
        reports.append((combination, report))
    if json:
        show_json([report.to_plain() for _, report in reports])
        return
    rows = [[c.target.name, c.unet.name, c.text_encoder.name, file_size(r.bytes_written)] for c, r in reports]
    show_table(f"{'Would write' if dry_run else 'Wrote'} to {output}", ["file", "UNET", "text encoders", "size"], rows)


class _Merges(LazyGroup):
    def makers(self) -> Mapping[str, Maker]:
        """One command a method: the methods are read when somebody asks what can be merged, not for the list of all commands."""
        return {
            "run": _run_command,
            **{method.command: partial(_method_command, method) for method in METHODS.values()},
            "grid": partial(command, "grid", grid, ListCommand),
        }

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Read `--methods FILE` first, wherever it stands: what it holds are commands too."""
        if files := _given(args, "--methods"):
            for file in files:
                load_methods(file)
            self.commands.update(
                {m.command: _method_command(m) for m in METHODS.values() if m.command not in self.commands}
            )
        return super().parse_args(ctx, args)


def _given(args: list[str], option: str) -> list[str]:
    """The values of an option on a command line that is not parsed yet."""
    apart = [value for name, value in pairwise(args) if name == option]
    return apart + [arg.partition("=")[2] for arg in args if arg.startswith(f"{option}=")]


app = typer.Typer(
    cls=_Merges, no_args_is_help=True, help="Merge checkpoints: by a recipe, or by one method from the command line."
)


@app.callback()
def merges(methods: Methods = None) -> None:
    pass
