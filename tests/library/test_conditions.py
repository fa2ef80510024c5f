"""What equal numbers need, recorded beside results and said in words."""

import platform
import resource
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from rkd_pipeline import device
from rkd_pipeline.device import (
    CUDNN_BENCHMARK,
    CUDNN_DETERMINISTIC,
    Compute,
    Precision,
    cpu_instructions,
    keep_freed_memory,
)
from rkd_pipeline.errors import RkdError
from rkd_pipeline.results.tables.table_3 import table_3, table_3_sheet
from rkd_pipeline.stages.benchmark import with_conditions
from rkd_pipeline.training.conditions import computed_on, in_words, remark
from tests.library.rows import benchmark, measured


def test_the_facts_say_device_precision_threads_and_instructions(cpu: Compute) -> None:
    facts = replace(cpu, precision="bf16").conditions(training=True)
    assert facts == {"device": "cpu, bf16", "threads": torch.get_num_threads(), "cpu": cpu_instructions()}
    assert replace(cpu, precision="bf16").conditions(training=False)["device"] == "cpu, fp32"


def test_precision_is_the_hardware_s_own_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for capabilities, chosen in (({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert Compute.choose("cpu", "auto").precision == chosen
        assert Compute.choose("cpu", "fp32").precision == "fp32"
    with pytest.raises(RkdError, match="only a CUDA device computes in it; use fp32 or auto"):
        Compute.choose("cpu", "tf32")


@pytest.mark.parametrize(("precision", "inside"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "tf32")])
def test_float32_on_a_gpu_is_float32_unless_a_training_may_be_less_exact(
    cpu: Compute, precision: Precision, inside: str
) -> None:
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [s.fp32_precision for s in switches]
    with replace(cpu, precision=precision).products():
        assert [s.fp32_precision for s in switches] == [inside] * 2
        assert torch.backends.mkldnn.conv.fp32_precision == "ieee"
    assert [s.fp32_precision for s in switches] == before


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_cudnn_chooses_its_algorithms_as_documented_where_a_training_runs(cpu: Compute, precision: Precision) -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark = cudnn.deterministic = True  # as a program around may have it
    try:
        with replace(cpu, precision=precision).products():
            assert (cudnn.benchmark, cudnn.deterministic) == (False, False) == (CUDNN_BENCHMARK, CUDNN_DETERMINISTIC)
        assert (cudnn.benchmark, cudnn.deterministic) == (True, True)
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def test_the_instructions_are_those_that_torch_computes_with() -> None:
    """ATEN_CPU_CAPABILITY is torch's own switch: what it leaves unused does not count."""
    program = "from rkd_pipeline.device import cpu_instructions; print(cpu_instructions())"
    environment = {"ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": ":".join(sys.path)}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split(",")[0].strip() == "DEFAULT"


def test_bfloat16_and_amx_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": False})
    assert cpu_instructions() == "AVX-512, bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": True})
    assert cpu_instructions() == "AVX-512, bf16, AMX"


def test_results_of_before_say_what_they_lack() -> None:
    now = {"device": "cpu, fp32", "threads": 1, "cpu": "AVX2"}
    assert in_words(now) == "cpu, fp32, 1 thread, AVX2"
    before = {"device": "cpu, bf16", "threads": 2}
    assert in_words(before) == "cpu, bf16, 2 threads, CPU instructions not recorded"
    assert in_words({}) == "device not recorded, threads not recorded, CPU instructions not recorded"
    assert computed_on(now, now) == in_words(now)
    assert computed_on(before, now) == f"trained: {in_words(before)}; scored: {in_words(now)}"
    assert remark([]) == ""
    assert remark([None, "a", "a"]).startswith("Computed on: a | not recorded. ")


def test_a_table_says_on_what_its_own_numbers_were_computed() -> None:
    here, elsewhere = "cpu, fp32, 1 thread, AVX2", "cpu, bf16, 2 threads, AVX-512, bf16"
    rows = benchmark(
        measured("brain_mri", "rkd", 0, 0.9, computed_on=here),
        measured("head_ct", "rkd", 0, 0.9),  # measured before conditions were on record
        measured("head_ct", "rkd-official", 0, 0.9, computed_on=elsewhere),  # has no place in Table 3
    )
    cells = table_3(rows, {})
    text = with_conditions(table_3_sheet(cells), cells, rows).markdown()
    assert f"Computed on: {here} | not recorded. " in text
    assert elsewhere not in text
    nothing = table_3(benchmark(), {})
    assert "Computed on" not in with_conditions(table_3_sheet(nothing), nothing, benchmark()).markdown()


def test_trainings_share_a_gpu_as_its_free_memory_and_the_cores_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 GiB each with the default budget of features, 2 cores each, 4 at most."""
    for free, cores, fit in ((79, 16, 4), (30, 16, 2), (30, 3, 1), (11, 16, 1), (139, 64, 4), (25, 64, 2)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free * 2**30, 2**40))
        monkeypatch.setattr(device, "cores", lambda cores=cores: cores)
        device.trainings_that_fit.cache_clear()
        assert device.trainings_that_fit(torch.device("cuda"), 4 * 2**30) == fit
    device.trainings_that_fit.cache_clear()


def test_a_cpu_is_shared_only_where_that_is_asked_for() -> None:
    assert Compute.choose("cpu", "fp32", 4.0, None).slots == Compute.choose("cpu", "fp32").slots == 1
    assert Compute.choose("cpu", "fp32", 4.0, 3).slots == 3


def test_what_runs_on_the_cpu_in_any_case_takes_no_place_of_a_gpu(cpu: Compute) -> None:
    on_gpu = replace(cpu, device=torch.device("cuda"), precision="tf32", slots=4)
    assert on_gpu.on_cpu() == cpu
    assert replace(cpu, slots=3).on_cpu().slots == 3


def test_who_shares_a_cpu_has_its_part_of_the_cores(cpu: Compute, monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(device, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for slots in (1, 2, 3, 16):
        replace(cpu, slots=slots).share_cores()
    replace(cpu, device=torch.device("cuda"), slots=4).share_cores()
    assert set_to == [4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    replace(cpu, slots=2).share_cores()
    assert set_to == [4, 2, 1]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_memory_that_a_step_frees_is_taken_again_without_the_kernel() -> None:
    def pages_cleared(steps: int) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(steps):
            taken = [torch.zeros(5 * 2**20) for _ in range(4)]  # 20 MiB each
            del taken
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    keep_freed_memory()
    pages_cleared(2)
    each = 4 * 20 * 2**20 // resource.getpagesize()
    assert pages_cleared(10) < each, "ten steps of this many pages"
