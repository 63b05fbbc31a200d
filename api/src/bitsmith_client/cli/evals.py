"""`bitsmith evals`: what was measured, measuring again, and what a judge makes of versions' answers."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from bitsmith_client import judging, show
from bitsmith_client.cli import specs
from bitsmith_client.cli.connection import Key, State, Url, connect
from bitsmith_client.cli.output import AsJson, console, echo_json, echo_list
from bitsmith_client.lab.state import DEFAULT_FOLDER
from bitsmith_client.sdk import Bitsmith
from bitsmith_client.sdk.evals import Eval, Judgement

evals = typer.Typer(no_args_is_help=True, help="Evaluate versions, judge their answers.")


@evals.command("ls")
def list_evals(
    model: Annotated[str | None, typer.Argument(help="Only of this model, or of name@3.")] = None,
    task: Annotated[str | None, typer.Option(help="Only those that scored this task.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 20,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """List evaluations, newest first."""
    name, _, number = (model or "").partition("@")
    if number and not number.isdecimal():
        raise typer.BadParameter(f"{model!r}: give a name, or name@number")
    with connect(url, key, state) as bitsmith:
        found = bitsmith.evals.list(model=name or None, version=int(number) if number else None, task=task, limit=limit)
    echo_list(found, _evals_table, empty="no evaluations yet; every job makes one", as_json=as_json)


@evals.command("show")
def show_eval(
    eval_id: Annotated[str, typer.Argument(metavar="EVAL")],
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Show every score of one evaluation."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.evals.get(eval_id)
    if as_json:
        echo_json(found)
        return
    table = Table("subject", "task", "metric", "score", title=f"{found.id}: {found.of}, by {found.engine}")
    for row in found.results:
        table.add_row(show.SUBJECTS.get(row.subject, row.subject), row.task, row.metric, show.score(row))
    console().print(table)


@evals.command("run")
def run(
    version: Annotated[str, typer.Argument(help="name@3, name@alias, or name for its newest.")],
    validation_file: Annotated[
        str | None, typer.Option(help="A file id; perplexity and choice are asked of it.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Of the evaluation, e.g. multiple_choice.questions=50.")
    ] = None,
    benchmark: Annotated[list[str] | None, typer.Option(help="TASK=FILE-ID[:SHOTS]; may be repeated.")] = None,
    base: Annotated[bool, typer.Option(help="Score the float base as well.")] = True,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Submit a job that scores a version again."""
    evaluation: specs.Json = {}
    try:
        for text in setting or []:
            evaluation = specs.with_setting(evaluation, text)
        if benchmark:
            evaluation["benchmarks"] = [_benchmark(text) for text in benchmark]
    except specs.BadSpec as error:
        raise typer.BadParameter(str(error)) from error
    with connect(url, key, state) as bitsmith:
        job = bitsmith.evals.run(version, evaluation=evaluation, validation_file=validation_file, base=base, seed=seed)
    if as_json:
        echo_json(job)
    else:
        typer.echo(job.id)


@evals.command("judge")
def judge(
    contestants: Annotated[list[str], typer.Argument(help="name@3 of the registry, or names of --endpoint.")],
    prompts: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="JSONL with prompt or messages.")],
    judge_model: Annotated[str, typer.Option("--judge", help="The judging model, as its endpoint calls it.")],
    judge_url: Annotated[str, typer.Option(help="Its OpenAI-compatible base URL, such as https://host/v1.")],
    judge_key_env: Annotated[str, typer.Option(help="The variable that holds its key.")] = "BITSMITH_JUDGE_KEY",
    endpoint: Annotated[
        list[str] | None, typer.Option(help="NAME=BASE-URL: a contestant that answers elsewhere; may be repeated.")
    ] = None,
    endpoint_key_env: Annotated[str, typer.Option(help="The variable with their key.")] = "BITSMITH_ENDPOINT_KEY",
    out: Annotated[Path, typer.Option(help="Where answers and verdicts are kept; goes on from there.")] = Path(
        "judging.jsonl"
    ),
    title: Annotated[str | None, typer.Option(help="[default: the prompts' file name]")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts at most.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Let a model judge the answers of others, each pair in both orders, and record the verdicts.

    Everything is asked from this machine: the judge's key goes to the judge alone.
    """
    elsewhere = dict(text.partition("=")[::2] for text in endpoint or [])
    judge_ask = judging.endpoint(judge_url, judge_model, os.environ.get(judge_key_env, ""), temperature=0)
    with connect(url, key, state) as bitsmith:
        try:
            asked = judging.read_prompts(prompts.read_text(encoding="utf-8"), limit)
            found = judging.Judging(out, prompts=asked, contestants=contestants, judge=judge_model)
        except (judging.BadPrompts, judging.OtherRun) as error:
            raise typer.BadParameter(str(error)) from error
        asks = {
            name: judging.endpoint(elsewhere[name], name, os.environ.get(endpoint_key_env, ""), temperature=0)
            if name in elsewhere
            else _registered(bitsmith, name)
            for name in contestants
        }
        for done in found.run(asks, judge_ask):
            typer.echo(f"\r{done} of {found.total} answers and verdicts", nl=False, err=True)
        typer.echo(err=True)
        if found.unreadable:
            typer.echo(f"{found.unreadable} judgements had no readable verdict and are left out", err=True)
        made = bitsmith.judgements.create(found.request(title or prompts.name))
    if as_json:
        echo_json(made)
    else:
        console().print(_ratings_table(made))


def _registered(bitsmith: Bitsmith, name: str) -> judging.Ask:
    def ask(conversation: judging.Conversation) -> str:
        answer = bitsmith.chat.stream(name, conversation, temperature=0, max_completion_tokens=judging.MOST_TOKENS)
        return "".join(answer)

    return ask


def _benchmark(text: str) -> specs.Json:
    task, equals, rest = text.partition("=")
    file, _, shots = rest.partition(":")
    if not equals or not file or (shots and not shots.isdecimal()):
        raise specs.BadSpec(f"{text!r} is no benchmark; write TASK=FILE-ID or TASK=FILE-ID:SHOTS")
    return {"task": task, "file": file, "num_fewshot": int(shots or 0)}


def _evals_table(found: Sequence[Eval]) -> Table:
    table = Table("id", "version", "scores", "job", "made")
    for row in found:
        own = [score for score in row.results if score.subject == row.subject]
        tasks = ", ".join(f"{score.task} {show.score(score)}" for score in own[:3])
        table.add_row(row.id, row.of, tasks, row.job_id, f"{row.created_at:%Y-%m-%d %H:%M}")
    return table


def _ratings_table(found: Judgement) -> Table:
    bias = found.position_bias
    share = "" if bias is None or bias.first_share is None else f"{bias.first_share:.0%} for what was shown first"
    agreement = (
        "" if bias is None or not bias.both_orders else f", {bias.agreeing}/{bias.both_orders} agree in both orders"
    )
    table = Table(
        "contestant", "rating", "95 %", "won", "lost", "tied", title=f"{found.title}, judged by {found.judge}"
    )
    for row in found.ratings:
        interval = f"{row.low:.0f} to {row.high:.0f}"
        table.add_row(row.contestant, f"{row.rating:.0f}", interval, str(row.wins), str(row.losses), str(row.ties))
    table.caption = f"{found.id}: {share}{agreement}"
    return table
