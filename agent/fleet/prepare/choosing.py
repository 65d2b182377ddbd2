"""Which ranges, and which layers in float: tried on the calibration data, the best is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.errors import DatasetError
from agent.fleet.prepare.calibrating import METHODS, Ranges, calibrate
from agent.fleet.prepare.executing import exact_answers
from agent.fleet.prepare.quality import error, good_enough, judge, rank
from agent.fleet.prepare.quantising import Layer, layers_of, quantise, quantise_alone
from agent.fleet.prepare.values import Arrays, Dataset, Progress, Recipe, Rules, Sensitivity, Source, Trial

CALIBRATION_SAMPLES = 256  # more change the ranges little
SENSITIVITY_SAMPLES = 64
MOST_IN_FLOAT = 4  # attempts, with 1, 2, 4 and 8 layers in float


class Chooser:
    """Finds recipes for one float model; ranges are found once for all rules."""

    def __init__(self, source: Source, data: Dataset, progress: Progress) -> None:
        self._source, self._progress = source, progress
        self._data = data.head(CALIBRATION_SAMPLES)
        self._ranges: dict[str, Ranges] = {}
        self._float: Arrays = exact_answers(source.model, source.inputs, source.outputs, self._data)
        self._baseline = judge(self._float, self._float, self._data.labels, source)

    def ranges(self, method: str) -> Ranges:
        if method not in self._ranges:
            self._ranges[method] = calibrate(
                self._source.model, self._source.inputs, self._data, method, self._progress
            )
        return self._ranges[method]

    def recipe(self, rules: Rules) -> Recipe:
        """Raises ModelLoadError and DatasetError."""
        trials = list(self._methods(rules))
        best = min(trials, key=lambda trial: rank(trial.quality))
        sensitivity = self._sensitivity(rules, best.method)
        if not good_enough(best.quality, self._baseline):
            trials += self._with_float(rules, best.method, sensitivity)
            best = min(
                trials,
                key=lambda trial: (not good_enough(trial.quality, self._baseline), rank(trial.quality)),
            )
        return Recipe(rules, best.method, best.float_layers, tuple(trials), tuple(sensitivity))

    def _methods(self, rules: Rules) -> Iterator[Trial]:
        """A trial of each that works: histograms cannot be made of every tensor (constants, FP16)."""
        refused = None
        for method in METHODS:
            try:
                yield self._trial(rules, method, ())
            except DatasetError as error:
                refused = refused or error
                if method == METHODS[-1] and not self._ranges:
                    raise refused from None

    def _with_float(self, rules: Rules, method: str, sensitivity: Sequence[Sensitivity]) -> list[Trial]:
        """More and more of the worst layers in float, until that is good enough."""
        trials: list[Trial] = []
        for power in range(MOST_IN_FLOAT):
            worst = tuple(each.layer for each in sensitivity[: 1 << power])
            trials.append(self._trial(rules, method, worst))
            if good_enough(trials[-1].quality, self._baseline) or 1 << power >= len(sensitivity):
                break
        return trials

    def _trial(self, rules: Rules, method: str, float_layers: tuple[str, ...]) -> Trial:
        model = quantise(self._source.model, self.ranges(method), rules, float_layers)
        text = f"trying {method}" + (f" with {len(float_layers)} layers in float" if float_layers else "")
        self._progress(f"{text} for {rules}", 0.0)
        source = self._source
        got = exact_answers(model, source.inputs, source.outputs, self._data, exact=rules == "npu")
        return Trial(method, float_layers, judge(got, self._float, self._data.labels, source))

    def _sensitivity(self, rules: Rules, method: str) -> list[Sensitivity]:
        """The layers, worst first."""
        few = self._data.head(SENSITIVITY_SAMPLES)
        baseline = {name: array[: few.count] for name, array in self._float.items()}
        layers = layers_of(self._source.model, rules)
        found = []
        for done, layer in enumerate(layers):
            found.append(self._alone(rules, method, layer, few, baseline))
            self._progress(f"sensitivity of {len(layers)} layers for {rules}", (done + 1) / len(layers))
        return sorted(found, key=lambda each: each.error, reverse=True)

    def _alone(self, rules: Rules, method: str, layer: Layer, few: Dataset, baseline: Arrays) -> Sensitivity:
        model = quantise_alone(self._source.model, self.ranges(method), rules, layer.name)
        got = exact_answers(model, self._source.inputs, self._source.outputs, few)
        return Sensitivity(layer.name, layer.operator, error(got, baseline), layer.parameters)
