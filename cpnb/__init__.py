"""cpnb: speeding up convolutional networks by CP decomposition and fine-tuning.

The module behind the notebooks that replicate Lebedev et al. (ICLR 2015, arXiv 1412.6553).
"""

from cpnb.als import cp_als, cp_greedy
from cpnb.checkpoints import CheckpointError, load_weights, save_weights
from cpnb.compress import decompose, get_convolution
from cpnb.cp import CPResult
from cpnb.data import CharacterDataset, augment, concatenate, contact_sheet, load_dataset
from cpnb.evaluation import accuracy, pick_device
from cpnb.inference import optimize_for_inference
from cpnb.layers import CPConv2d
from cpnb.nets import CharNet, Maxout, load_charnet
from cpnb.nls import cp_nls
from cpnb.records import record, recorded, results_folder, results_path
from cpnb.samples import training_samples
from cpnb.speed import (
    Latency,
    count_multiplies,
    fastest_dense,
    measure_fastest,
    measure_interleaved,
    measure_latency,
    multiplies_per_layer,
    speedup,
)
from cpnb.training import TrainingError, finetune, train

__version__ = "0.1.0"

__all__ = [
    "CPConv2d", "CPResult", "CharNet", "CharacterDataset", "CheckpointError", "Latency", "Maxout",
    "TrainingError", "accuracy", "augment", "concatenate", "contact_sheet", "count_multiplies",
    "cp_als", "cp_greedy", "cp_nls", "decompose", "fastest_dense", "finetune", "get_convolution",
    "load_charnet", "load_dataset", "load_weights", "measure_fastest", "measure_interleaved",
    "measure_latency", "multiplies_per_layer", "optimize_for_inference", "pick_device", "record",
    "recorded", "results_folder", "results_path", "save_weights", "speedup", "train",
    "training_samples",
]  # fmt: skip
