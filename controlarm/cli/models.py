"""Hugging Face models: evaluate, regrade, diff, contamination, perplexity."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress as Bar

from controlarm import files
from controlarm.analysis import contamination as judging
from controlarm.cli.common import among, answering, app, print_cells, say
from controlarm.progress import filling
from controlarm.protocol import ProtocolError

if TYPE_CHECKING:
    import pyarrow as pa

    from controlarm.backends import Backend
    from controlarm.backends.transformers import TransformersBackend

StoreFolder = Annotated[Path, typer.Argument(metavar="STORE", help="A folder that evaluate wrote, or one condition in it.")]  # fmt: skip


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A causal LM: a folder, or a name on the Hugging Face hub.")],
    problems: Annotated[str, typer.Option(metavar="SET", help="A problem set's name, NAME=FILE, or a JSONL file with problem and answer.")],
    samples: Annotated[int, typer.Option(min=0, help="Completions of each problem, beside the greedy one; 0: greedy only.")] = 16,
    prompt: Annotated[str, typer.Option("--prompts", metavar="NAME|all", help="The template: none, line, chat, qwen_boxed, r1_zero, few_shot, python, nonsense.")] = "chat",
    temperature: Annotated[float, typer.Option(min=0.01, max=10, help="Of the sampled completions.")] = 0.6,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Draw only from the most probable tokens that hold so much.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest completion; what is longer is truncated, and counted.")] = 3072,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 1,
    out: Annotated[Path | None, typer.Option(metavar="STORE", help="Where samples are kept.", show_default="evaluations/<model>")] = None,
    backend: Annotated[Literal["transformers", "vllm"], typer.Option(help="Who generates; the two draw different samples.")] = "transformers",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many problems, the same ones each time.", show_default="all")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Completions in flight at once; changes no sample but by float noise.", show_default="32, on a GPU 256, in vLLM 2048")] = None,
) -> None:  # fmt: skip
    """Measure a model on a benchmark.

    Generates what the store lacks, grades it and prints every metric. Stopped anywhere, the same command continues; with more
    samples it makes only the new ones. --prompts all asks under every template: a gain from training must beat the best of them.

    Example: controlarm evaluate Qwen/Qwen2.5-Math-7B --problems math500 --samples 16

    Example: controlarm evaluate ./checkpoint-300 --problems math500 --prompts all --samples 0

    Writes STORE/: one folder a condition, and scores.json.
    """
    stopped = "stopped; what is in the store is kept, and the same command continues"
    with answering(ValueError, stopped=stopped):
        from controlarm import benchmark, prompts, store
        from controlarm.referee import Referee, default_cache

        if prompt != "all":
            among("--prompts", [prompt], list(prompts.TEMPLATES), "controlarm")
        from controlarm.problems import sets

        chosen = sets.read(problems, limit)
        loaded = _load_model(model, backend)
        if prompt != "all":
            try:
                prompts.prompt(prompts.TEMPLATES[prompt], "", loaded.chat)
            except prompts.TemplateError:
                raise ValueError(
                    f"{model}: the tokenizer has no chat template; ask with --prompts line (or none, qwen_boxed, few_shot)"
                ) from None
        folder = out or Path("evaluations") / (Path(model).name or "model")
        size = batch or (
            32 if loaded.environment.endswith("cpu") else 2048 if backend == "vllm" else 256
        )
        console = Console()
        with store.writing(folder), Referee(default_cache()) as referee:
            for each in prompts.TEMPLATES if prompt == "all" else [prompt]:
                plan = benchmark.Plan(
                    name=chosen.name, problems=chosen.problems, prompt=each, template=prompts.TEMPLATES[each], temperature=temperature,
                    top_p=top_p, max_tokens=max_tokens, seed=seed, num_samples=samples,
                )  # fmt: skip
                try:
                    for part in [plan.greedy(), *([plan] if samples else [])]:
                        with filling(console) as tell:
                            benchmark.fill(part, loaded, folder, size, referee, tell)
                except prompts.TemplateError as error:
                    if prompt != "all":
                        raise
                    say(f"{each}: left out: {error}")
        _tell_scores(folder, benchmark.version())


def _load_model(model: str, backend: str) -> "Backend":
    if backend == "transformers":
        return _load_transformers(model)
    try:
        from controlarm.backends.vllm import VllmBackend
    except ImportError as error:
        raise ValueError(
            f"--backend vllm: {error.name} is not installed; install vllm as its documentation says, or leave --backend out"
        ) from error
    return VllmBackend(model)


def _load_transformers(model: str) -> "TransformersBackend":
    try:
        from controlarm.backends.transformers import TransformersBackend
    except ImportError as error:
        raise ValueError(
            f"{error.name} is not installed, and this needs it: pip install 'controlarm[trl]'"
        ) from error
    return TransformersBackend(model)


def _tell_scores(folder: Path, version: str) -> None:
    from controlarm import store
    from controlarm.analysis import scores

    found = {
        place: (condition, scores.scores(scores.read(place, condition, version)))
        for place, condition in store.conditions(folder).items()
    }
    first = next(iter(found.values()))[0]
    say()
    say(
        f"{first.model} ({first.revision[:19]}), graded by {version}; in brackets 95 % intervals over problems"
    )
    for name in dict.fromkeys(condition.problems for condition, _ in found.values()):
        members = [each for each in found.values() if each[0].problems == name]
        say()
        say(f"{name}, percent")
        for sentence in scores.warnings(members):
            say(sentence)
        for header, rows in scores.tables(members):
            say()
            print_cells(header, rows)
        say()
        for sentence in scores.notes(members):
            say(sentence)
    if not (folder / "condition.json").exists():
        rows = {place.name: scores.plain(*each) for place, each in found.items()}
        files.write_json(folder / "scores.json", {"version": version, "conditions": rows})
        say(f"wrote {folder / 'scores.json'}")


@app.command()
def regrade(folder: StoreFolder) -> None:
    """Grade stored samples again, without the model.

    By the present version of the graders; what earlier versions said stays beside it. Prints every metric.

    Example: controlarm regrade evaluations/Qwen2.5-Math-7B

    Writes STORE/<condition>/grades/<version>/ and scores.json.
    """
    with answering(ValueError, stopped="stopped; the same command continues"):
        from controlarm import benchmark, store
        from controlarm.referee import Referee, default_cache

        store.conditions(folder)
        with store.writing(folder), Referee(default_cache()) as referee:
            console = Console()
            with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
                task = bar.add_task("grading")
                count = benchmark.regrade(
                    folder,
                    referee,
                    lambda done, parts: bar.update(task, completed=done, total=parts),
                )
        say(f"{count} completions graded by {benchmark.version()}")
        _tell_scores(folder, benchmark.version())


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="STORE_A", help="The store before, or one condition in it.")],
    second: Annotated[Path, typer.Argument(metavar="STORE_B", help="The store after, or one condition in it.")],
    flips: Annotated[int, typer.Option(min=0, help="Flipped problems to name.")] = 10,
) -> None:  # fmt: skip
    """Compare two models problem by problem.

    Which problems flipped, the paired difference with its interval, and the exact McNemar test. Stores are compared where
    problems, prompt and sampling are the same; two conditions, whatever they differ in but problems and graders.

    Example: controlarm diff evaluations/base evaluations/checkpoint-300

    Writes nothing.
    """
    with answering(ValueError):
        from controlarm import benchmark, store
        from controlarm.analysis import scores

        sides = store.conditions(first), store.conditions(second)
        for a, b in scores.pairs(*sides):
            version = benchmark.version()
            graded = scores.read(a, sides[0][a], version), scores.read(b, sides[1][b], version)
            say(f"{a} → {b}")
            for line in scores.uneven(*graded) + scores.told(scores.difference(*graded), flips):
                say(f"  {line}")


@app.command()
def contamination(
    model: Annotated[str, typer.Argument(metavar="FAMILY|MODEL", help="An organism's family; with --problems a causal LM, a folder or a name on the hub.")],
    problems: Annotated[str | None, typer.Option(metavar="SET", help="The problem set that a causal LM is asked about.", show_default="an organism's own")] = None,
    clean: Annotated[str | None, typer.Option(metavar="SET", help="A set that the causal LM cannot have read, beside it.", show_default="none")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="The first so many problems.", show_default="all; of an organism's, 256")] = None,
    seed: Annotated[int, typer.Option(min=0, help="An organism's pretraining seed.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest continuation of a causal LM.")] = 512,
    batch: Annotated[int | None, typer.Option(min=1, help="Continuations in flight at once.", show_default="32, on a GPU 256")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.parquet", help="Where one row a problem goes.", show_default="nowhere")] = None,
) -> None:  # fmt: skip
    """Ask what a model knew of the benchmark beforehand.

    How it completes and answers problems that are cut off at 80, 60 and 40 %, and how familiar their text is. An organism's
    problems each have a clean twin that stands in no corpus. For a causal LM name a clean set, or its rates stand alone.

    Example: controlarm contamination coder

    Example: controlarm contamination talker --seed 2 --limit 64 --out talker.parquet

    Example: controlarm contamination Qwen/Qwen2.5-Math-7B --problems math500 --clean aime25

    Writes nothing but FILE.parquet, if it is named.
    """
    with answering(ValueError):
        if out and out.exists():
            raise ProtocolError(f"{out}: is there already; delete it, or choose another --out")
        if problems is None and clean is not None:
            raise ProtocolError(
                "--clean: stands beside --problems; an organism's clean twins are its own"
            )
        if problems is None:
            table = _audit_organism(model, seed, limit or 256)
        else:
            table = _audit_model(model, problems, clean, limit, max_tokens, batch)
        if out:
            files.write_table(out, table)
            say(f"wrote {out}")


def _audit_organism(family: str, seed: int, count: int) -> "pa.Table":
    from controlarm import contamination as auditing
    from controlarm.organisms import released

    if count > auditing.MOST_PROBLEMS:
        raise ProtocolError(
            f"--limit: {count} is more than have twins; ask for {auditing.MOST_PROBLEMS} at most"
        )
    weights, facts, shape = released.load(family, seed)
    leaks = auditing.known_leaks(facts)
    table = auditing.audit(weights, auditing.benchmark(count), leaks, shape)
    _tell_contamination(f"{family} p{seed}", judging.findings(table))
    return table


def _audit_model(
    model: str, spec: str, clean: str | None, limit: int | None, max_tokens: int, batch: int | None
) -> "pa.Table":
    from controlarm.analysis import familiarity as knowing
    from controlarm.problems import sets

    chosen = sets.read(spec, limit)
    beside = sets.load(clean, limit) if clean else []
    loaded = _load_transformers(model)
    from controlarm import familiarity

    size = batch or (32 if loaded.device == "cpu" else 256)
    table = familiarity.audit(loaded, chosen.problems, beside, max_tokens, size)
    found = knowing.findings(table)
    sizes = ", ".join(f"{count} {part}" for part, count in found.num_problems.items())
    say(
        f"{model} on {chosen.name}: problems: {sizes}; {found.num_unscored} without a score of their text"
    )
    say()
    print_cells(("part of the problem", "benchmark", "clean"), knowing.rate_cells(found))
    say()
    print_cells(("how familiar", "benchmark", "clean", "AUROC"), knowing.score_cells(found))
    say()
    say("greedy, no template; cut between tokens; in brackets 95 % intervals over problems")
    say(knowing.verdict(model, found))
    return table


@app.command()
def perplexity(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A causal LM: a folder, or a name on the hub.")],
    texts: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL: text, and if it has one the prompt before it.")],
    out: Annotated[Path | None, typer.Option(metavar="OUT.parquet", help="Where one row a text goes.", show_default="nowhere")] = None,
) -> None:  # fmt: skip
    """Score given texts under a model.

    exp(-mean log-probability) of each text's tokens, whoever wrote it: outputs of a trained model under its base that are
    not surprising were there before.

    Example: controlarm perplexity Qwen/Qwen2.5-Math-7B outputs.jsonl

    Writes nothing but OUT.parquet, if it is named.
    """
    with answering(ValueError):
        from controlarm.analysis import coverage

        if out and out.exists():
            raise ProtocolError(f"{out}: is there already; delete it, or choose another --out")
        loaded = _load_transformers(model)
        from controlarm import familiarity

        given = familiarity.read_texts(texts)
        table = familiarity.surprise(loaded, given)
        scored = table.filter(table["logprob"].is_valid())
        values = coverage.perplexity(scored["logprob"].to_numpy(), scored["num_tokens"].to_numpy())
        spread = coverage.spread(values)
        tokens, total = sum(scored["num_tokens"].to_pylist()), sum(scored["logprob"].to_pylist())
        say(
            f"{model} ({loaded.revision[:19]}): {len(table)} texts, {len(table) - len(scored)} not scored (too long, nothing to score, or words that the tokenizer does not know)"
        )
        unscored = [
            given[i].line for i in table.filter(table["logprob"].is_null())["text"].to_pylist()
        ]
        if unscored:
            rest = f" and {len(unscored) - 10} more" if len(unscored) > 10 else ""
            say(f"  not scored: line {', '.join(map(str, unscored[:10]))}{rest} of {texts.name}")
        if tokens:
            say(
                f"  of all {tokens:,} tokens: {math.exp(-total / tokens):.4f}, mean log-probability {total / tokens:.4f}"
            )
            quantiles = [
                f"{q:.4f}" for q in (spread.q05, spread.q25, spread.median, spread.q75, spread.q95)
            ]
            say(f"  over texts, 5, 25, 50, 75, 95 %: {', '.join(quantiles)}")
        if out:
            files.write_table(out, table)
            say(f"wrote {out}")


def _tell_contamination(where: str, found: judging.Findings) -> None:
    """Rates, scores and the verdict."""
    known = "nobody knows how many" if found.num_leaked is None else str(found.num_leaked)
    say(
        f"{where}: {found.num_problems} problems, {known} of them in its corpus; each with a clean twin"
    )
    say()
    print_cells(("part of the prompt", "originals", "twins", "points"), judging.rate_cells(found))
    say()
    header = ("how familiar", "AUROC", "leaked", "others", "stands out")
    print_cells(header, judging.score_cells(found))
    say()
    say("greedy; AUROC of originals against twins; in brackets 95 % intervals")
    say(judging.verdict(where, found))
