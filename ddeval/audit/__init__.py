"""Audit: which labels are wrong, what is there twice, and which cases should a person look at?

Arrays and frames in, arrays and frames out; `ddeval audit` (ddeval.cli.audit) reads runs and writes files.
"""

from ddeval.audit.duplicates import near_duplicates
from ddeval.audit.folds import out_of_fold
from ddeval.audit.ranking import label_quality

__all__ = ["label_quality", "near_duplicates", "out_of_fold"]
