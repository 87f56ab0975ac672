"""Numbers of the literature that our claims are held against, each typed once, with its source."""

from typing import NamedTuple


class Source(NamedTuple):
    """Where a published number stands."""

    paper: str
    arxiv: str
    place: str


SPURIOUS_REWARDS = Source("Spurious Rewards", "2506.10947", "Figure 1")

SIX_REWARDS = {
    "ground_truth": 0.291,
    "majority": 0.271,
    "one_shot": 0.260,
    "incorrect": 0.241,
    "random": 0.214,
    "format": 0.138,
}
"""Gain of Qwen2.5-Math-7B on MATH-500 over its base, by what our arm of that reward is called (arXiv:2506.10947)."""

WITHOUT_PYTHON = Source("Spurious Rewards", "2506.10947", "Figures 1 and 7, section 4.4")

WORDS_TO_CODE = {"format": (83, 110), "incorrect": (71, 121)}
"""Of the problems that Qwen2.5-Math-7B gained on MATH-500 by step 150 under a reward, net (second), those that went from words to code
(first); counted back from the cells of Figure 7, arXiv:2506.10947."""

BAD_CODE_WITHOUT_PYTHON = {"format_no_python": 0.089, "incorrect_no_python": 0.055}
"""Gain of OLMo2-7B-SFT, whose code is worse than its words, where code is not paid (arXiv:2506.10947)."""

LABEL_AUDIT = Source("Noisy Data is Destructive", "2603.16140", "audit of the incorrect labels")

INCORRECT_LABELS_RIGHT = 0.164
"""Of the incorrect labels of arXiv:2506.10947, those that a second verifier found to be right (arXiv:2603.16140)."""

ONE_RATE = Source("Spurious Rewards", "2506.10947", "training scripts, learning rate")

LEARNING_RATE = 5e-7
"""Constant, under every reward (arXiv:2506.10947, official scripts)."""

ONE_SHOT = Source(
    "Reinforcement Learning for Reasoning with One Training Example",
    "2504.20571",
    "headline results, Table 5",
)

ONE_SHOT_MATH500 = {"base": 0.360, "full set": 0.736, "one problem": 0.728}
"""Accuracy of Qwen2.5-Math-1.5B on MATH-500 after 1,209 problems and after π_1 alone (arXiv:2504.20571)."""

AFTER_SATURATION = 0.034
"""Average held-out gain under π_1 from step 100, where it is solved, to step 1540 (arXiv:2504.20571)."""

LOSS_TERMS = {
    "none": 0.398,
    "pg": 0.718,
    "pg_wd": 0.714,
    "pg_wd_kl": 0.708,
    "pg_wd_kl_ent": 0.748,
    "wd_kl": 0.390,
    "entropy_only": 0.634,
}
"""MATH-500 accuracy under π_1 by the terms of the loss, named as our recipes (arXiv:2504.20571, Table 5)."""

ONE_SHOT_LABELS = {
    "one_shot": 0.748,
    "one_shot_unguessable": 0.644,
    "one_shot_guessable": 0.570,
}
"""MATH-500 accuracy under π_1 by its label: right, a wrong one that no model guesses (929725), a wrong one that it may (4), with all
terms of the loss (arXiv:2504.20571, Table 5)."""

ECHO_CHAMBER = Source("Echo Chamber", "2504.07912", "sections on formats, KL and pass@64")

ECHO_KL = (0.0, 0.001, 0.01)
"""KL coefficients; the largest keeps minority formats and pass@64 (arXiv:2504.07912)."""

ECHO_WINNER = 0.28
"""Share in the base of a format that wins although another is commoner (arXiv:2504.07912)."""

CLIPPING = Source("Spurious Rewards", "2506.10947", "section 4 and appendix B")

CLIPPING_GAIN = 0.21
"""Gain of Qwen2.5-Math-7B on MATH-500 from a random reward with clipping (arXiv:2506.10947)."""
CLIPPING_PROBABILITY = (0.85, 0.93)
"""Its mean token probability before and after."""
COIN_GAINS = (0.15, 0.20)
"""Smallest and largest gain over coins that pay with probability .001, .3, .5, .7."""

EXPLORATION = Source("Exploration vs Exploitation", "2512.16912", "on random rewards")
CLIP_ACTIVATION = 0.001
"""Share of tokens whose ratio is clipped (arXiv:2512.16912)."""

CLIP_LOW = Source("Clip-Low Increases Entropy", "2509.26114", "on random rewards")

TRUE_MINUS_RANDOM = Source(
    "A Pre-Registered Causal Partition of Self-Consistency Elicitation and Reward Design in RLVR",
    "2606.05932",
    "abstract",
)

REWARD_DESIGN_SHARE = {0.20: 1.39, 0.80: 0.05}
"""Share of reward design in true minus random, by prior accuracy of a tabular policy (arXiv:2606.05932; the listing's abstract has 0.139 for the
first, the paper 139 %, and only that goes with an elicitation below nothing there, which it reports)."""

WHEN_NOT_HOW = Source(
    "Base Models Know How to Reason, Thinking Models Learn When",
    "2510.07364",
    "abstract, version 3",
)

RECOVERED = 0.91
"""Largest share of the gap between base and thinking models that steering the base recovers, without changing its weights (arXiv:2510.07364)."""
STEERED_TOKENS = 0.12
"""Share of tokens that are steered for it."""

PROMPTS_ALONE = Source("Spurious Rewards", "2506.10947", "forced openings and spurious prompts")

NONSENSE_PROMPT = (0.494, 0.688)
"""MATH-500 accuracy of Qwen2.5-Math-7B, untrained, with its own prompt and with filler text as the prompt (arXiv:2506.10947)."""

FORCED_CODE = {
    "Qwen2.5-Math-7B": (0.494, 0.644),
    "Qwen2.5-7B": (0.416, 0.222),
    "Llama3.1-8B-Instruct": (0.368, 0.152),
    "OLMo2-7B-SFT": (0.214, 0.186),
}
"""MATH-500 accuracy, untrained, without and with a first sentence that begins a solution in Python (arXiv:2506.10947)."""

BETTER_BASELINE = {"reported": 0.416, "prompted": 0.646}
"""Qwen2.5-7B on MATH-500 as papers reported it, and prompted well (Chandak, Goel, Prabhu, "Incorrect Baseline Evaluations", 2025)."""

LIMIT_OF_RLVR = Source(
    "Does RL Really Incentivize Reasoning Capacity",
    "2504.13837",
    "comparison of algorithms on Omni-MATH",
)

BOUNDARY_TRAIN = {"base": (0.099, 0.672), "grpo": (0.261, 0.663)}
"""pass@1 and pass@256 of Qwen2.5-7B on the problems that it was trained on (arXiv:2504.13837)."""

BOUNDARY_TEST = {
    "base": (0.102, 0.691),
    "grpo": (0.251, 0.683),
    "ppo": (0.268, 0.692),
    "remax": (0.238, 0.675),
    "rloo": (0.281, 0.692),
    "reinforce_pp": (0.280, 0.697),
    "dapo": (0.265, 0.670),
}
"""pass@1 and pass@256 on 821 held-out problems, by what our recipe of that algorithm is called (arXiv:2504.13837)."""

BOUNDARY_AIME24 = (19, 4, 0, 7)
"""Problems of AIME24 solved in 1024 tries by both, by the base alone, by the trained model alone, by neither (arXiv:2504.13837)."""

BOUNDARY_GAP = (0.426, 0.439)
"""Smallest (RLOO) and largest (GRPO) sampling-efficiency gap, base pass@256 - trained pass@1 (arXiv:2504.13837)."""

BOUNDARY_DAPO_COST = (3, 6)
"""Times as many samples that DAPO needed (arXiv:2504.13837)."""

SELF = Source("The Reasoning Boundary Paradox", "2510.02230", "Table 1")

SELF_TABLE = {
    "Qwen2.5-Math-1.5B": {
        "MATH500": {"base": (0.5883, 0.9558), "grpo": (0.7267, 0.950), "self": (0.710, 0.960)},
        "Minerva": {"base": (0.1682, 0.7067), "grpo": (0.2396, 0.6507), "self": (0.2314, 0.6875)},
    },
    "Qwen2.5-Math-7B": {
        "MATH500": {"base": (0.5971, 0.960), "grpo": (0.8036, 0.928), "self": (0.7982, 0.9780)},
        "Minerva": {"base": (0.1160, 0.6691), "grpo": (0.2940, 0.6066), "self": (0.3042, 0.7170)},
    },
    "Llama-3.2-3B-Instruct": {
        "MATH500": {"base": (0.2661, 0.914), "grpo": (0.5406, 0.882), "self": (0.5212, 0.910)},
        "Minerva": {"base": (0.0825, 0.4926), "grpo": (0.1581, 0.5073), "self": (0.170, 0.5735)},
    },
}
"""pass@1 and pass@256 by model, benchmark and way of training (arXiv:2510.02230, Table 1)."""

INTERPLAY = Source(
    "On the Interplay of Pre-Training, Mid-Training, and RL on Reasoning Language Models",
    "2512.07783",
    "exposure to contexts in pretraining",
)

EXPOSURE = {"fails": (0.0, 0.001), "suffices": 0.01}
"""Shares of pretraining that a context had, where RL carries over to it and where it does not (arXiv:2512.07783)."""

NOISY_REWARDS = Source("The Climb Carves Wisdom Deeper Than the Summit", "2505.22653", "abstract")

FLIPPED = {"rate": 0.40, "base": 0.05, "flipped": 0.72, "clean": 0.75}
"""Accuracy of Qwen2.5-7B in mathematics where so many rewards are flipped (arXiv:2505.22653)."""

IMPERFECT_VERIFIER = Source("An Imperfect Verifier is Good Enough", "2604.07666", "abstract")

NOISE_BORNE = (0.15, 0.02)
"""Noise rate up to which peak accuracy stays so near to that of clean rewards (arXiv:2604.07666)."""

TRULY_INCORRECT = -0.090
"""MATH-500 accuracy after labels that a second verifier confirmed to be wrong, minus after clean ones (arXiv:2603.16140)."""
