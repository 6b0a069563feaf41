"""The commands that make the recorded runs, as claims and empty tables tell them."""

SWEEP = ".venv/bin/python -m cpnb sweep notebooks/{} --parameters notebooks/parameters/full.yaml"
RUN_02 = SWEEP.format("02_train_charnet.ipynb")
RUN_03 = SWEEP.format("03_decompose.ipynb")
RUN_04 = SWEEP.format("04_finetune.ipynb") + " --grid seed=0,1,2"
RUN_05 = SWEEP.format("05_speedup.ipynb")
LOWER = f"{RUN_04} -p rank_conv2 32 -p rank_conv3 96 -p rank_conv1 24 -p lr 0.003"
INFERENCE = ".venv/bin/python benchmarks/bench_inference.py"
REPLICATE = "make replicate"
RANK_SWEEP = (
    ".venv/bin/python -m cpnb sweep notebooks/06_rank_sweep.ipynb -p ranks_conv2 [16,32,64,128] "
    "-p ranks_conv3 [16,32,64,128] -p train_size 8000 -p epochs 3 -p test_size 2000"
)
STARTS = (
    ".venv/bin/python -m cpnb sweep notebooks/04_finetune.ipynb -p dataset chars74k "
    "-p train_size 500 -p claim start-survival --grid method=nls,als,greedy lr=0.01,0.05 "
    "seed=0,1,2 (and -p max_degeneracy 0 for the plain NLS)"
)
BOUNDS = ".venv/bin/python benchmarks/bench_starts.py bounds"
PLAIN = ".venv/bin/python benchmarks/bench_starts.py plain"
ALEXNET = ".venv/bin/python benchmarks/alexnet.py"
ALEXNET_KERNEL = (
    f"{ALEXNET} kernel --methods nls-plain greedy --ranks 100 140 200 300 400 --seeds 0 1 2 3 4"
)
ALEXNET_LATENCY = f"{ALEXNET} latency"
ALEXNET_TUNE = f"{ALEXNET} tune --ranks 200"
ALEXNET_FINETUNE = (
    f"{ALEXNET_TUNE} && {ALEXNET} finetune --seeds 0 1 --ranks {{0}} && "
    f"{ALEXNET} latency --ranks {{0}}"
)
SQUEEZENET = ".venv/bin/python benchmarks/squeezenet.py"
RIVALS = (
    ".venv/bin/python benchmarks/rivals.py accuracy && "
    ".venv/bin/python benchmarks/rivals.py latency"
)
DENTON = ".venv/bin/python benchmarks/denton.py"
