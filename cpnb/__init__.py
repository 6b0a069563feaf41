"""cpnb: speeding up convolutional networks by CP decomposition and fine-tuning.

The module behind the notebooks that replicate Lebedev et al. (ICLR 2015, arXiv 1412.6553).
"""

from cpnb.alexnet import (
    AlexNet,
    SmallAlexNet,
    block_diagonal,
    load_alexnet,
    load_small_alexnet,
    open_alexnet,
)
from cpnb.als import cp_als, cp_greedy
from cpnb.checkpoints import CheckpointError, load_weights, save_weights
from cpnb.compress import decompose, get_convolution
from cpnb.cp import CPResult
from cpnb.data import CharacterDataset, augment, concatenate, contact_sheet, load_dataset
from cpnb.denton import BiclusteredConv2d, MonochromaticConv2d
from cpnb.evaluation import accuracy, pick_device, topk_accuracy
from cpnb.images import ImageDataset, ImageFiles, flip_and_crop
from cpnb.inference import optimize_for_inference
from cpnb.jaderberg import SeparableBasis, VerticalHorizontal
from cpnb.layers import CPConv2d
from cpnb.lowrank import SVDLinear, TuckerConv2d
from cpnb.nets import CharNet, Maxout, load_charnet
from cpnb.nls import cp_nls, cp_nls_batch
from cpnb.patches import fit_to_patches, patch_moments
from cpnb.reconstruct import gradient_weights, input_covariance, reconstruct_on_data
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
from cpnb.squeezenet import expand_layers, load_squeezenet, rank_for
from cpnb.training import TrainingError, finetune, train

__version__ = "0.1.0"

__all__ = [
    "AlexNet", "BiclusteredConv2d", "CPConv2d", "CPResult", "CharNet", "CharacterDataset",
    "CheckpointError", "ImageDataset", "ImageFiles", "Latency", "Maxout", "MonochromaticConv2d",
    "SVDLinear", "SeparableBasis", "SmallAlexNet", "TrainingError", "TuckerConv2d",
    "VerticalHorizontal", "accuracy", "augment", "block_diagonal", "concatenate",
    "contact_sheet", "count_multiplies", "cp_als", "cp_greedy", "cp_nls", "cp_nls_batch",
    "decompose", "expand_layers", "fastest_dense", "finetune", "fit_to_patches",
    "flip_and_crop", "get_convolution", "gradient_weights", "input_covariance", "load_alexnet",
    "load_charnet", "load_dataset", "load_small_alexnet", "load_squeezenet", "load_weights",
    "measure_fastest", "measure_interleaved", "measure_latency", "multiplies_per_layer",
    "open_alexnet", "optimize_for_inference", "patch_moments", "pick_device", "rank_for",
    "reconstruct_on_data",
    "record", "recorded", "results_folder", "results_path", "save_weights", "speedup",
    "topk_accuracy", "train", "training_samples",
]  # fmt: skip
