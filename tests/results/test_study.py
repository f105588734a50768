"""What the README says of the study is what the study's files say."""

import pandas as pd
import pytest

from pneumo_nb import paper, paths
from pneumo_nb.results import tables

BEGIN, END = "<!-- study:begin -->", "<!-- study:end -->"


def test_the_readme_holds_the_studys_table():
    kept = tables.of_reference("study")
    if kept is None:
        pytest.skip("outputs/reference/study holds no tables.csv and claims.csv")
    text = (paths.root() / "README.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.split(BEGIN)[1].split(END)[0].strip() == tables.study_summary(kept[1])


def claims(**more):
    rows = [
        {
            "claim": claim.name,
            "metric": claim.metric,
            "dataset": name,
            "protocol": "norm_statistics=running",
            "seeds": 5,
        }
        | {"paper": claim.difference, "value": 0.05, "low": 0.01, "high": 0.0912, "p": 0.004, "holm_p": 0.02}
        for name in ("phantom-study-screening", "phantom-study-marked")
        for claim in paper.CLAIMS
    ]
    return pd.DataFrame(rows).assign(**{"verdict": "supported"} | more)


def test_the_studys_table_has_a_row_for_each_claim_mix_and_way_of_evaluating_with_most_seeds():
    fewer = claims(seeds=3, verdict="cannot tell", protocol="image_size=64, norm_statistics=running")
    lines = tables.study_summary(pd.concat([fewer, claims()])).splitlines()
    assert len(lines) == 2 + 2 * len(paper.CLAIMS) and len({line.count("|") for line in lines}) == 1
    cells = (
        "balanced training: recall | +3.6 | phantom-study-marked | running | +5.0 (+1.0 to +9.1) | 0.02 | 5 | supported"
    )
    assert lines[2] == f"| {cells} |"
    assert "cannot tell" not in "".join(lines)
    both = tables.study_summary(pd.concat([claims(), claims(protocol="image_size=64")]))
    assert both.count("| running |") == both.count("| training set |") == 2 * len(paper.CLAIMS)


def test_a_reference_is_read_as_it_was_written_and_one_that_is_not_there_is_none(home):
    assert tables.of_reference("study") is None
    folder = home / "outputs" / "reference" / "study"
    folder.mkdir(parents=True)
    written = tables.on().assign(dataset="007")
    for name, frame in (("tables", written), ("claims", claims())):
        frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    kept, found = tables.of_reference("study")
    assert kept["dataset"].unique().tolist() == ["007"] and kept["table"].tolist() == written["table"].tolist()
    assert tables.study_summary(found) == tables.study_summary(claims())
