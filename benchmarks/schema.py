"""The names and columns that modules share: groups, selections, tidy rows. A leaf."""

from __future__ import annotations

SCHEMA = 2  # of record.json
GROUP = ("variant", "dataset", "protocol")  # what a stage of the pipeline runs
SELECTIONS = ("last", "validation", "oracle")  # which checkpoint is scored
IMPORTED = "imported"  # the method of variants whose anomaly maps other software made
NOT_STATED = "not stated"  # by the author of imported maps, or by a publication
IMAGE_CONVENTION = "folder label"  # the only one of image metrics

# Of scores/GROUP.csv; results/README.md says what each means.
SCORE_COLUMNS = (
    "variant", "method", "dataset", "protocol", "category", "seed", "subset", "metric", "convention", "selection",
    "teacher", "value", "reason", "images", "anomalous", "fingerprint", "record",
)  # fmt: skip
# Of interference/GROUP.csv: the subset of test images is a kind of probe and its ratio.
PROBE_COLUMNS = tuple(c for name in SCORE_COLUMNS for c in (("probe", "ratio") if name == "subset" else (name,)))


def group_name(variant: str, dataset: str, protocol: str) -> str:
    """The name of a group in paths and commands.

    >>> group_name("rd", "mvtec_ad", "one_class")
    'rd-mvtec_ad-one_class'
    """
    return f"{variant}-{dataset}-{protocol}"
