"""Checks of what FID, KID and the Inception score are asked for, before any image is made."""

from ebm_jax.evaluation.fidelity import frechet, inception_scores


def check_fid_settings(
    *,
    num_samples: int,
    num_features: int,
    num_splits: int,
    num_reference: int | None,
    kid_subsets: int,
    kid_subset_size: int,
) -> None:
    """Raises ValueError, one line that names the setting, for what would fail after sampling.

    Args:
      num_samples: images to be made. num_features: d of the features.
      num_splits: of the Inception score.
      num_reference: real images whose features are to be made; None where statistics are on file,
        which have no KID.
      kid_subsets, kid_subset_size: of the KID; a size above the number of images is brought down
        to it, see `subset_size`.
    """
    for name, number in (("num_samples", num_samples), ("num_reference", num_reference)):
        if number is None:
            continue
        if (reason := frechet.why_undefined(number, num_features)) is not None:
            raise ValueError(f"{name} is too small: {reason}")
    inception_scores.check_splits(num_samples, num_splits)
    # Also where the statistics are on file: a value that is never right is said early.
    images = num_samples if num_reference is None else min(num_samples, num_reference)
    try:
        inception_scores.check_subsets(images, kid_subsets, min(kid_subset_size, images))
    except ValueError as error:
        raise ValueError(f"kid: {error}") from error


def subset_size(kid_subset_size: int, num_samples: int, num_reference: int) -> int:
    """The size of KID's subsets: that asked for, or the number of images where there are fewer."""
    return min(kid_subset_size, num_samples, num_reference)
