# SPDX-License-Identifier: Apache-2.0
"""Arrays of other frameworks travel bit by bit: their dtype, shape and bytes are what they were."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from flprov.errors import Misuse
from flprov.sdk import as_tensors
from flprov.wire import encode_tensors, read_tensors


def travelled(value: object) -> np.ndarray:
    return read_tensors(encode_tensors(as_tensors({"w": value})))["w"]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("float32", "float32"),
        ("float16", "float16"),
        ("int32", "int32"),
        ("bool", "bool"),
        ("complex64", "complex64"),
        ("bfloat16", "BF16"),
        ("float8_e4m3fn", "F8_E4M3"),
        ("float8_e5m2", "F8_E5M2"),
    ],
)
@pytest.mark.parametrize("shape", [(2, 3), (6,), (1, 6, 1)])
def test_jax_arrays_pass_unharmed(dtype, name, shape):
    jnp = pytest.importorskip("jax.numpy")
    sent = jnp.linspace(0, 3, 6).reshape(shape).astype(dtype)
    found = travelled(sent)
    assert (found.dtype.names or (found.dtype.name,)) == (name,)
    assert found.shape == shape
    assert found.tobytes() == np.asarray(sent).tobytes()


def test_a_jax_scalar_keeps_its_shape():
    jnp = pytest.importorskip("jax.numpy")
    assert travelled(jnp.bfloat16(1.5)).shape == travelled(jnp.float32(1.5)).shape == ()


def test_a_list_is_named_in_order():
    found = as_tensors([np.full(2, number) for number in range(12)])
    assert [int(found[name][0]) for name in sorted(found)] == list(range(12))


@pytest.mark.parametrize("params", [{"layer": {"w": np.ones(2)}}, {"w": object()}, {"w": "text"}, "text", 3])
def test_what_is_no_array_is_refused(params):
    with pytest.raises(Misuse):
        as_tensors(params)


_TENSORFLOW = """
import numpy as np, tensorflow as tf
from flprov.sdk import as_tensors
from flprov.wire import encode_tensors, read_tensors

def travelled(value):
    return read_tensors(encode_tensors(as_tensors({"w": value})))["w"]

for dtype in (tf.float32, tf.bfloat16, tf.float16, tf.int64, tf.bool):
    for make in (tf.constant, tf.Variable):
        sent = make(tf.cast(tf.reshape(tf.range(6), (2, 3)), dtype))
        found = travelled(sent)
        assert found.shape == (2, 3) and found.tobytes() == sent.numpy().tobytes(), (dtype, make)
layer = tf.keras.layers.Dense(2)
layer.build((None, 3))
found = read_tensors(encode_tensors(as_tensors(layer.get_weights())))
before = [weight.tobytes() for weight in layer.get_weights()]
layer.set_weights([found[name] for name in sorted(found)])
assert [weight.tobytes() for weight in layer.get_weights()] == before
print("unharmed")
"""


@pytest.mark.slow
def test_tensorflow_tensors_variables_and_keras_weights_pass_unharmed():
    if find_spec("tensorflow") is None:
        pytest.skip("tensorflow is not installed")
    done = subprocess.run(
        [sys.executable, "-c", _TENSORFLOW], env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == ["unharmed"], done.stderr[-2000:]


def test_none_of_them_is_imported_by_us():
    code = "import sys, flprov.client, flprov.sdk as s; s.as_tensors({'w': [1.0]}); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert not {"jax", "tensorflow", "torch", "keras", "ml_dtypes"} & set(done.stdout.split())
