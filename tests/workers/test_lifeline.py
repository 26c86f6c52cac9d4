# SPDX-License-Identifier: Apache-2.0
"""A worker without its parent: it goes on, keeps what it has answered, and says it to the next one."""

import socket
import threading
import time

import numpy as np
import pytest
from parents import job

from flprov._base import canonical_json
from flprov.errors import Unavailable
from flprov.messages import Update
from flprov.wire import HEADER_SIZE, encode_tensors, frame_length, pack_frame, parse_frame, pb
from flprov.workers import LaunchOrder, ProcessLauncher, WorkerChannel, open_session, read_exit_record

TRAIN = """
import pathlib
import time
import numpy as np
from flprov.messages import Update

def train(task, site):
    if task.round == 1:
        (site.folder / "begun").write_text("x")
        while not (site.folder.parent / "out" / "go").exists():
            time.sleep(0.01)
    generator = np.random.default_rng(task.round)
    return Update(params={"w": task.params["w"] + generator.random(50_000)}, samples=task.round + 1)
"""


class Line:
    """The far ends of a worker's channel and lifeline."""

    def __init__(self, *, resumes=True):
        self.parent, theirs = socket.socketpair()
        self.shim, lifeline = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = WorkerChannel(theirs, lifeline)
        self.greeting = []
        if resumes:
            self.channel.outlive(lambda: self.greeting)
        self.parent.settimeout(20)

    def lose(self):
        self.parent.close()

    def come(self):
        """Another parent."""
        self.parent, theirs = socket.socketpair()
        self.parent.settimeout(20)
        socket.send_fds(self.shim, [b"channel"], [theirs.fileno()])
        theirs.close()

    def hear(self):
        header = self.parent.recv(HEADER_SIZE, socket.MSG_WAITALL)
        return parse_frame(pb.FromWorker, self.parent.recv(frame_length(header), socket.MSG_WAITALL))

    def say(self, **body):
        self.parent.sendall(pack_frame(pb.ToWorker(**body)))


@pytest.fixture
def line():
    made = Line()
    yield made
    for sock in (made.parent, made.shim, made.channel._sock, made.channel._lifeline):
        sock.close()


def progress(step):
    return pb.FromWorker(progress=pb.Progress(step=step))


def quit_for(reason):
    return pb.ToWorker(quit=pb.Quit(reason=reason))


def test_what_is_said_to_nobody_is_dropped_and_the_greeting_comes_first(line):
    line.greeting = [pb.FromWorker(resumed=pb.Resumed(task_id="t"))]
    line.channel.send(progress(1))
    assert line.hear().progress.step == 1
    line.lose()
    line.channel.send(progress(2))
    line.come()
    line.channel.send(progress(3))
    assert line.hear().resumed.task_id == "t"
    assert line.hear().progress.step == 3


def test_a_reader_waits_for_the_next_parent(line):
    heard = []
    reader = threading.Thread(target=lambda: heard.append(line.channel.receive()))
    reader.start()
    line.parent.sendall(pack_frame(quit_for("half of it"))[:6])
    line.lose()
    line.come()
    line.say(quit=pb.Quit(reason="whole"))
    reader.join(20)
    assert [message.quit.reason for message in heard] == ["whole"]


def test_of_several_parents_that_came_and_went_the_last_one_counts(line):
    line.lose()
    for _ in range(20):
        line.come()
        line.lose()
    line.come()
    line.channel.send(progress(1))
    assert line.hear().progress.step == 1


def test_words_that_the_last_parent_had_finished_are_still_read(line):
    line.say(quit=pb.Quit(reason="before"))
    line.lose()
    assert line.channel.receive().quit.reason == "before"


def test_without_its_shim_there_is_no_next_parent(line):
    line.lose()
    line.shim.close()
    assert line.channel.receive() is None
    with pytest.raises(Unavailable):
        line.channel.send(progress(1))


def test_before_it_outlives_a_parent_the_end_is_the_end():
    line = Line(resumes=False)
    line.lose()
    assert line.channel.receive() is None
    with pytest.raises(Unavailable):
        line.channel.send(progress(1))
    for sock in (line.shim, line.channel._sock, line.channel._lifeline):
        sock.close()


def test_settling_waits_until_a_parent_has_the_last_word(line):
    said = pb.FromWorker(failure=pb.Failure(message="the cause"))
    line.greeting = [said]
    line.lose()
    line.channel.send(said)
    threading.Timer(0.2, line.come).start()
    begun = time.monotonic()
    line.channel.settle()
    assert time.monotonic() - begun > 0.1
    assert line.hear().failure.message == "the cause"
    line.channel.settle()  # nothing more to wait for


def test_threads_that_report_while_parents_change_speak_in_whole_frames(line):
    stop = threading.Event()

    def report():
        while not stop.is_set():
            line.channel.send(progress(7))

    threads = [threading.Thread(target=report) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            assert all(line.hear().progress.step == 7 for _ in range(20))
            line.lose()
            line.come()
    finally:
        stop.set()
        line.parent.settimeout(None)
        threading.Thread(target=drain, args=(line.parent,), daemon=True).start()
        for thread in threads:
            thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def drain(sock):
    try:
        while sock.recv(1 << 16):
            pass
    except OSError:
        return


# ---- the session ---------------------------------------------------------------------------


def task(number):
    model = pb.Payload(inline=encode_tensors({"w": np.zeros(2)}))
    return pb.TaskOrder(job_id="j", task_id=str(number), name="train", expects="full", model=model)


def open_on(line, tmp_path):
    spec = canonical_json(job("train.py"))
    line.say(start_site=pb.StartSite(job_id="j", site="a", spec=spec))
    session = open_session(line.channel, tmp_path)
    line.channel.outlive(session.greeting)
    return session


def update():
    return Update(params={"w": np.ones(2)}, samples=3)


def test_an_answer_is_said_again_until_the_parent_says_the_next_thing(line, tmp_path):
    session = open_on(line, tmp_path)
    line.say(task=task(1))
    session.wait_task().taken = True
    session.answer(update())
    first = line.hear()
    for _ in range(2):  # parents who do not live long enough to say anything
        line.lose()
        line.come()
        session.report({"loss": 1.0}, 1)
        assert line.hear().resumed.task_id == "1"
        assert line.hear() == first
        assert line.hear().HasField("progress")
    line.say(task=task(2))
    session.wait_task()
    line.lose()
    line.come()
    session.report({"loss": 1.0}, 1)
    assert line.hear().resumed.task_id == "2"
    assert line.hear().progress.task_id == "2"


def test_what_is_answered_to_nobody_is_said_to_the_next_parent(line, tmp_path):
    session = open_on(line, tmp_path)
    line.say(task=task(1))
    session.wait_task().taken = True
    line.lose()
    session.report({"loss": 1.0}, 1)
    session.answer(update())
    line.come()
    line.say(quit=pb.Quit())
    assert session.wait_task() is None
    assert line.hear().resumed.task_id == "1"
    assert line.hear().answer.update.samples == 3


# ---- real processes ------------------------------------------------------------------------


async def drive(folder, *, interrupted):
    """Three rounds of a real worker; with its parent away in the middle of the second one."""
    (folder / "app").mkdir(parents=True)
    (folder / "app" / "train.py").write_text(TRAIN)
    launcher = ProcessLauncher()
    process = await launcher.launch(LaunchOrder(job_id=folder.name, folder=folder, orphan_seconds=60))
    spec = canonical_json(job("train:train"))
    await process.channel.send(pb.ToWorker(start_site=pb.StartSite(job_id="j", site="a", spec=spec)))
    model, answers = encode_tensors({"w": np.zeros(50_000)}), []
    for number in range(3):
        (folder / "in" / str(number)).write_bytes(model)
        order = pb.TaskOrder(
            job_id="j",
            task_id=str(number),
            name="train",
            round=number,
            expects="full",
            model=pb.Payload(file=str(number), size=len(model)),
        )
        await process.channel.send(pb.ToWorker(task=order))
        if number == 1:
            while not (folder / "work" / "begun").exists():
                time.sleep(0.01)
            if interrupted:
                await process.leave()
            (folder / "out" / "go").touch()
            if interrupted:
                while len(list((folder / "out").iterdir())) < 2:
                    time.sleep(0.01)
                process = await launcher.adopt(folder)
        while (message := await process.channel.receive()).WhichOneof("body") != "answer":
            pass
        assert message.answer.task_id == str(number)
        path = folder / "out" / message.answer.update.tensors.file
        model = path.read_bytes()
        path.unlink()
        answers.append(model)
    assert await process.stop(2) == ()
    return answers


async def test_training_goes_on_without_a_parent_to_the_same_bits(tmp_path):
    assert await drive(tmp_path / "one", interrupted=True) == await drive(tmp_path / "two", interrupted=False)


async def test_a_worker_that_waits_for_a_parent_can_be_asked_to_end(tmp_path):
    folder = tmp_path / "job"
    (folder / "app").mkdir(parents=True)
    (folder / "app" / "train.py").write_text("def train(task, site): ...\n")
    order = LaunchOrder(job_id="job", folder=folder, orphan_seconds=0.5, grace=20)
    process = await ProcessLauncher().launch(order)
    spec = canonical_json(job("train:train"))
    await process.channel.send(pb.ToWorker(start_site=pb.StartSite(job_id="j", site="a", spec=spec)))
    assert (await process.channel.receive()).HasField("ready")
    await process.leave()
    begun = time.monotonic()
    while (record := read_exit_record(folder)) is None:
        time.sleep(0.02)
    assert time.monotonic() - begun < 10
    assert (record.signal, record.code) == (None, 0)
    assert "did not come back within 0.5 s" in record.reason
