"""The public names, by room: what `cpnb.NAME` finds, loaded when it is first asked for."""

# ruff: noqa: F401, I001
from .cp.algebra import CPResult
from .cp.als import cp_als, cp_greedy
from .cp.nls import cp_nls, cp_nls_batch

from .layers.cp import CPConv2d
from .layers.denton import BiclusteredConv2d, MonochromaticConv2d
from .layers.jaderberg import SeparableBasis, VerticalHorizontal
from .layers.surgery import decompose, get_convolution
from .layers.svd import SVDLinear
from .layers.tucker import TuckerConv2d

from .runs import records
from .runs.records import record, recorded, results_folder, results_path

from .data.characters import (
    CharacterDataset, augment, concatenate, contact_sheet, load_dataset,
)  # fmt: skip
from .data.images import ImageDataset, ImageFiles, flip_and_crop
from .data.samples import training_samples

from .nets.alexnet import (
    AlexNet, SmallAlexNet, block_diagonal, load_alexnet, load_small_alexnet, open_alexnet,
)  # fmt: skip
from .nets.charnet import CharNet, Maxout, load_charnet
from .nets.factored import load_factored, save_factored
from .nets.resnet import CifarResNet, load_cifar_resnet
from .nets.squeezenet import expand_layers, load_squeezenet, rank_for
from .nets.weights import CheckpointError, load_weights, save_weights

from .training.evaluation import accuracy, pick_device, topk_accuracy
from .training.finetuning import TrainingError, finetune, train
from .training.patches import fit_to_patches, patch_moments
from .training.reconstruct import gradient_weights, input_covariance, reconstruct_on_data

from .inference.compression import compress
from .inference.counts import count_multiplies, multiplies_per_layer
from .inference.latency import (
    Latency, fastest_dense, measure_fastest, measure_interleaved, measure_latency, speedup,
)  # fmt: skip
from .inference.optimise import optimize_for_inference
from .inference.plan import Plan
from .inference.planning import plan
