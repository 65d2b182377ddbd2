from __future__ import annotations

from dataclasses import replace

from agent.placement.profile import Profile
from agent.placement.profile.cache import Key
from agent.placement.profile.priors import Prior, likely_first, prior_of
from agent.types import Budget, Candidate, Measurement

KEY = Key("a" * 64, "int8", "onnxruntime", "cpu", "onnxruntime 1.20", "kv260: A53", "15W", 1)
BUDGET = Budget(10.0, 5.0)
KINDS = {"cpu": "cpu", "gpu0": "gpu", "npu": "fpga"}


def measured(candidate: Candidate, p99_ms: float, joules: float | None) -> Measurement:
    return Measurement(candidate, 500, 1.0, 1.0, p99_ms, 0.99, 0.1, 10.0, None, joules)


def profile(p99_ms: float = 2.0, joules: float | None = 0.01) -> Profile:
    return Profile(measured(KEY.candidate, p99_ms, joules))


def test_the_same_version_under_other_conditions_is_nearer_than_another_version() -> None:
    elsewhere = replace(KEY, board="zcu104: A53")
    other_version, other_mode = replace(KEY, digest="b" * 64), replace(KEY, power_mode="7W")
    assert prior_of(KEY, []) is None
    assert prior_of(KEY, [(KEY, profile()), (elsewhere, profile())]) is None
    found = prior_of(KEY, [(other_mode, profile(3.0)), (other_version, profile(9.0))])
    assert str(found) == "p99 3 ms, 0.01 J in power mode 7W"
    assert str(prior_of(KEY, [(other_version, profile(9.0, None))])) == "p99 9 ms of another version"
    assert str(prior_of(KEY, [(replace(KEY, runtime="onnxruntime 1.19"), profile())])).endswith(
        "with onnxruntime 1.19"
    )
    assert str(prior_of(KEY, [(replace(KEY, threads=4), profile())])).endswith("with 4 threads")


def test_the_newest_of_equals_counts() -> None:
    rows = [
        (replace(KEY, digest=digit * 64), profile(float(number))) for number, digit in enumerate("bcd", 1)
    ]
    found = prior_of(KEY, rows)
    assert found is not None and found.measurement.p99_ms == 3.0


def test_what_is_known_to_fit_comes_first_and_what_is_known_to_be_late_last() -> None:
    names = ["fp32", "int8"]
    candidates = [Candidate(name, "r", device) for name in names for device in KINDS]
    precisions = {"fp32": "fp32", "int8": "int8"}

    def order(priors: dict[Candidate, Prior]) -> list[tuple[str, str]]:
        found = likely_first(candidates[::-1], priors, KINDS, precisions, BUDGET)
        assert found == likely_first(candidates, priors, KINDS, precisions, BUDGET)
        assert sorted(map(str, found)) == sorted(map(str, candidates))
        return [(each.variant, each.device) for each in found]

    unknown = [
        ("int8", "npu"),
        ("fp32", "npu"),
        ("int8", "gpu0"),
        ("fp32", "gpu0"),
        ("int8", "cpu"),
        ("fp32", "cpu"),
    ]
    assert order({}) == unknown
    cheap, dear, late = (
        Candidate("fp32", "r", "cpu"),
        Candidate("int8", "r", "gpu0"),
        Candidate("int8", "r", "npu"),
    )
    got = order(
        {
            cheap: Prior(measured(cheap, 9.0, 0.01), "then"),
            dear: Prior(measured(dear, 2.0, 0.5), "then"),
            late: Prior(measured(late, 11.0, 0.001), "then"),
        }
    )
    assert got == [
        ("fp32", "cpu"), ("int8", "gpu0"), ("fp32", "npu"), ("fp32", "gpu0"), ("int8", "cpu"), ("int8", "npu"),
    ]  # fmt: skip
