# SPDX-License-Identifier: Apache-2.0
"""A model as ciphertexts: sums against clear ones, and bytes that are none."""

import dataclasses
import random

import numpy as np
import pytest

from flprov.errors import JobFailed, LocalError, Misuse, UpdateRefused
from flprov.sdk.he import ciphertexts, ckks
from flprov.sdk.he.ciphertexts import (
    add_ciphertexts,
    decrypt_tensors,
    encrypt_tensors,
    read_ciphertexts,
    split_model,
    verify_alike,
    verify_readable,
)
from flprov.sdk.he.ckks import FRESH_BYTES, LIMIT, NOISE, PIECE, SUM_BYTES, Cipher, Ring, create_secret_key

TENSEAL = pytest.importorskip("tenseal")
CIPHER = Cipher(create_secret_key())
RING = Ring()
BF16 = np.dtype([("BF16", "<u2")])


def encrypt(tensors, *, factor=1.0, limit=LIMIT, cipher=CIPHER):
    return encrypt_tensors(tensors, cipher, factor=factor, limit=limit)


def changed(found, **tensors):
    return found.tensors() | tensors


# ---- the numbers -------------------------------------------------------------------------------


def test_tensors_in_another_order_are_refused_before_they_are_added_to_those_of_others():
    """What is added are places: the first one's layout would give everybody's numbers other names."""
    found = encrypt({"a": np.array([1.0, 2.0]), "b": np.array([3.0])})
    turned = dataclasses.replace(found, layout=found.layout[::-1])
    with pytest.raises(UpdateRefused, match="tensor 'a' comes after 'b'; they are laid out by name"):
        read_ciphertexts(turned.tensors())


def test_a_sum_by_hand():
    one = encrypt({"w": np.array([1.0, -2.0])}, factor=0.25)
    other = encrypt({"w": np.array([5.0, 6.0])}, factor=0.75)
    mean = decrypt_tensors(add_ciphertexts([one, other], {}, RING), CIPHER)
    assert mean["w"] == pytest.approx([4.0, 4.0], abs=1e-8)  # (1 + 3 * 5) / 4, (-2 + 3 * 6) / 4


def test_sums_agree_with_those_in_clear_and_with_tenseals_own_vectors():
    source = np.random.default_rng(1)
    models = [source.normal(0.0, 10.0, 3 * PIECE + 5) for _ in range(5)]
    context = TENSEAL.context(
        TENSEAL.SCHEME_TYPE.CKKS,
        8192,
        coeff_mod_bit_sizes=[60, 60],
        encryption_type=TENSEAL.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.global_scale = 2.0**43
    oracle = (
        sum(TENSEAL.ckks_vector(context, model[:PIECE]) for model in models[1:]) + models[0][:PIECE].tolist()
    )
    total = add_ciphertexts([encrypt({"w": model}) for model in models], {}, RING)
    found = decrypt_tensors(dataclasses.replace(total, total=1.0), CIPHER)["w"]
    assert np.abs(found - sum(models)).max() < 1e-8
    assert np.abs(found[:PIECE] - np.array(oracle.decrypt())).max() < 1e-8


def test_the_noise_is_what_the_module_says():
    values = np.random.default_rng(2).uniform(-1, 1, PIECE)
    error = CIPHER.decrypt(CIPHER.encrypt(values)) - values
    assert NOISE / 2 < error.std() < NOISE


def test_numbers_up_to_the_limit_have_room_and_none_beyond():
    full = np.full(PIECE, LIMIT)
    assert CIPHER.decrypt(CIPHER.encrypt(-full)) == pytest.approx(-full)
    for value in (LIMIT * 1.001, np.nan, np.inf):
        with pytest.raises(Misuse, match="cannot be encrypted"):
            CIPHER.encrypt(np.array([value]))


def test_the_sum_has_the_same_bits_in_every_order():
    terms = [encrypt({"w": np.arange(5000.0) * number}) for number in range(4)]
    shuffled = [terms[number] for number in (2, 0, 3, 1)]
    one, other = (add_ciphertexts(order, {}, RING) for order in (terms, shuffled))
    assert one.data.tobytes() == other.data.tobytes()


def test_the_same_numbers_never_give_the_same_bytes():
    assert CIPHER.encrypt(np.zeros(4)) != CIPHER.encrypt(np.zeros(4))


def test_tensors_of_all_kinds_come_back_in_their_names_shapes_and_dtypes():
    model = {
        "bias": np.arange(3, dtype=np.float16),
        "empty": np.zeros((0, 4), np.float32),
        "half": np.array([16256, 49024], "<u2").view(BF16),  # 1.0 and -1.0
        "scalar": np.array(7.0),
        "weight": np.linspace(-1, 1, 2 * PIECE + 7, dtype=np.float32).reshape(-1, 1),
        "steps": np.array([3, 4]),
        "mask": np.array([True, False]),
    }
    found = decrypt_tensors(read_ciphertexts(encrypt(model, factor=0.5).tensors()), CIPHER)
    assert found.keys() == model.keys()
    for name, array in model.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
    assert np.abs(found["weight"] - model["weight"]).max() < 1e-7
    assert found["half"].tobytes() == model["half"].tobytes()
    assert (found["bias"].tolist(), float(found["scalar"])) == ([0, 1, 2], pytest.approx(7))
    assert (found["steps"].tolist(), found["mask"].tolist()) == ([3, 4], [True, False])


def test_integers_travel_in_clear_and_floats_do_not():
    found = encrypt({"w": np.full(8, 1234.5), "n": np.array([77])}).tensors()
    assert found["clear/n"].tolist() == [77]
    assert np.full(8, 1234.5).tobytes() not in found["ciphertexts"].tobytes()


def test_bytes_are_what_the_cost_is_reckoned_with():
    fresh = CIPHER.encrypt(np.ones(PIECE))
    total = RING.read(fresh)
    RING.add(total, RING.read(fresh))
    assert 0.99 * FRESH_BYTES < len(fresh) <= FRESH_BYTES
    assert 0.99 * SUM_BYTES < len(RING.write(total)) <= SUM_BYTES


def test_a_released_model_is_blurred_as_far_as_it_is_told():
    found = encrypt({"w": np.zeros(20 * PIECE)})
    blurred = decrypt_tensors(found, CIPHER, flood=1e-3)["w"]
    assert 0.99e-3 < blurred.std() < 1.01e-3


# ---- what must not be encrypted -------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_before_it_is_encrypted(value):
    weights = np.zeros(PIECE + 2)
    weights[-1] = value
    with pytest.raises(JobFailed, match="tensor 'w' holds NaN or infinity"):
        encrypt({"a": np.zeros(3), "w": weights})


def test_what_has_no_room_is_refused_naming_the_tensor_and_the_limit():
    with pytest.raises(JobFailed, match="tensor 'w' holds a number beyond the 200") as said:
        encrypt({"w": np.array([300.0])}, factor=0.5, limit=100.0)
    assert "300" not in str(said.value)  # the server reads it


def test_a_mean_that_leaves_its_dtype_is_refused():
    found = encrypt({"w": np.array([60000.0], np.float16)}, factor=0.25)
    with pytest.raises(UpdateRefused, match="'w' holds NaN or infinity, or leaves the range of float16"):
        decrypt_tensors(dataclasses.replace(found, total=0.1), CIPHER)


# ---- hostile bytes ---------------------------------------------------------------------------------


def damaged_ciphertexts():
    good = CIPHER.encrypt(np.ones(4))
    rng = random.Random(5)
    yield "empty", b""
    yield "noise", rng.randbytes(len(good))
    yield "cut", good[:-1]
    yield "header only", good[:100]
    yield "a coefficient beyond the modulus", good[:1000] + b"\xff" * 64 + good[1064:]
    yield "another scale", rewritten(scale=2.0**20)
    yield "three polynomials", rewritten(polynomials=3)


def rewritten(*, scale=ckks.SCALE, polynomials=2):
    """A ciphertext that SEAL itself takes, and that is none of ours."""
    seal = RING._seal
    plain, found = seal.Plaintext(), seal.Ciphertext()
    CIPHER._encoder.encode([1.0 + 0j], scale, plain)
    CIPHER._encryptor.encrypt_symmetric(plain, found)
    if polynomials == 3:
        seal.CKKSEncoder(RING._context).encode([1.0 + 0j], 1.0, plain)
        CIPHER._encryptor.encrypt_symmetric(plain, found)
        RING._evaluator.square_inplace(found)
    return RING.write(found)


@pytest.mark.parametrize(("what", "data"), list(damaged_ciphertexts()), ids=lambda value: str(value)[:30])
def test_bytes_that_are_no_ciphertext_of_this_job_are_refused(what, data):
    with pytest.raises(UpdateRefused, match=r"is no ciphertext|of another form"):
        RING.read(data)


def test_random_damage_is_refused_or_harmless_and_never_ends_the_process():
    good, rng = CIPHER.encrypt(np.ones(4)), random.Random(7)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(200)] = rng.randrange(256)
        try:
            RING.add(RING.read(good), RING.read(bytes(data)))
        except UpdateRefused:
            continue


def test_the_tensors_that_a_bad_ciphertext_covers_are_named():
    found = encrypt({"a": np.zeros(10), "b": np.zeros(PIECE), "c": np.zeros(PIECE)})
    assert [found.covers(number) for number in range(3)] == ["'a' to 'b'", "'b' to 'c'", "'c'"]
    data = found.data.copy()
    data[int(found.sizes[0]) + 200 :][:8] = 255
    bad = read_ciphertexts(changed(found, ciphertexts=data))
    with pytest.raises(UpdateRefused, match="tensor 'b' to 'c': ciphertext 1 is no ciphertext"):
        verify_readable(bad, RING)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ciphertexts": np.zeros(5, np.uint8)}, "'ciphertexts' has 5 bytes"),
        ({"ciphertexts": np.zeros(5, np.float32)}, "'ciphertexts' is missing, or of another dtype"),
        ({"sizes": np.array([1, 2], np.uint32)}, "'sizes': 2 ciphertexts for 1 pieces"),
        ({"sizes": np.array([2**32 - 1], np.uint32)}, "which are not its pieces' sizes"),
        ({"total": np.array([np.nan])}, "'total' is not one finite number"),
        ({"total": np.array([-1.0])}, "'total' is not one finite number"),
        ({"layout": np.frombuffer(b"[1]", np.uint8)}, "'layout' does not describe a model"),
        ({"layout": np.frombuffer(b"[" * 9999, np.uint8)}, "'layout' does not describe a model"),
        ({"extra": np.zeros(1)}, "'extra' is no part of an encrypted model"),
        ({"clear/w": np.zeros(1)}, "'w' is there twice"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(change, message):
    found = encrypt({"w": np.zeros(3)})
    with pytest.raises(UpdateRefused, match=message):
        read_ciphertexts(changed(found, **change))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"w": np.zeros(4, np.float32)}, r"tensor 'w' is F32\[3\], the model's is F32\[4\]"),
        ({"w": np.zeros(3)}, r"tensor 'w' is F32\[3\], the model's is F64\[3\]"),
        ({"v": np.zeros(3, np.float32), "w": np.zeros(3, np.float32)}, "tensor 'v' is missing"),
        ({}, "tensor 'w' is not in the model"),
        ({"w": np.zeros(3, np.float32), "n": np.zeros(1, np.int64)}, "tensor 'n' is missing"),
    ],
)
def test_another_model_than_the_tasks_is_refused(model, message):
    found = encrypt({"w": np.zeros(3, np.float32)})
    with pytest.raises(UpdateRefused, match=message):
        verify_alike(found, *split_model(model))


def test_another_jobs_key_gives_nonsense_and_not_the_numbers():
    stranger = Cipher(create_secret_key())
    found = stranger.decrypt(CIPHER.encrypt(np.ones(4)))
    assert np.abs(found[:4] - 1.0).min() > 1.0


def test_a_damaged_secret_key_is_said_to_be_one():
    with pytest.raises(LocalError, match="secret key of this job cannot be read"):
        Cipher(b"nonsense")


def test_memory_does_not_grow_with_the_model(monkeypatch):
    """Pieces are written as they are made: none is asked for before the one before is in the file."""
    alive, most = 0, 0
    encrypt_one = CIPHER.encrypt

    class Counted(bytes):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def counting(values):
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return Counted(encrypt_one(values))

    monkeypatch.setattr(CIPHER, "encrypt", counting)
    encrypt({"w": np.zeros(10 * PIECE, np.float32)})
    assert most <= 2


def test_without_tenseal_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tenseal.sealapi", None)
    with pytest.raises(LocalError) as caught:
        Ring()
    assert "TenSEAL is not installed here" in str(caught.value)
    assert "flprov[he]" in (caught.value.hint or "")


def test_a_model_without_floats_has_no_ciphertext():
    found = encrypt({"n": np.array([1])})
    assert (ciphertexts.count_pieces(found.layout), found.data.size) == (0, 0)
    assert decrypt_tensors(read_ciphertexts(found.tensors()), CIPHER)["n"].tolist() == [1]
