import re
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from pneumo_nb import paths, pseudonyms


def test_the_key_is_made_once_and_for_its_owner_only(home):
    first = pseudonyms.key()
    assert len(first) == 32 and pseudonyms.key() == first
    assert stat.S_IMODE(paths.pseudonym_key().stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == [paths.pseudonym_key().name]


def test_those_who_start_together_agree(home):
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: pseudonyms.key(), range(64)))) == 1


@pytest.mark.parametrize("content", ["", "secret", "0" * 63, "g" * 64])
def test_a_spoilt_key_is_refused_and_not_shown(home, content):
    paths.pseudonym_key().write_text(content)
    with pytest.raises(ValueError, match="64 hexadecimal digits") as caught:
        pseudonyms.key()
    assert not content or content not in str(caught.value)


def test_pseudonyms_depend_on_key_kind_and_content_only():
    one, two = b"1" * 32, b"2" * 32
    assert re.fullmatch("r-[0-9a-f]{12}", pseudonyms.image_id(one, b"a/b.dcm"))
    assert re.fullmatch("p-[0-9a-f]{12}", pseudonyms.patient_id(one, "Ada"))
    assert pseudonyms.patient_id(one, "Ada") == pseudonyms.patient_id(one, "Ada")
    names = [pseudonyms.patient_id(key, who) for key in (one, two) for who in ("Ada", "Eva")]
    assert len(set(names)) == 4
    assert pseudonyms.image_id(one, b"Ada")[2:] != pseudonyms.patient_id(one, "Ada")[2:]
