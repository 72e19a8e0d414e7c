"""`python -m ebm_jax`: the program `ebm-jax`, of the Python that is named."""

from ebm_jax.main import run

if __name__ == "__main__":
    run()
