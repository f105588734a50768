import pytest

from pneumo_nb import metrics, paper


@pytest.mark.parametrize("column", paper.TABLES, ids=lambda column: f"table {column.table}, {column.setting}")
def test_exactly_one_confusion_matrix_gives_the_printed_metrics(column):
    found = paper.counts_behind(column.accuracy, column.precision, column.recall, column.f1)
    assert found == [(column.tp, column.fp)]
    counts = metrics.Counts(column.tp, column.fp, column.fn, column.tn)
    printed = (column.accuracy, column.precision, column.recall, column.f1)
    computed = (counts.accuracy, counts.precision, counts.recall, counts.f1)
    assert computed == pytest.approx(printed, abs=0.0005)


def test_impossible_metrics_have_no_counts():
    assert paper.counts_behind(0.99, 0.5, 0.5, 0.5) == []


def test_the_split_adds_up_to_the_dataset():
    for label, total in (("positive", paper.POSITIVES), ("negative", paper.IMAGES - paper.POSITIVES)):
        assert paper.TRAINING[label] + paper.TESTING[label] == total
        assert paper.TESTING[label] == total // 5


def test_each_table_has_the_columns_that_are_printed():
    assert [len(paper.table(number)) for number in (2, 3, 4, 5, 6)] == [2, 3, 2, 3, 2]
    assert {column.scale_factor for number in (3, 4, 5, 6) for column in paper.table(number)} == {5}


@pytest.mark.parametrize("claim", paper.CLAIMS, ids=lambda claim: claim.name)
def test_each_claim_points_the_way_that_its_columns_do(claim):
    assert getattr(claim.after, claim.metric) > getattr(claim.before, claim.metric)
    assert claim.before.table == claim.after.table and claim.before.settings != claim.after.settings


def test_columns_printed_twice_are_one_training():
    trainings = {str(column.settings): (column.tp, column.fp) for column in paper.TABLES}
    assert len(trainings) == 9
    assert all(trainings[str(column.settings)] == (column.tp, column.fp) for column in paper.TABLES)
