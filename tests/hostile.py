r"""Texts that mean harm: to a terminal, to a browser, to a parser, to a file format, to patience.

``NASTY`` are short ones, each with the name of what it attacks. ``long_texts`` are the same kinds at a given length: what
is quadratic, or recursive, shows there. `harm` puts texts in every place of a fabricated run folder that holds one.
"""

import hashlib
import re
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pyarrow.parquet as pq

from controlarm import files
from controlarm import protocol as protocols

SCRIPT = "document.title='owned';document.documentElement.dataset.owned=1;parent.owned=1;"
"""What a page's canary does when it runs."""
CANARY = "http://127.0.0.1:9/canary"
"""What a page's canary asks for; the browser test puts its own server's address in its place."""

MARKUP = {
    "end of script": f"</script><script>{SCRIPT}</script>",
    "end of style and title": f"</style></title><script>{SCRIPT}</script>",
    "end of textarea": f"</textarea></select></option><script>{SCRIPT}</script>",
    "image": f'<img src="{CANARY}" onerror="{SCRIPT}">',
    "double quote": f'" autofocus onfocus="{SCRIPT}" x="',
    "single quote": f"' onmouseover='{SCRIPT}' x='",
    "no quote": f" onload={SCRIPT} x=",
    "svg": f'</svg><svg onload="{SCRIPT}"><animate onbegin="{SCRIPT}" attributeName=x dur=1s>',
    "svg text": f"</text></title><script>{SCRIPT}</script><text>",
    "mathml": f"<math><mtext><table><mglyph><style><img src=x onerror={SCRIPT}>",
    "comment": f"<!-- --><script>{SCRIPT}</script><!-- <script>",
    "cdata": f"]]><script>{SCRIPT}</script><![CDATA[",
    "frame": f'<iframe srcdoc="<script>{SCRIPT}</script>"></iframe><object data="{CANARY}"></object>',
    "link": f'<link rel=stylesheet href="{CANARY}"><base href="{CANARY}"><a href="javascript:{SCRIPT}">a</a>',
    "refresh": f'<meta http-equiv="refresh" content="0;url={CANARY}">',
    "style": f"}}</style>*{{background:url({CANARY})}} @import '{CANARY}';",
    "form": f'<form action="{CANARY}"><button formaction="{CANARY}" id=filters name=problems>',
    "template": "${" + SCRIPT + "}`{{constructor.constructor('" + SCRIPT + "')()}}",
    "entities": f"&lt;script&gt;{SCRIPT}&lt;/script&gt;&#60;script&#62;&#x3c;img src=x onerror={SCRIPT}&#x3e;",
    "prototype": "__proto__ constructor toString hasOwnProperty",
    "slashes": f"\\u003cscript\\u003e{SCRIPT}\\u003c/script\\u003e \\\"-{SCRIPT}-\\\"",
}  # fmt: skip

TERMINAL = {
    "colour": "\x1b[31;5;7mred\x1b[0m",
    "title": "\x1b]0;owned\x07\x1b]2;owned\x1b\\",
    "hyperlink": "\x1b]8;;http://127.0.0.1:9/\x1b\\click\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;b3duZWQ=\x07",
    "clear": "\x1b[2J\x1b[H\x1b[3J\x1bc",
    "report": "\x1b[6n\x1b[c\x1bZ\x05\x1b[21t",
    "device control": "\x1bP+q544e\x1b\\\x1b_owned\x1b\\\x1b^owned\x1b\\\x1bX\x1b\\",
    "c1": "\x9b31m \x9d0;owned\x9c \x90q\x9c \x84 \x85 \x8d",
    "c1 as utf-8 bytes": "\xc2\x9b2J",
    "overwrite": "wrong\rright\b\b\b\x7f\x0b\x0c",
    "charset": "\x0e\x0f\x1b(0lqk\x1b(B",
    "cut": "\x1b[\x1b]\x1bP\x1b",
    "rich": "[bold red]a[/] [/nonsense] [link=http://127.0.0.1:9/]b[/link] [@click=app.bell]c[/] :smile: \\[x]",
    "markdown": "**a** [b](javascript:alert(1)) ![c](http://127.0.0.1:9/) <http://127.0.0.1:9/> `d`\n# e\n|f|",
}  # fmt: skip

UNICODE = {
    "bidi": "\u202egnp.exe\u202c \u2066a\u2067b\u2068c\u2069 \u200ed\u200fe\u061cf \u202ag\u202bh\u202di",
    "zero width": "a\u200bb\u200cc\u200dd\u2060e\ufefff\u00adg\u034fh\u180ei",
    "blank letters": "a\u115fb\u1160c\u3164d\uffa0e\u17b4f",
    "tags": "a\U000e0041\U000e0042\U000e007f\U000e0100b",
    "annotation": "\ufff9a\ufffab\ufffbc\U0001d173d",
    "line ends": "a\rb\r\nc\nd\x0be\x0cf\x1cg\x1dh\x1ei\x85j\u2028k\u2029l",
    "controls": "".join(map(chr, [*range(32), *range(127, 160)])),
    "nul": "a\x00b\x00",
    "lone surrogates": "a\ud800b\udc00c\udfff \ud83d",
    "backwards pair": "\udc00\ud800",
    "noncharacters": "\ufffe\uffff\ufdd0\U0001ffff\U0010ffff",
    "private": "\ue000\U000f0000",
    "unassigned": "\u0378\U000e0fff",
    "combining": "a" + "\u0301\u0489\u20dd" * 40,
    "wide": "漢字 👨‍👩‍👧 ﷽ 𒐫 ꧅",
    "right to left": "שלום 123 مرحبا 456",
    "digits": "\\boxed{٣} \\boxed{３} \\boxed{²} \\boxed{Ⅷ} \\boxed{1\u200b2} The answer is 𝟛.",
    "case": "PYTHON pythoŉ ﬃ İ ß ſ \u212a",
}

NUMBERS = {
    "overflow": "\\boxed{1e999999999} The answer is 1e999999999.",
    "division": "\\boxed{1/0} \\boxed{0/0} The answer is 1/0.",
    "infinite": "\\boxed{inf} \\boxed{-Infinity} \\boxed{NaN} The answer is nan.",
    "beyond int": "\\boxed{" + "9" * 5_000 + "} = " + "9" * 5_000,
    "long fraction": "\\boxed{0." + "9" * 5_000 + "}",
    "signs": "\\boxed{--1} \\boxed{+-1} \\boxed{-} \\boxed{.} \\boxed{,} \\boxed{1_000} \\boxed{0x10} \\boxed{1e5}",
    "power": "```python\nx = 9**9**9**9**9 # 1\ny = 10**100**100 # 2\nz = 1 << 10**10 # 3\n```",
    "executable": "```python\n__import__('os').system('touch owned') # 1\nx = exit() # 2\nwhile True: pass\n```",
}

FORMATS = {
    "json": '"}\n{"step": 1, "reward": 1e999, "a": "\\ud800", "__proto__": {}}',
    "seal of json": 'seal": "0000000000000000", "seal": "0000000000000000"',
    "seal of parquet": "seal\x18\x100000000000000000PAR1",
    "fence": "```python\n```python\n```\n``` ```python\nx=1```",
    "toml": '"""\n[arms]\nowned = {}\n',
    "csv": '=cmd|"/c calc"!A1,"a""b"\n',
    "path": "../../../../etc/passwd\x00.parquet",
    "format": "%s%n{0.__class__}{}$(touch owned)`touch owned`;",
}

NASTY = {**MARKUP, **TERMINAL, **UNICODE, **NUMBERS, **FORMATS}


def long_texts(length: int) -> Iterator[tuple[str, str]]:
    """Name and text: short pieces over and over, nests, and one endless thing, each about ``length`` characters."""
    pieces = [
        "\\boxed{", "\\boxed{}", "\\boxed{1}", "\\boxed ", "{", "}", "(", "[", "\\", "\\{", "$", "\\$", " ", "\n", "\r", ".",
        "1", "9", "1,", "1,234", ",234", "1.", "1/", "-", "x", "answer is ", "answer is $", "answer is.", "answer\t", "answer is:\\",
        "1 and ", "1 and 1 more makes 1", "1 and 1 more makes 1, and 1 less makes 0", ", and 1 less makes 0",
        "```", "```python\n", "```python", "```python ", "```python\n\n```", "python\n", "#", "\x1b[", "\u202e", "\u0301", "\ud800",
        "\x00", "\u2028", "<b>", "</script>", "&amp;", "]]>", "[bold]", "👨‍👩‍👧", "aaaaaaaaaaaaaaaaaaab",
    ]  # fmt: skip
    for piece in pieces:
        yield f"{piece!a} over and over", piece * (length // len(piece))
    for left, right in ("\\boxed{", "}"), ("{", "}"), ("(", ")"), ("[", "]"):
        depth = length // len(left + right)
        yield f"a nest of {left}", f"{left * depth}7{right * depth}"
        yield f"a boxed nest of {left}", f"\\boxed{{{left * depth}7{right * depth}}}"
    for statement in ("x = 1 # 1\n", "x=1;", "x = 1 +\n", "x = 9**9 # 1\n", "if 1:\n x = 1 # 1\n"):
        block = f"```python\n{statement * (9_000 // len(statement))}\n```\n"
        yield f"blocks of {statement!a}", block * (length // len(block))
    for o, c in (
        ("(", ")"),
        ("[", "]"),
        ("{1:", "}"),
        ("f(", ")"),
        ("-", ""),
        ("not ", ""),
        ("1+", ""),
        ("lambda:", ""),
    ):
        depth = 9_000 // len(o + c)
        block = f"```python\nx = {o * depth}1{c * depth} # 1\n```\n"
        yield f"blocks with a nest of {o!a}", block * (length // len(block))
        yield (
            f"one block, a nest of {o!a}",
            f"```python\nx = {o * (length // len(o + c))}1{c * (length // len(o + c))} # 1\n```",
        )
    yield "one endless comment", "```python\nx = 1 #" + " " * length + "1\n```"
    yield "one endless number in code", "```python\nx = " + "9" * length + " # 1\n```"


PROTOCOL = """
[trial]
name = "hostile"
question = QUESTION
[design]
families = ["coder", "FAMILY"]
pretraining_seeds = [1]
seeds = [1]
num_steps = 2
num_problems = 4
[recipes.grpo]
prompts_per_step = 2
group_size = 4
updates_per_rollout = 1
learning_rate = 1e-3
[recipes.RECIPE]
prompts_per_step = 2
group_size = 4
updates_per_rollout = 1
learning_rate = 1e-3
[arms]
ground_truth = {}
constructor = {reward = "one_shot", problem = QUESTION}
random = {}
ARM = {reward = "format"}
[evaluation]
num_problems = 4
samples = 2
steps = [0, 2]
pass_at_k = [1, 2]
[endpoint]
metric = "accuracy"
step = 2
placebo = "random"
margin = 0.03
planning_sd = 0.03
primary = [{family = "coder", arm = "ground_truth"}, {family = "FAMILY", arm = "ARM"}]
[[controls]]
family = "coder"
arm = "ground_truth"
expect = "superior"
why = QUESTION
"""


def in_toml(text: str) -> str:
    """A string as a TOML file can hold it: no lone surrogates."""
    held = text.encode("utf-8", "replace").decode()
    return '"' + "".join(f"\\U{ord(c):08x}" for c in held) + '"'


def protocol_of(question: str) -> str:
    """The trial file: its free texts are the question, its free names are as long as may be."""
    return re.sub("FAMILY|RECIPE|ARM", "w" * 40, PROTOCOL).replace("QUESTION", in_toml(question))


def harm(folder: Path, texts: list[str], everything: str) -> None:
    """Put hostile texts in every place of a run folder that holds one; the files stay well-formed and sealed."""
    turn, said = cycle(texts), cycle(texts)
    problems = pq.read_table(folder / "problems.parquet").to_pylist()
    ids = {row["id"]: f"{i} {held(next(turn))}" for i, row in enumerate(problems)}

    def rewrite(path: Path) -> None:
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            for name in row.keys() & {"answer", "boxed", "majority", "incorrect"}:
                row[name] = held(next(turn))
            for name in row.keys() & {"id", "problem_id"}:
                row[name] = ids[row[name]]
            if "text" in row:
                row["text"] = held(next(said) + everything)
        files.write_table(path, table.from_pylist(rows, schema=table.schema))

    for path in sorted(folder.rglob("*.parquet")):
        rewrite(path)
    run = min(folder.glob("*/*/*-s1"))
    files.write_json(run / "failed.json", {"step": 2, "reason": everything})
    poison = {f"{i} {text}": text for i, text in enumerate(texts)}
    files.write_json(folder / "environment.json", {"python": everything, "libraries": poison})
    toml = protocol_of("w" * 300 + everything)
    (folder / "protocol.toml").write_text(toml, encoding="utf-8")
    plan = files.read_json(folder / "plan.json")
    plan["materials"] |= poison
    plan["digest"] = protocols.digest(protocols.parse(toml), plan["materials"])
    plan["protocol_sha256"] = hashlib.sha256(toml.encode()).hexdigest()
    files.write_json(folder / "plan.json", plan)


def held(text: str) -> str:
    """The text as parquet can hold it: without lone surrogates."""
    return text.encode("utf-8", "replace").decode()
