"""`bitsmith models`: find, show, compare and download what jobs published; aliases, tags and cards."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from typer.core import TyperGroup

from bitsmith_client import show
from bitsmith_client.cli.connection import Key, State, Url, connect
from bitsmith_client.cli.output import AsJson, console, echo_json, echo_list
from bitsmith_client.lab.state import DEFAULT_FOLDER
from bitsmith_client.sdk import Bitsmith, ModelFilter, Version

EMPTY = "no models yet; jobs that succeed publish here"
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}

Name = Annotated[str, typer.Argument(metavar="NAME")]
Reference = Annotated[str, typer.Argument(metavar="NAME[@N|@ALIAS]")]
Side = Annotated[
    str,
    typer.Argument(metavar="NAME[@N|@ALIAS][:SUBJECT]", help="name@1:float is what name@1 was made from."),
]


class _AWordIsAModel(TyperGroup):
    """`bitsmith models` lists, `bitsmith models NAME` shows one; ls, show, best, … are words of their own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # ctx is typed by a private module of typer
        if not args or args[0] not in {*self.commands, "--help"}:
            has_name = any(not word.startswith("-") for word in args[:1])
            args = ["show" if has_name else "ls", *args]
        return super().parse_args(ctx, args)


models = typer.Typer(cls=_AWordIsAModel, help="Find, compare and download what jobs published.")


class Part(StrEnum):
    ALL = "all"
    NATIVE = "native"
    BF16 = "bf16"

    def holds(self, path: str) -> bool:
        return self is Part.ALL or path.startswith("bf16/") == (self is Part.BF16)


Text = Annotated[str, typer.Option("--q", help="In the name, the base model or a tag.")]
Base = Annotated[list[str] | None, typer.Option(help="The base model; may be repeated, like the next four.")]
Words = Annotated[list[str] | None, typer.Option()]
Tags = Annotated[list[str] | None, typer.Option(help="May be repeated: all must be there.")]
MaxBpw = Annotated[float | None, typer.Option(help="bpw_effective at most.")]
MaxSize = Annotated[str | None, typer.Option(help="Weights at most: 8GB, 3.5e9.")]
Scores = Annotated[
    list[str] | None, typer.Option("--score", metavar="TASK>=X", help='"piqa>=0.7", "perplexity<=12"; may be repeated.')
]


@models.command("ls")
def list_models(
    q: Text = "",
    base: Base = None,
    scheme: Words = None,
    method: Words = None,
    licence: Words = None,
    dataset: Words = None,
    tag: Tags = None,
    max_bpw: MaxBpw = None,
    max_size: MaxSize = None,
    score: Scores = None,
    sort: Annotated[str, typer.Option(help="name, created_at, size_bytes, bpw or score:TASK; - turns it.")] = "name",
    limit: Annotated[int, typer.Option(min=1)] = 20,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """List models by what their newest version is."""
    wanted = ModelFilter(
        text=q, base_models=base or (), schemes=scheme or (), methods=method or (), licences=licence or (),
        datasets=dataset or (), tags=tag or (), max_bpw=max_bpw, max_bytes=_bytes(max_size),
    )  # fmt: skip
    with connect(url, key, state) as bitsmith:
        found = bitsmith.models.list(limit=limit, wanted=_with_scores(wanted, score), sort=sort)
    empty = EMPTY if wanted == ModelFilter() and not score else "no model meets every filter"
    echo_list(found, show.models_table, empty=empty, as_json=as_json)


@models.command("show")
def show_model(
    name: Reference, as_json: AsJson = False, url: Url = None, key: Key = None, state: State = DEFAULT_FOLDER
) -> None:
    """Show a model with its versions, or one version, with all that was scored."""
    with connect(url, key, state) as bitsmith:
        model = bitsmith.models.get(name)
        assert model.latest is not None, "a model that is there has a version"
        version = bitsmith.models.version(model.latest.model, model.latest.version)
    if as_json:
        echo_json(version if "@" in name else model)
        return
    out = console()
    out.print(show.versions_table(model.versions))
    out.print(f"\n[bold]{version.id}[/bold] from {model.base_model}")
    for line in show.about(model):
        out.print(line, markup=False, soft_wrap=True)
    out.print(show.scores_table(version))
    out.print(f"\nmanifest {version.manifest_sha256}", soft_wrap=True)


@models.command("best")
def best(
    q: Text = "",
    base: Base = None,
    scheme: Words = None,
    method: Words = None,
    licence: Words = None,
    dataset: Words = None,
    tag: Tags = None,
    max_bpw: MaxBpw = None,
    max_size: MaxSize = None,
    score: Scores = None,
    keeps: Annotated[
        float | None, typer.Option(help="Share of its float base's score that it keeps in --task.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="The task whose score is kept.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Print the smallest version that is good enough; status 1 if none is."""
    if (keeps is None) != (task is None):
        raise typer.BadParameter("--keeps and --task belong together: --keeps 0.97 --task piqa")
    wanted = ModelFilter(
        text=q, base_models=base or (), schemes=scheme or (), methods=method or (), licences=licence or (),
        datasets=dataset or (), tags=tag or (), max_bpw=max_bpw, max_bytes=_bytes(max_size),
    )  # fmt: skip
    with connect(url, key, state) as bitsmith:
        found = bitsmith.models.best(_with_scores(wanted, score), keeps=keeps, task=task)
    if as_json:
        echo_json(found)
    else:
        typer.echo(found.id)


@models.command("compare")
def compare(
    a: Side,
    b: Side,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999)] = 0.95,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Compare two versions item by item: numbers are the first's minus the second's, and noise is called noise."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.models.compare(a, b, confidence=confidence)
    if as_json:
        echo_json(found)
    else:
        console().print(show.comparison_table(found) if found.tasks else f"{a} and {b} have no task in common")


@models.command("pull")
def pull(
    name: Reference,
    folder: Annotated[Path | None, typer.Argument(help="[default: ./NAME-N]", file_okay=False)] = None,
    only: Annotated[Part, typer.Option(help="The 2-4 bit checkpoint, or its bf16 copy for transformers.")] = Part.ALL,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Download a model, every file verified; an interrupted download goes on where it stopped."""
    with connect(url, key, state) as bitsmith:
        version = bitsmith.models.resolve(name)
        target = folder or Path(f"{version.model}-{version.version}")
        paths = _download(bitsmith, version, target, only)
    if not paths:
        typer.echo(f"error: {version.id} holds no {only.value} files", err=True)
        raise typer.Exit(1)
    console().print(f"{version.id}: {len(paths)} files, verified, in {target}", markup=False, soft_wrap=True)


@models.command("alias")
def alias(
    name: Name,
    alias: Annotated[str | None, typer.Argument(metavar="ALIAS", help="prod, say; without it all are listed.")] = None,
    version: Annotated[str | None, typer.Argument(metavar="N", help="Number or alias: point it there.")] = None,
    reason: Annotated[str | None, typer.Option(help="Kept in its history.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Ask its gate; move nothing.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Take it away; its history stays.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """List a model's aliases, show where one pointed, or point it at a version."""
    if delete and (alias is None or version is not None):
        raise typer.BadParameter("--delete takes a model and an alias")
    with connect(url, key, state) as bitsmith:
        if alias is None:
            aliases = bitsmith.models.aliases(name)
            echo_list(aliases, show.aliases_table, empty=f"{name} has no alias yet", as_json=as_json)
        elif delete:
            bitsmith.models.remove_alias(name, alias)
            typer.echo(f"{name}@{alias} is deleted")
        elif version is None:
            history = bitsmith.models.alias_history(name, alias)
            echo_list(history, show.alias_moves_table, empty="it was never moved", as_json=as_json)
        else:
            _point(bitsmith, name, alias, int(version) if version.isdecimal() else version, reason, dry_run)


@models.command("tag")
def tag(
    name: Name,
    tags: Annotated[list[str] | None, typer.Argument(metavar="[TAG]...", help="To add.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="To take away; may be repeated.")] = None,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Add and remove a model's tags, and show what it has then."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.models.tag(name, add=tags or (), remove=remove or ())
    typer.echo(" ".join(found.tags) or f"{name} has no tags")


@models.command("card")
def card(
    name: Reference,
    set_to: Annotated[
        Path | None, typer.Option("--set", exists=True, dir_okay=False, help="Markdown: the part that people write.")
    ] = None,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Print the model card of a version, or write the part of it that people write."""
    with connect(url, key, state) as bitsmith:
        if set_to is not None:
            bitsmith.models.change(name.partition("@")[0], {"card": set_to.read_text(encoding="utf-8")})
        typer.echo(bitsmith.models.card(name))


def _point(bitsmith: Bitsmith, name: str, alias: str, version: int | str, reason: str | None, dry_run: bool) -> None:
    if dry_run:
        verdict = bitsmith.models.try_point(name, alias, version)
        told = "no gate asks for anything" if verdict.gate is None else str(verdict.gate.get("summary", ""))
        typer.echo(
            f"{verdict.id} {'may' if verdict.passed else 'may not'} point at {name}@{verdict.to_version}: {told}"
        )
        raise typer.Exit(0 if verdict.passed else 1)
    moved = bitsmith.models.point(name, alias, version, reason=reason)
    typer.echo(f"{moved.id} points at {name}@{moved.version}")


def _download(bitsmith: Bitsmith, version: Version, folder: Path, only: Part) -> list[Path]:
    total_bytes = sum(file.bytes for file in version.files if only.holds(file.path))
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    out = console()
    with Progress(*columns, console=out, disable=not out.is_terminal) as progress:
        task = progress.add_task("", total=total_bytes)
        return [
            *bitsmith.models.download(
                version, folder, wanted=only.holds, on_bytes=lambda received: progress.advance(task, received)
            )
        ]


def _bytes(text: str | None) -> int | None:
    """8GB, 900 MB, 3.5e9: powers of ten, as disks are sold."""
    if text is None:
        return None
    number = text.strip().lower().removesuffix("b").strip()
    unit = number[-1:] if number[-1:].isalpha() else ""
    try:
        return round(float(number.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError) as error:
        raise typer.BadParameter(f"{text!r} is no size; write 8GB, 900MB or a number of bytes") from error


def _with_scores(wanted: ModelFilter, scores: list[str] | None) -> ModelFilter:
    least: dict[str, float] = {}
    most: dict[str, float] = {}
    for text in scores or []:
        sign = ">=" if ">=" in text else "<="
        task, found, number = text.partition(sign)
        try:
            (least if sign == ">=" else most)[task.strip()] = float(number)
        except ValueError:
            found = ""
        if not found or not task.strip():
            raise typer.BadParameter(f'{text!r}: write "TASK>=NUMBER" or "TASK<=NUMBER"')
    return replace(wanted, min_scores=least, max_scores=most)
