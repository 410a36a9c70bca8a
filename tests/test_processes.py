"""Threads, forks and signals: nothing crashes, hangs or gets another caller's numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from shapes import make_case

import fastrnn


@pytest.fixture(autouse=True)
def two_threads():
    before = fastrnn.get_num_threads()
    fastrnn.set_num_threads(2)
    yield
    fastrnn.set_num_threads(before)


def run(seed):
    case = make_case("lstm", 20, 16, 12, 40, np.float32, seed=seed)
    y, _, saved = fastrnn.lstm_forward(**case.inputs)
    return y, fastrnn.lstm_backward(saved, **case.cotangents).dw_hh


def test_four_python_threads_at_once_get_their_own_results():
    expected = [run(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for got, want in zip(pool.map(run, range(8)), expected, strict=True):
                assert np.array_equal(got[0], want[0])
                assert np.array_equal(got[1], want[1])


def run_few_rows(seed):
    case = make_case("gru_reset_before", 12, 2, 12, 400, np.float32, seed=seed)
    y, _, saved = fastrnn.gru_forward(**case.inputs, reset_after=False)
    return y, fastrnn.gru_backward(saved, **case.cotangents).dw_hh


def test_callers_whose_units_are_split_among_threads_get_their_own_results():
    expected = [run_few_rows(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for got, want in zip(pool.map(run_few_rows, range(4)), expected, strict=True):
                assert np.array_equal(got[0], want[0])
                assert np.array_equal(got[1], want[1])


def test_the_gil_is_released():
    case = make_case("lstm", 400, 64, 64, 128, np.float32)
    turns = 0
    done = threading.Event()

    def count():
        nonlocal turns
        while not done.is_set():
            turns += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    before = turns
    fastrnn.lstm_forward(**case.inputs)
    during = turns - before
    done.set()
    thread.join()
    assert during > 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning")
def test_a_forked_child_computes_with_threads_of_its_own():
    expected = run(0)[1]  # the parent's pool exists by now
    for _ in range(10):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if np.array_equal(run(0)[1], expected) else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(run(0)[1], expected)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning")
def test_a_fork_amid_other_threads_work_does_not_hang():
    stop = threading.Event()

    def work():
        while not stop.is_set():
            run(1)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                run(0)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_control_c_during_a_long_call_raises_keyboard_interrupt_afterwards():
    code = (
        "import os, signal, threading, numpy as np, fastrnn\n"
        "x = np.zeros((3000, 8, 64), np.float32)\n"
        "w, u = np.zeros((512, 64), np.float32), np.zeros((512, 128), np.float32)\n"
        "threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "try:\n"
        "    while True:\n"
        "        fastrnn.lstm_forward(x, w, u)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', fastrnn.lstm_forward(x[:3], w, u)[0].shape)\n"
    )
    result = python(code)
    assert result.stdout.strip() == "interrupted (3, 8, 128)", result.stderr


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"FASTRNN_NUM_THREADS": "3"}, "3"),
        ({"OMP_NUM_THREADS": "4"}, "4"),
        ({"FASTRNN_NUM_THREADS": "2", "OMP_NUM_THREADS": "4"}, "2"),
    ],
    ids=str,
)
def test_the_environment_sets_the_number_of_threads(environment, expected):
    clean = {"FASTRNN_NUM_THREADS": "", "OMP_NUM_THREADS": "", **environment}
    assert (
        python("import fastrnn; print(fastrnn.get_num_threads())", **clean).stdout.strip()
        == expected
    )


def test_without_settings_the_threads_are_the_cpus_of_the_process():
    code = (
        "import os, fastrnn; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "print(fastrnn.get_num_threads())"
    )
    assert python(code, FASTRNN_NUM_THREADS="", OMP_NUM_THREADS="").stdout.strip() == "1"


def test_small_calls_wake_no_thread_and_large_ones_do():
    program = """if True:
        import os, numpy, fastrnn
        fastrnn.set_num_threads(2)
        before = len(os.listdir("/proc/self/task"))
        for batch, woken in (4, 0), (256, 1):
            x = numpy.zeros((20, batch, 64), numpy.float32)
            layer = fastrnn.LSTM(64, 64, seed=0)
            y, _ = layer.forward(x, training=True)
            layer.backward(y)
            assert len(os.listdir("/proc/self/task")) == before + woken, batch
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_process_ends_promptly_while_the_pool_sleeps():
    code = (
        "import numpy as np, fastrnn\n"
        "fastrnn.set_num_threads(4)\n"
        "shapes = (9, 64, 8), (64, 8), (64, 16)\n"
        "fastrnn.lstm_forward(*(np.zeros(shape, np.float32) for shape in shapes))\n"
    )
    begin = time.monotonic()
    assert python(code).returncode == 0
    assert time.monotonic() - begin < 30


def test_float_control_word_is_left_alone():
    before = np.float32(1e-40) * np.float32(1)
    run(0)
    assert np.float32(1e-40) * np.float32(1) == before != 0
