"""Limits of a process and of zip directories: what exceeds them fails, and what comes after is as before."""

import io
import resource
import subprocess
import sys
import zipfile

import pytest

from zoo import limited
from zoo.limited import BoundedZipFile, cpu_seconds, data_bytes, memory_limit


def test_memory_is_limited_and_given_back():
    before = resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CPU)
    with pytest.raises(MemoryError), limited.limited(2**24, 60):
        bytearray(2**28)
    assert (resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CPU)) == before
    bytearray(2**28)


@pytest.mark.parametrize(
    ("code", "message"),
    [("bytearray(2**28)", "MemoryError"), ("resource.setrlimit(resource.RLIMIT_DATA, (2**40, 2**40))", "ValueError")],
)
def test_limits_of_a_process_are_for_good(code, message):
    program = f"import resource\nfrom zoo.limited import limit_process\nlimit_process(2**24, 5)\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert message in done.stderr


def test_cpu_time_ends_a_process():
    program = "from zoo.limited import limit_process\nlimit_process(2**24, 0)\nwhile True: pass"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode < 0


def test_limits_grow_with_the_file():
    assert memory_limit(0, 2**30) == limited.MIN_MEMORY
    assert memory_limit(10**8, 2**30) == 3 * 10**8
    assert memory_limit(10**12, 2**30) == 2**30
    assert cpu_seconds(0) == limited.CPU_SECONDS
    assert cpu_seconds(5 * 10**6) == limited.CPU_SECONDS + 5
    assert data_bytes() > 2**20


def test_directory_of_a_zip_is_bounded(monkeypatch):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in range(50):
            archive.writestr(f"{number}.png", b"")

    assert len(zipfile.ZipFile(BoundedZipFile(io.BytesIO(content.getvalue()))).namelist()) == 50
    monkeypatch.setattr(limited, "MAX_ZIP_DIRECTORY_BYTES", 1000)
    with pytest.raises(zipfile.BadZipFile, match=r"directory has [0-9,]+ bytes, more than the limit of 1,000"):
        zipfile.ZipFile(BoundedZipFile(io.BytesIO(content.getvalue())))
