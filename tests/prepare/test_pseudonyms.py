import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pytest

from pneumo_nb import paths
from pneumo_nb.prepare import pseudonyms


def test_the_key_is_made_once_and_for_its_owner_only(home):
    first = pseudonyms.key()
    assert len(first) == 32 and pseudonyms.key() == first
    assert stat.S_IMODE(paths.pseudonym_secret().stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == [paths.pseudonym_secret().name]


def test_those_who_start_together_agree(home):
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: pseudonyms.key(), range(64)))) == 1


@pytest.mark.parametrize("content", ["", "secret", "0" * 63, "g" * 64])
def test_a_spoilt_key_is_refused_and_not_shown(home, content):
    paths.pseudonym_secret().write_text(content)
    paths.pseudonym_secret().chmod(0o600)
    with pytest.raises(ValueError, match="64 hexadecimal digits") as caught:
        pseudonyms.key()
    assert not content or content not in str(caught.value)


def test_pseudonyms_depend_on_key_kind_and_content_only():
    one, two = b"1" * 32, b"2" * 32
    assert re.fullmatch("r-[0-9a-f]{12}", pseudonyms.image_id(one, "a/b.dcm"))
    assert re.fullmatch("p-[0-9a-f]{12}", pseudonyms.patient_id(one, "Ada"))
    assert pseudonyms.patient_id(one, "Ada") == pseudonyms.patient_id(one, "Ada")
    names = [pseudonyms.patient_id(key, who) for key in (one, two) for who in ("Ada", "Eva")]
    assert len(set(names)) == 4
    assert pseudonyms.image_id(one, "Ada")[2:] != pseudonyms.patient_id(one, "Ada")[2:]


def test_dates_move_by_a_number_of_days_that_only_the_key_tells():
    one, two = b"1" * 32, b"2" * 32
    first, second = date(2015, 3, 1), date(2019, 12, 31)
    for who in ("Ada", "Eva", "P-7"):
        moved = [pseudonyms.shifted(one, who, day) for day in (first, second)]
        assert moved[1] - moved[0] == second - first
        assert timedelta(1) <= first - moved[0] <= timedelta(3653)
    places = {(key, who): pseudonyms.shifted(key, who, first) for key in (one, two) for who in map(str, range(50))}
    assert len(set(places.values())) > 90  # by patient, and by key


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_key_that_others_can_reach_is_refused_with_the_remedy(home, mode):
    first = pseudonyms.key()
    paths.pseudonym_secret().chmod(mode)
    with pytest.raises(ValueError, match="chmod 600") as caught:
        pseudonyms.key()
    assert first.hex() not in str(caught.value) and "\n" not in str(caught.value)
    paths.pseudonym_secret().chmod(0o600)
    assert pseudonyms.key() == first


def test_looking_makes_no_key_but_uses_one_that_is_there(home):
    assert len(pseudonyms.key(make=False)) == 32 and list(home.iterdir()) == []
    assert pseudonyms.key() == pseudonyms.key(make=False)
