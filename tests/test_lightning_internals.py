"""The private parts of Lightning are used with the versions that they are known of."""

import pytest

from spinwarp.errors import InputError
from spinwarp.lightning_internals import check_version


@pytest.mark.parametrize("version", ["2.5.6", "2.7.0", "2.60.1", "3.0.0"])
def test_another_version_of_lightning_is_refused_with_the_one_to_install(version: str) -> None:
    with pytest.raises(InputError, match=rf"{version} is installed; run pip install 'lightning==2\.6\.\*'"):
        check_version(version)


@pytest.mark.parametrize("version", ["2.6.0", "2.6.6", "2.6.12rc0"])
def test_a_version_of_which_the_private_parts_are_known_is_taken(version: str) -> None:
    check_version(version)
