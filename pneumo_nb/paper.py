"""What Hao et al. (2021), Int. J. Environ. Res. Public Health 18:9091, print: settings, and Tables 2-6 as counts.

The paper prints four rounded metrics a column. On a testing set of 28 positives and 112 negatives exactly one pair of
TP and FP gives each printed column (`counts_behind` finds it; the tests search all 29 x 113), so the counts stand here.
"""

from dataclasses import dataclass, field

IMAGES, POSITIVES = 706, 142  # Section 2.1
WIDTH, HEIGHT = 694, 719  # prepared radiograph, Section 2.1 prints 694 x 719 without saying which is which
TRAINING = {"negative": 452, "positive": 114}  # Section 2.1
TESTING = {"negative": 112, "positive": 28}  # Section 2.1
SETTINGS = {"epochs": 40, "batch_size": 2, "learning_rate": 5e-5, "image_size": 672}  # Section 3.1
SCALE_FACTORS = (1, 5)  # Section 3.1
# The DenseNet53 that Tables 3-6 share and Section 4 calls the best
DENSENET = {"model": "densenet", "depth": 53, "blocks": 4, "bottleneck": True, "reduction": 0.25, "drop_rate": 0.0}


@dataclass(frozen=True)
class Column:
    """One column of Tables 2-6: what was trained, the printed metrics, and the counts behind them."""

    table: int
    model: str
    scale_factor: int
    setting: str  # what the column varies
    accuracy: float
    precision: float
    recall: float
    f1: float
    tp: int
    fp: int
    varies: dict = field(default_factory=dict)  # the training settings that make this column, beside DENSENET's

    @property
    def name(self) -> str:
        """The column's heading beside others': the model, and what is varied unless that is the model."""
        return self.model if self.model == self.setting else f"{self.model}, {self.setting}"

    @property
    def settings(self) -> dict:
        """The training settings that tell this column from the others, by the names of `settings.TrainSettings`."""
        if self.model == "ResNet34":
            return {"model": "resnet34", "scale_factor": self.scale_factor}
        return DENSENET | {"scale_factor": self.scale_factor} | self.varies

    @property
    def fn(self) -> int:
        """Positives of the testing set that were missed."""
        return TESTING["positive"] - self.tp

    @property
    def tn(self) -> int:
        """Negatives of the testing set that were called negative."""
        return TESTING["negative"] - self.fp


TABLES = (
    Column(2, "ResNet34", 1, "n = 1", 0.893, 0.842, 0.571, 0.681, tp=16, fp=3),
    Column(2, "ResNet34", 5, "n = 5", 0.879, 0.739, 0.607, 0.667, tp=17, fp=6),
    Column(3, "DenseNet40", 5, "DenseNet40", 0.843, 0.714, 0.357, 0.476, 10, 4, {"depth": 40, "blocks": 3}),
    Column(3, "DenseNet64", 5, "DenseNet64", 0.871, 0.750, 0.536, 0.625, 15, 5, {"depth": 64, "blocks": 3}),
    Column(3, "DenseNet53", 5, "DenseNet53", 0.886, 0.833, 0.536, 0.652, 15, 3),
    Column(4, "DenseNet53", 5, "drop rate 0", 0.886, 0.833, 0.536, 0.652, 15, 3),
    Column(4, "DenseNet53", 5, "drop rate 0.25", 0.843, 0.714, 0.357, 0.476, 10, 4, {"drop_rate": 0.25}),
    Column(5, "DenseNet53", 5, "reduction 0.25", 0.886, 0.833, 0.536, 0.652, 15, 3),
    Column(5, "DenseNet53", 5, "reduction 0.5", 0.871, 0.692, 0.643, 0.667, 18, 8, {"reduction": 0.5}),
    Column(5, "DenseNet53", 5, "reduction 1", 0.836, 0.647, 0.393, 0.489, 11, 6, {"reduction": 1.0}),
    Column(6, "DenseNet53", 5, "bottleneck False", 0.836, 0.600, 0.536, 0.566, 15, 10, {"bottleneck": False}),
    Column(6, "DenseNet53", 5, "bottleneck True", 0.886, 0.833, 0.536, 0.652, 15, 3),
)


def table(number: int) -> tuple[Column, ...]:
    """The columns of Table 2, 3, 4, 5 or 6, from left to right."""
    return tuple(column for column in TABLES if column.table == number)


def column(number: int, setting: str) -> Column:
    """The column of Table `number` that varies `setting`, such as (5, "reduction 1")."""
    return next(column for column in table(number) if column.setting == setting)


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper that says that a metric is higher in one column than in another."""

    name: str
    quote: str
    metric: str
    before: Column
    after: Column

    @property
    def difference(self) -> float:
        """What the paper prints: after - before."""
        return getattr(self.after, self.metric) - getattr(self.before, self.metric)

    @property
    def trials(self) -> int:
        """How many radiographs of the paper's testing set the metric, recall or accuracy, is a share of."""
        return TESTING["positive"] if self.metric == "recall" else sum(TESTING.values())


MORE_RECALL = "Under rebalanced training, ResNet34 achieved a 3.6% higher recall rate"  # Section 4
DEEPER = "deeper layers [...] significantly improved the diagnostic accuracy by 4.3%"  # Section 4
NO_DROPOUT = "the dropout operation decreased accuracy"  # Section 4
REDUCED = "a lower reduction rate significantly improved the diagnostic accuracy by [...] 5%"  # Section 4
BOTTLENECK = "the deep convolutional model with bottleneck blocks was 5% higher in detection accuracy"  # Section 3.2.4
CLAIMS = (
    Claim("balanced training", MORE_RECALL, "recall", column(2, "n = 1"), column(2, "n = 5")),
    Claim("deeper layers", DEEPER, "accuracy", column(3, "DenseNet40"), column(3, "DenseNet53")),
    Claim("no dropout", NO_DROPOUT, "accuracy", column(4, "drop rate 0.25"), column(4, "drop rate 0")),
    Claim("lower reduction", REDUCED, "accuracy", column(5, "reduction 1"), column(5, "reduction 0.25")),
    Claim("bottleneck blocks", BOTTLENECK, "accuracy", *table(6)),
)


def counts_behind(accuracy: float, precision: float, recall: float, f1: float) -> list[tuple[int, int]]:
    """All (TP, FP) on the testing set that round to the four printed metrics (within 0.0005)."""
    positives, negatives = TESTING["positive"], TESTING["negative"]
    found = []
    for tp in range(1, positives + 1):
        for fp in range(negatives + 1):
            right = tp + negatives - fp
            values = (right / (positives + negatives), tp / (tp + fp), tp / positives, 2 * tp / (tp + fp + positives))
            if all(abs(a - b) <= 0.0005 + 1e-9 for a, b in zip(values, (accuracy, precision, recall, f1), strict=True)):
                found.append((tp, fp))
    return found
