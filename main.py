"""Train, sample and evaluate energy-based models.

    python main.py --config=configs/digits.py --workdir=runs/digits
    python main.py --config=configs/digits.py --workdir=runs/digits --mode=sample
    python main.py --config=configs/cifar10.py:small --config.training.batch_size=8 --workdir=...
    python main.py --help

Exit codes: 0 done; 2 a command that cannot be run; 3 training diverged; 130, 143 interrupted.
"""

from ebm_jax.main import run

if __name__ == "__main__":
    run()
