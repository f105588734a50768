import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from pneumo_nb.prepare.journal import Journal


def test_entries_come_back_in_the_order_of_positions(tmp_path):
    with Journal(tmp_path / "j", 5) as journal:
        for position in (4, 1, 3):
            journal.add({"position": position, "text": f"é{position}\n"})
        assert [entry["text"] for entry in journal] == ["é1\n", "é3\n", "é4\n"]
        assert (1 in journal, 2 in journal, len(journal)) == (True, False, 3)
        journal.forget(3)
        journal.add({"position": 5})
        assert [entry["position"] for entry in journal] == [1, 4, 5]


def test_of_two_entries_for_one_position_the_last_counts(tmp_path):
    for text in ("first", "second"):
        with Journal(tmp_path / "j", 1) as journal:
            journal.add({"position": 1, "text": text})
    with Journal(tmp_path / "j", 1) as journal:
        assert [entry["text"] for entry in journal] == ["second"]


@given(cut=st.integers(0, 400))
def test_cut_anywhere_whole_entries_stay_and_others_can_be_added(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "j"
    with Journal(path, 10) as journal:
        for position in range(1, 11):
            journal.add({"position": position, "text": "x" * position})
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    kept = content[:cut].count(b"\n")
    with Journal(path, 10) as journal:
        assert [entry["position"] for entry in journal] == list(range(1, kept + 1))
        for position in range(kept + 1, 11):
            journal.add({"position": position, "text": "x" * position})
    assert path.read_bytes() == content


def test_memory_does_not_grow_with_what_is_in_an_entry(tmp_path):
    with Journal(tmp_path / "j", 2000) as journal:
        tracemalloc.start()
        for position in range(1, 2001):
            journal.add({"position": position, "text": "x" * 5000})
        assert sum(len(entry["text"]) for entry in journal) == 10_000_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 500_000
