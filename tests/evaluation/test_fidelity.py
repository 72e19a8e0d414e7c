"""Agreement with torch-fidelity at random weights: features, logits, FID, IS and KID to 1e-5."""

import jax
import numpy as np
import pytest

from ebm_jax.evaluation.fidelity.frechet import GaussianFit, frechet_distance
from ebm_jax.evaluation.fidelity.inception_scores import inception_score, kernel_inception_distance
from ebm_jax.evaluation.fidelity.inception_weights import read_weights
from ebm_jax.networks.inception import inception, params_from_arrays

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """(torch-fidelity's network, the parameters read from its saved state dict)."""
    torch = pytest.importorskip("torch", reason="needs the extra 'fidelity'")
    module = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="needs the extra 'fidelity'"
    )
    torch.manual_seed(0)
    path = str(tmp_path_factory.mktemp("weights") / "random.pth")
    kind = module.FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch:
        # Made without weights, then filled with random ones and saved.
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(kind, "load_state_dict", lambda *_, **__: None)
        network = kind("inception", ["2048", "logits_unbiased"])
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, std=0.1)
            torch.nn.init.normal_(layer.running_mean, std=0.1)
            torch.nn.init.uniform_(layer.running_var, 0.5, 1.5)
        elif isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(layer.weight)
    torch.save(network.state_dict(), path)
    return network.eval(), params_from_arrays(read_weights(path).arrays)


def by_both(networks, images):
    """((features, logits) of torch-fidelity, of ours), of uint8 images [n, h, w, 3]."""
    import torch

    network, params = networks
    with torch.no_grad():
        theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    ours = jax.jit(inception)(params, images)
    return [x.numpy() for x in theirs], [np.asarray(ours[k]) for k in ("features", "logits")]


def test_features_logits_and_what_is_made_of_them(networks):
    import torch

    isc = pytest.importorskip("torch_fidelity.metric_isc", reason="needs torchvision as well")
    from torch_fidelity import metric_fid, metric_kid

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    theirs, ours = by_both(networks, images)
    for a, b in zip(theirs, ours, strict=True):
        assert np.max(np.abs(a - b)) <= 1e-5 * np.max(np.abs(a))

    halves = [(f[:12].astype(np.float64), f[12:].astype(np.float64)) for f in (theirs[0], ours[0])]
    kid = metric_kid.kid_features_to_metric(
        *(torch.from_numpy(half) for half in halves[0]),
        kid_subsets=1, kid_subset_size=12, kid_kernel="poly", verbose=False,
    )["kernel_inception_distance_mean"]  # fmt: skip
    assert kernel_inception_distance(
        *halves[1], num_subsets=1, subset_size=12
    ).mean == pytest.approx(kid, rel=1e-5)
    score = isc.isc_features_to_metric(torch.from_numpy(theirs[1]), splits=3, shuffle=False)
    found = inception_score(ours[1], num_splits=3)
    assert found.mean == pytest.approx(score["inception_score_mean"], rel=1e-5)
    assert found.deviation == pytest.approx(score["inception_score_std"], rel=1e-4, abs=1e-7)

    some = [f[:, :8].astype(np.float64) for f in (theirs[0], ours[0])]  # regular covariances
    fits = [[(h.mean(0), np.cov(h, rowvar=False)) for h in (f[:12], f[12:])] for f in some]
    expected = metric_fid.fid_statistics_to_metric(
        *({"mu": mean, "sigma": covariance} for mean, covariance in fits[0]), verbose=False
    )["frechet_inception_distance"]
    distance = frechet_distance(*(GaussianFit(*fit, 12) for fit in fits[1]))
    assert distance == pytest.approx(expected, rel=1e-5)


def test_images_of_other_sizes(networks):
    rng = np.random.default_rng(1)
    for shape in ((2, 299, 299, 3), (2, 64, 40, 3)):
        theirs, ours = by_both(networks, rng.integers(0, 256, shape, dtype=np.uint8))
        for a, b in zip(theirs, ours, strict=True):
            assert np.max(np.abs(a - b)) <= 1e-5 * np.max(np.abs(a))


@pytest.mark.parametrize("is_zip", [True, False])
def test_both_formats_of_torch(is_zip, tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra 'fidelity'")
    whole = torch.arange(24.0).reshape(4, 6)
    saved = {
        "turned": whole.T,
        "part": whole[1:3, ::2],
        "short": whole.to(torch.bfloat16),
        "half": whole.half(),
        "count": torch.tensor(7),
        "parameter": torch.nn.Parameter(whole),
    }
    torch.save(saved, tmp_path / "file.pt", _use_new_zipfile_serialization=is_zip)
    found = read_weights(str(tmp_path / "file.pt")).arrays
    assert found.keys() == saved.keys()
    for name, tensor in saved.items():
        np.testing.assert_array_equal(found[name], tensor.detach().double().numpy())
