"""The checker behind the jaxtyping hook: beartype, with an int allowed where a float is asked for, as pyright does."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
