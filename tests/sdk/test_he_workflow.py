# SPDX-License-Identifier: Apache-2.0
"""FedAvg over ciphertexts: equal to FedAvg in clear, killed and resumed, with sites that come, go and lie."""

import dataclasses

import numpy as np
import pytest
from ports import FakePort, Killed

from flprov._base import canonical_json
from flprov.errors import IdentityRefused, JobFailed, PermissionRefused, UpdateRefused
from flprov.messages import Site, Task, Update, UpdateKind
from flprov.pki import derive_secret
from flprov.sdk import (
    FedAvg,
    Selection,
    Sites,
    State,
    find_envelope,
    read_state,
    run_runtime_task,
    verify_agreed,
)
from flprov.sdk.he.ciphertexts import decrypt_tensors, read_ciphertexts
from flprov.sdk.he.ckks import Cipher
from flprov.sdk.he.keys import SiteKeys
from flprov.sdk.he.opening import open_result
from flprov.sdk.workflows.fedavg_he import FedAvgHE
from flprov.wire import write_tensors

pytest.importorskip("tenseal")
NAMES = ("a", "b", "c")
MODEL = {"w": np.array([2.0, -1.0], np.float32), "n": np.array([0])}
SAMPLES = {"a": 100, "b": 300, "c": 50}
TARGET = {"a": 0.0, "b": 8.0, "c": -3.0}
SECRET = b"sixteen bytes or more"
START = State(model=MODEL)
FEDAVG_HE = FedAvgHE()
SEALED = FedAvgHE(release=False)
NEAR = 3e-5  # what the noise of a release leaves, of so few samples; weights are equal to 1e-4


def train(task, site):
    """Half of the way to the site's own target; `a` sends differences, the others weights."""
    w = task.params["w"] if task.params else np.full(2, TARGET[site.name], np.float32)
    new = {"w": w + (np.float32(TARGET[site.name]) - w) / 2, "n": np.array([SAMPLES[site.name]])}
    if site.name == "a" and task.params:
        new = {"w": new["w"] - w, "n": new["n"] - task.params["n"]}
        return Update(params=new, kind=UpdateKind.DIFF, samples=100, metrics={"loss": 1.0})
    return Update(params=new, samples=SAMPLES[site.name], metrics={"loss": 2.0})


class Hospitals:
    """Sites that do what a session does: runtime tasks, the envelope, and the trainer in between."""

    def __init__(self, folder, trainer=train):
        self.folder = folder
        self.trainer = trainer
        self.envelopes = {name: find_envelope("fedavg_he") for name in NAMES}
        self.seen = []  # every tensor that the server's side has sent or got
        self.opened = []
        self.away = {}  # (site, task) -> reason
        self.secrets = {}  # site -> what its he_secret comes to
        self.lies = {}  # site -> what it makes of its closed update
        for name in NAMES:
            (folder / name).mkdir()

    def site(self, name):
        return Site(name=name, job_id="j", folder=self.folder / name, he_secret=self.secrets.get(name, b""))

    def __call__(self, ask, name):
        if reason := self.away.get((name, ask.name)):
            return reason
        task = Task(
            name=ask.name,
            params=ask.model,
            round=ask.round,
            rounds=ask.rounds,
            job_id="j",
            scalars=ask.scalars,
            extra=ask.extra_of.get(name, ask.extra),
        )
        self.seen += [*task.params.values(), *task.extra.values()]
        try:
            update = self.answer(task, self.site(name))
        except (JobFailed, UpdateRefused, IdentityRefused) as error:
            return str(error)
        self.seen += update.params.values()
        return update

    def answer(self, task, site):
        if task.name.startswith("flprov."):
            update = run_runtime_task(task, site)
            if task.name == "flprov.he.open":
                self.opened.append(site.name)
            return update
        envelope = self.envelopes[site.name]
        task = envelope.open(task, site)
        if task.name == "evaluate":
            return Update(samples=SAMPLES[site.name], metrics={"w0": float(task.params["w"][0])})
        update = envelope.close(self.trainer(task, site), task, site)
        return self.lies.get(site.name, lambda given: given)(update)


@pytest.fixture
def hospitals(tmp_path):
    return Hospitals(tmp_path)


@pytest.fixture
def guarded(hospitals):
    """The same hospitals, who have given each other a secret."""
    hospitals.secrets = dict.fromkeys(NAMES, derive_secret(SECRET, b"he j"))
    return hospitals


def run(port, state=START, *, total=3, tasks=("train",), workflow=FEDAVG_HE, **selection):
    sites = Sites(port, names=NAMES, tasks=tasks, total=total, selection=Selection(**selection))
    workflow.run(sites, state)
    return read_state(port.saved[-1])


def in_clear(total=3, model=MODEL, names=NAMES):
    def answer(ask, name):
        task = Task(name=ask.name, params=ask.model, round=0, rounds=1, job_id="j")
        return train(task, Site(name=name, job_id="j", folder=None))

    port = FakePort(answer)
    FedAvg().run(Sites(port, names=names, tasks=["train"], total=total), State(model=model))
    return read_state(port.saved[-1]).model


# ---- the same as FedAvg ------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MODEL, {}], ids=["a model to start from", "the sites' own start"])
def test_it_comes_to_the_weights_of_fedavg(hospitals, model):
    found = run(FakePort(hospitals), State(model=model)).model
    clear = in_clear(model=model)
    assert np.abs(found["w"] - clear["w"]).max() < NEAR
    assert found["n"].tolist() == clear["n"].tolist() == [300]  # of the largest share
    assert found["w"].dtype == np.float32


def test_one_round_by_hand(hospitals):
    # a: 1, b: 5, c: -0.5 of w[0] = 2; (100 * 1 + 300 * 5 + 50 * -0.5) / 450
    found = run(FakePort(hospitals), total=1, workflow=FedAvgHE(samples=450)).model
    assert found["w"][0] == pytest.approx(1575 / 450, abs=NEAR)


def test_the_server_sees_no_weight_between_the_first_model_and_the_last(hospitals):
    port = FakePort(hospitals)
    run(port, total=2)
    weights = [array for array in hospitals.seen if array.dtype.kind == "f" and array.size > 1]
    assert [array.tolist() for array in weights[:-1]] == [[2.0, -1.0]] * 3  # the first, to each site
    assert port.asks[-1].name == "flprov.he.open"  # and what came of it is the last
    secrets = [SiteKeys(hospitals.site(name)).require().secret for name in NAMES]
    for array in hospitals.seen:
        assert secrets[0][:64] not in array.tobytes()
    assert len(set(secrets)) == 1


def test_metrics_are_of_the_sites_and_of_the_decrypted_model(hospitals):
    port = FakePort(hospitals)
    run(port, tasks=("train", "evaluate"), total=2)
    first = read_state(port.saved[0])
    assert first.metrics["loss"] == pytest.approx((100 * 1 + 350 * 2) / 450)
    assert first.metrics["w0"] == pytest.approx(1575 / 450, abs=1e-6)


def test_a_result_that_is_not_released_opens_with_the_sites_own_secret(guarded, tmp_path):
    found = run(FakePort(guarded), workflow=SEALED)
    assert "w" not in found.model
    assert guarded.opened == []
    (tmp_path / "he-key.json").write_bytes(canonical_json(found.results["he-key.json"]))
    write_tensors(tmp_path / "model.safetensors", found.model)
    opened = open_result(tmp_path, job_id="j", secret=SECRET + b"\n")
    assert opened["w"] == pytest.approx(in_clear()["w"], abs=1e-6)
    with pytest.raises(IdentityRefused, match="does not open"):
        open_result(tmp_path, job_id="j", secret=b"another secret of theirs")


def test_without_a_secret_of_the_sites_a_result_must_be_released(hospitals):
    port = FakePort(hospitals)
    with pytest.raises(JobFailed, match="nobody could ever open the result"):
        run(port, workflow=SEALED)
    assert "train" not in [ask.name for ask in port.asks]


def test_the_best_model_is_opened_too(hospitals):
    found = run(FakePort(hospitals), tasks=("train", "evaluate"), best="w0", mode="min", total=3)
    assert found.best.round == 0  # the means rise from 3.5 on
    assert found.best.model["w"][0] == pytest.approx(3.5, abs=NEAR)
    assert found.model["w"] == pytest.approx(in_clear()["w"], abs=NEAR)
    assert hospitals.opened == ["a", "a"]


def test_patience_ends_it_with_a_model_in_clear(hospitals):
    found = run(FakePort(hospitals), tasks=("train", "evaluate"), best="w0", mode="min", patience=1, total=9)
    assert found.round == 2
    assert found.model["w"] == pytest.approx(in_clear(total=2)["w"], abs=NEAR)


def test_a_part_of_the_sites_trains_in_each_round(hospitals):
    port = FakePort(hospitals)
    run(port, workflow=FedAvgHE(fraction=0.5), total=2)
    assert [len(ask.to) for ask in port.asks if ask.name == "train"] == [2, 2]


# ---- kills ----------------------------------------------------------------------------------------


def test_killed_at_every_step_it_goes_on_to_the_same_weights(tmp_path):
    undisturbed = Hospitals(made(tmp_path / "undisturbed"))
    port = FakePort(undisturbed)
    expected = run(port, total=2).model
    for step in range(port.steps):
        hospitals = Hospitals(made(tmp_path / str(step)))
        killed = FakePort(hospitals, die_at=step)
        with pytest.raises(Killed):
            run(killed, total=2)
        state = read_state(killed.saved[-1]) if killed.saved else State(model=MODEL)
        found = run(FakePort(hospitals), state, total=2).model if state.round < 2 else state.model
        assert np.abs(found["w"] - expected["w"]).max() < 2 * NEAR


def test_updates_that_are_handed_back_after_a_kill_give_the_same_bits(guarded):
    kept = {}

    def remember(ask, name):
        return kept.setdefault((ask.task_id, name), guarded(ask, name))

    killed = FakePort(remember, die_at=4)  # hello, share, take, train; then the disk
    with pytest.raises(Killed):
        run(killed, total=1, workflow=SEALED)
    one = run(FakePort(remember), total=1, workflow=SEALED).model
    other = run(FakePort(remember), total=1, workflow=SEALED).model
    assert one["ciphertexts"].tobytes() == other["ciphertexts"].tobytes()


def made(folder):
    folder.mkdir()
    return folder


# ---- who has the key --------------------------------------------------------------------------------


def test_the_key_is_shared_once_and_then_only_asked_about(hospitals):
    port = FakePort(hospitals)
    run(port, total=2)
    names = [ask.name.removeprefix("flprov.he.") for ask in port.asks]
    assert names == ["hello", "share", "take", "train", "hello", "train", "open"]


def test_a_site_that_comes_later_is_given_the_key(guarded):
    hospitals = guarded
    hospitals.away[("c", "flprov.he.hello")] = "not connected"
    state = run(FakePort(hospitals), total=1, workflow=SEALED)
    hospitals.away.clear()
    port = FakePort(hospitals)
    run(port, state, total=2)
    assert [ask.to for ask in port.asks if ask.name == "train"] == [NAMES]


def test_a_site_without_the_key_is_not_asked_to_train(hospitals):
    hospitals.away[("b", "flprov.he.take")] = "its disk is full"
    port = FakePort(hospitals)
    found = run(port, total=1)
    assert [ask.to for ask in port.asks if ask.name == "train"] == [("a", "c")]
    assert found.model["w"] == pytest.approx(in_clear(total=1, names=("a", "c"))["w"], abs=10 * NEAR)


def test_when_one_cannot_seal_the_next_does(hospitals):
    hospitals.away[("a", "flprov.he.share")] = "gone"
    port = FakePort(hospitals)
    run(port, total=1)
    assert [ask.to for ask in port.asks if ask.name == "flprov.he.share"] == [("a",), ("b",)]
    assert [ask.to for ask in port.asks if ask.name == "train"] == [NAMES]


def test_when_the_one_with_a_key_cannot_seal_it_before_anything_is_encrypted_another_makes_one(hospitals):
    SiteKeys(hospitals.site("a")).make()  # in a round that was killed
    hospitals.away[("a", "flprov.he.share")] = "gone"
    port = FakePort(hospitals)
    found = run(port, total=1)
    assert [ask.to for ask in port.asks if ask.name == "flprov.he.share"] == [("a",), ("b",)]
    assert [ask.to for ask in port.asks if ask.name == "train"] == [("b", "c")]
    assert found.model["w"] == pytest.approx(in_clear(total=1, names=("b", "c"))["w"], abs=10 * NEAR)


@pytest.mark.parametrize(
    ("task", "lacks"), [("hello", "public"), ("hello", "key"), ("share", "from"), ("share", "for/b")]
)
def test_a_site_that_spoils_the_exchange_of_keys_is_refused_and_it_goes_on(hospitals, task, lacks):
    def spoil(ask, site):
        update = hospitals(ask, site)
        if (site, ask.name) != ("a", f"flprov.he.{task}"):
            return update
        return dataclasses.replace(update, params={k: v for k, v in update.params.items() if k != lacks})

    port = FakePort(spoil)
    run(port, total=1)
    assert {(site, reason) for _, site, reason in port.refused} == {
        ("a", f"a sent no bytes as {lacks!r}, which the exchange of keys takes")
    }
    assert [ask.to for ask in port.asks if ask.name == "train"] == [NAMES if task == "share" else ("b", "c")]


def test_when_one_cannot_open_the_result_the_next_does(hospitals):
    hospitals.away[("a", "flprov.he.open")] = "gone"
    run(FakePort(hospitals), total=1)
    assert hospitals.opened == ["b"]


def test_a_key_that_nobody_has_any_more_ends_the_job_and_says_why(guarded, tmp_path):
    state = run(FakePort(guarded), total=1, workflow=SEALED)
    with pytest.raises(JobFailed, match="no site has the secret key"):
        run(FakePort(Hospitals(made(tmp_path / "anew"))), state, total=2)


def test_a_released_model_can_be_gone_on_from_under_a_new_key(hospitals, tmp_path):
    state = run(FakePort(hospitals), total=1)
    found = run(FakePort(Hospitals(made(tmp_path / "anew"))), state, total=3)
    assert found.model["w"] == pytest.approx(in_clear()["w"], abs=2 * NEAR)


def test_keys_are_private_files_and_a_task_that_is_done_again_finds_them(hospitals):
    keys = SiteKeys(hospitals.site("a"))
    assert (keys.public, keys.make()) == (keys.public, keys.make())
    for path in (hospitals.folder / "a").rglob("*.key"):
        assert path.stat().st_mode & 0o077 == 0
    assert keys.make().secret.hex() not in repr(keys.make())


def test_what_was_sealed_for_one_site_does_not_open_at_another(hospitals):
    one, other, eve = (SiteKeys(hospitals.site(name)) for name in NAMES)
    one.make()
    sealed = one.seal_for("b", other.public)
    for thief, sender in [(eve, one.public), (other, eve.public)]:
        with pytest.raises(IdentityRefused):
            thief.take(sealed, sender)
    assert other.take(sealed, one.public).id == one.require().id


def test_a_server_that_swaps_public_keys_gets_the_key_only_where_the_sites_have_no_secret(hospitals):
    eve, one = SiteKeys(hospitals.site("c")), SiteKeys(hospitals.site("a"))
    one.make()
    assert eve.take(one.seal_for("c", eve.public), one.public)  # what an attacker is, as far as keys can tell
    hospitals.secrets["a"] = derive_secret(SECRET, b"he j")
    sealed = SiteKeys(hospitals.site("a")).seal_for("c", eve.public)
    with pytest.raises(IdentityRefused, match="do not share the same secret"):
        eve.take(sealed, one.public)


def test_a_site_with_another_secret_is_left_out_and_says_why(guarded):
    guarded.secrets["b"] = derive_secret(b"a slip of the pen", b"he j")
    port = FakePort(guarded)
    run(port, total=1)
    assert [ask.to for ask in port.asks if ask.name == "train"] == [("a", "c")]


@pytest.mark.parametrize("secret", ["", SECRET])
def test_the_log_says_whether_a_lying_server_is_kept_out(hospitals, guarded, secret, capsys):
    if not secret:
        guarded.secrets.clear()
    run(FakePort(guarded), total=1)
    said = capsys.readouterr().out
    assert ("cannot open it" in said) is bool(secret)
    assert ("he_secret in site.yml" in said) is (not secret)
    assert "homomorphic encryption: 4,096 numbers" in said


# ---- a server that lies ----------------------------------------------------------------------------


def lone_ciphertext(hospitals, number=0):
    """What site a sent in round `number`, and the task by which it would be opened."""
    site = hospitals.site("a")
    SiteKeys(site).make()
    scalars = {"he.unit": 128.0, "he.limit": 100.0, "he.terms": 0}
    task = Task(name="train", params=MODEL, round=number, rounds=3, job_id="j", scalars=scalars)
    update = hospitals.answer(task, site)
    return dataclasses.replace(task, name="flprov.he.open", params=update.params)


@pytest.mark.parametrize(
    ("name", "workflow", "options", "said"),
    [
        ("flprov.he.open", "fedavg_he", {"release": False}, "no model of this job is opened"),
        ("flprov.he.share", "fedavg", {}, "is for jobs of fedavg_he"),
        ("flprov.he.hello", None, {}, "is for jobs of fedavg_he"),
    ],
)
def test_a_site_does_only_what_the_job_that_was_signed_wants(name, workflow, options, said):
    verify_agreed("flprov.he.open", "fedavg_he", {"release": True})
    with pytest.raises(PermissionRefused, match=said):
        verify_agreed(name, workflow, options)


def test_after_a_model_was_opened_a_site_encrypts_for_no_later_round(hospitals):
    hospitals.answer(lone_ciphertext(hospitals), hospitals.site("a"))
    lone_ciphertext(hospitals, 0)  # a round that was killed is done again
    with pytest.raises(JobFailed, match="opened a model of this job in round 0, which ends it here"):
        lone_ciphertext(hospitals, 1)


def test_a_site_opens_the_models_of_one_round_and_few_of_them(hospitals):
    site, again = hospitals.site("a"), lone_ciphertext(hospitals)
    for task in (again, *(lone_ciphertext(hospitals) for _ in range(3)), again):
        hospitals.answer(task, site)
    with pytest.raises(JobFailed, match="opened 4 models"):
        hospitals.answer(lone_ciphertext(hospitals), site)
    with pytest.raises(JobFailed, match="a job is opened once"):
        hospitals.answer(dataclasses.replace(again, round=1), site)


def test_what_is_opened_is_blurred_whatever_the_server_says_of_it(hospitals):
    task = lone_ciphertext(hospitals)  # he.terms is 0
    found = hospitals.answer(task, hospitals.site("a")).params["w"]
    exact = Cipher(SiteKeys(hospitals.site("a")).require().secret)
    assert not np.array_equal(found, decrypt_tensors(read_ciphertexts(task.params), exact)["w"])


def test_the_mean_of_one_site_is_not_released(hospitals):
    hospitals.away = {("b", "train"): "away", ("c", "train"): "away"}
    with pytest.raises(JobFailed, match="a alone sent weights in this round"):
        run(FakePort(hospitals))


# ---- updates that are refused ---------------------------------------------------------------------------


def twice(update):
    params = {**update.params, "clear/n": update.params["clear/n"].repeat(2)}
    return dataclasses.replace(update, params=params)


def noise(update):
    broken = update.params["ciphertexts"].copy()
    broken[2000:2100] = 255
    return dataclasses.replace(update, params={**update.params, "ciphertexts": broken})


def heavy(update):
    return dataclasses.replace(update, samples=update.samples * 100)


def clear(update):
    return dataclasses.replace(update, params=MODEL)


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (twice, r"tensor 'n' is I64\[2\], the model's is I64\[1\]"),
        (noise, "tensor 'w': ciphertext 0 is no ciphertext of this job's parameters"),
        (heavy, "its weight is 30000, but 300 was encrypted"),
        (clear, "'ciphertexts' is missing"),
    ],
)
def test_a_bad_update_is_refused_and_the_round_goes_on(hospitals, lie, message):
    hospitals.lies["b"] = lie
    port = FakePort(hospitals)
    found = run(port, total=1)
    ((_, site, reason),) = port.refused
    assert site == "b"
    assert __import__("re").search(message, reason)
    assert found.model["w"] == pytest.approx(in_clear(total=1, names=("a", "c"))["w"], abs=10 * NEAR)


def test_without_a_model_the_weights_of_most_sites_start_the_run(tmp_path):
    def odd(task, site):
        given = train(task, site)
        return dataclasses.replace(given, params={"w": np.ones(3)}) if site.name == "a" else given

    port = FakePort(Hospitals(tmp_path, odd))
    found = run(port, State(), total=1)
    assert [site for _, site, _ in port.refused] == ["a"]
    assert found.model["w"] == pytest.approx(in_clear(total=1, model={}, names=("b", "c"))["w"], abs=1e-4)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (np.array([np.nan, 0], np.float32), "tensor 'w' holds NaN"),
        (np.array([np.inf, 0], np.float32), "tensor 'w' holds NaN or infinity"),
        (np.array([1e7, 0], np.float32), "tensor 'w' holds a number beyond the"),
        (np.zeros(3, np.float32), r"tensor 'w' is F32\[3\]"),
        (np.ones(2, np.int64), "none of the model's . tensors has floating-point numbers"),
    ],
)
def test_what_must_not_be_added_is_refused_at_the_site(tmp_path, weights, reason):
    def broken(task, site):
        update = train(task, site)
        return (
            update
            if site.name != "c"
            else dataclasses.replace(update, params={**update.params, "w": weights})
        )

    answers = []

    class Noted(Hospitals):
        def __call__(self, ask, name):
            answers.append((ask.name, name, super().__call__(ask, name)))
            return answers[-1][2]

    run(FakePort(Noted(tmp_path, broken)), total=1)
    (said,) = [given for task, name, given in answers if (task, name) == ("train", "c")]
    assert __import__("re").search(reason, said)


def test_nothing_to_average_is_said_so(tmp_path):
    hospitals = Hospitals(tmp_path, lambda task, site: dataclasses.replace(train(task, site), samples=0))
    with pytest.raises(JobFailed, match="total weight of 0"):
        run(FakePort(hospitals))


def test_when_all_updates_are_refused_the_job_fails(hospitals):
    hospitals.lies = dict.fromkeys(NAMES, noise)
    with pytest.raises(JobFailed, match="no site sent an update that can be added"):
        run(FakePort(hospitals))


def test_a_site_that_opens_another_model_than_it_was_given_is_noticed(hospitals):
    answer = hospitals.answer

    def wrong(task, site):
        update = answer(task, site)
        if task.name == "flprov.he.open":
            return dataclasses.replace(
                update, params={**update.params, "w": np.array([np.nan, 1], np.float32)}
            )
        return update

    hospitals.answer = wrong
    with pytest.raises(JobFailed, match="a opened another model than it was given: tensor 'w' holds NaN"):
        run(FakePort(hospitals), total=1)
