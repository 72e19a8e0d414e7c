"""Labels as weights of the class parameters, and what is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.networks.labels import check_classes, class_weights, label_weights


def test_a_class_is_a_weight_of_one():
    for label in (np.array([2, 0]), jnp.array([2, 0]), [2, 0]):
        found = class_weights(label, 3)
        np.testing.assert_array_equal(found, [[0, 0, 1], [1, 0, 0]])
        assert found.dtype == jnp.float32
    np.testing.assert_array_equal(class_weights(1, 2), [[0, 1]])
    np.testing.assert_array_equal(class_weights(np.zeros(1, np.uint8), 1), [[1]])


def test_weights_stay_as_they_are_in_float32():
    for dtype in (np.float64, np.float16):
        shares = np.array([[0.5, 0.25], [-1.5, 2]], dtype)
        found = class_weights(shares, 2)
        np.testing.assert_array_equal(found, shares)
        assert found.dtype == jnp.float32
    np.testing.assert_array_equal(jax.jit(lambda w: class_weights(w, 2))(shares), shares)


def test_a_traced_class_out_of_range_is_nan():
    found = jax.jit(lambda label: class_weights(label, 3))(np.array([-1, 0, 2, 3]))
    np.testing.assert_array_equal(np.isnan(found).all(1), [True, False, False, True])
    np.testing.assert_array_equal(found[1:3], [[1, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("label", "num_classes", "says"),
    [
        (np.array([0]), None, "the network is unconditional: leave its condition out, or None"),
        (None, 3, "the network is conditional on 3 classes and got no labels: give condition="),
        (np.array([[0, 1]]), 2, r"labels are int64\[1, 2\]: give classes, int \[batch\], or weigh"),
        (np.zeros(2), 2, r"labels are float64\[2\]: give .*, or weights, float \[batch, 2\]"),
        (np.zeros((1, 3)), 2, r"labels are float64\[1, 3\]"),
        (np.zeros((1, 2, 1)), 2, r"labels are float64\[1, 2, 1\]"),
        (np.zeros((1, 2), bool), 2, r"labels are bool\[1, 2\]"),
        (jnp.array([0, 3, 9]), 3, "label: expected classes 0 to 2, or a network of more .* got 3"),
        (-1, 3, "label: expected classes 0 to 2, or a network of more classes, got -1"),
    ],
)
def test_what_is_no_class_of_a_network_is_refused(label, num_classes, says):
    with pytest.raises(ValueError, match=says):
        class_weights(label, num_classes)


def test_classes_are_checked_to_their_ends():
    check_classes([0, 2, 1], 3)
    check_classes(2, 3)
    check_classes([], 3)
    for label, number in (([2, 3, 4], 3), ([[0], [-1]], -1), (1, 1)):
        with pytest.raises(ValueError, match=rf"expected classes 0 to \d, .* got {number}$"):
            check_classes(label, 1 if label == 1 else 3)


def test_labels_that_are_vectors():
    for num_classes in (None, 0):
        for values in (np.array([[0.5, -1]]), jnp.ones((3, 2), jnp.bfloat16)):
            found = label_weights(values, num_classes, 2)
            np.testing.assert_array_equal(found, np.asarray(values, np.float32))
            assert found.dtype == jnp.float32
    np.testing.assert_array_equal(label_weights(np.array([1]), 2, 0), [[0, 1]])
    assert label_weights(None, None, 0) is None


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (None, "got no labels"),
        (np.zeros((4, 2), np.int32), r"got int32\[4, 2\]"),
        (np.zeros(2, np.float32), r"got float32\[2\]"),
        (np.zeros((4, 3), np.float32), r"got float32\[4, 3\]"),
        (np.zeros((4, 2, 1), np.float32), r"got float32\[4, 2, 1\]"),
        ([[0.5, 1.0]], r"got None\[1, 2\]"),
    ],
)
def test_what_is_no_such_vector_is_refused(label, says):
    with pytest.raises(ValueError, match=rf"^labels: expected float \[batch, 2\], {says}$"):
        label_weights(label, None, 2)


def test_a_label_is_a_class_or_a_vector():
    with pytest.raises(ValueError, match="num_classes: expected 0 beside a label_size of 2, got 1"):
        label_weights(np.zeros((1, 2), np.float32), 1, 2)
