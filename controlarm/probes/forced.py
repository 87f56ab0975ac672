"""Each strategy forced on every problem: how well a policy does either, whatever it would choose.

Accuracy within a strategy as chosen is confounded with the problems that it is chosen on (``cards``). What training adds
to forced accuracies is how; the rest of a gain is when.
"""

import pyarrow as pa

from controlarm.cards import CODE_OPENING, FORCE
from controlarm.organisms.corpus import Strategy
from controlarm.probes.counting import COUNT_FIELDS, counts
from controlarm.probes.references import STRATEGIES
from controlarm.probes.subject import Noise, Subject, blocks, by_problem, decode

SCHEMA = pa.schema([("problem_id", pa.string()), ("strategy", pa.string()), *COUNT_FIELDS])


def forced_noise(noise: Noise, strategy: Strategy) -> Noise:
    """The noise, the code strategy's first token imposed or forbidden. Greedy completions are forced alike."""
    forced = noise.clone()
    forced[:, :, 0, CODE_OPENING] = FORCE if strategy == "code" else -FORCE
    return forced


def probe(subject: Subject) -> pa.Table:
    """One row a problem and strategy, verdicts counted."""
    rows = []
    for block in blocks(subject):
        made = {}
        for strategy in STRATEGIES:
            own = block._replace(noise=forced_noise(block.noise, strategy))
            made[strategy] = by_problem(block.rows, decode(subject, subject.policy, own))
        rows += [
            {"problem_id": row.problem.id, "strategy": strategy} | counts(made[strategy][i])
            for i, row in enumerate(block.rows)
            for strategy in STRATEGIES
        ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
