import pytest

from vmckpt.kernel import ioctl, uffdio
from vmckpt.kernel.pagemap import SCAN


# The numbers that every x86-64 and arm64 Linux has, written out: derived from parts there, looked up here.
@pytest.mark.parametrize(
    ("derived", "known"),
    [
        pytest.param(uffdio.NEW, 0xAA00, id="new"),
        pytest.param(uffdio.API, 0xC018AA3F, id="api"),
        pytest.param(uffdio.REGISTER, 0xC020AA00, id="register"),
        pytest.param(uffdio.UNREGISTER, 0x8010AA01, id="unregister"),
        pytest.param(uffdio.WAKE, 0x8010AA02, id="wake"),
        pytest.param(uffdio.COPY, 0xC028AA03, id="copy"),
        pytest.param(uffdio.ZEROPAGE, 0xC020AA04, id="zeropage"),
        pytest.param(uffdio.WRITEPROTECT, 0xC018AA06, id="writeprotect"),
        pytest.param(uffdio.CONTINUE, 0xC020AA07, id="continue"),
        pytest.param(uffdio.POISON, 0xC020AA08, id="poison"),
        pytest.param(SCAN, 0xC0606610, id="pagemap-scan"),
    ],
)
def test_request_numbers_are_the_kernels(derived: int, known: int) -> None:
    assert derived == known


@pytest.mark.parametrize(
    "parts", [(4, 0, 0, 0), (0, 256, 0, 0), (0, 0, 256, 0), (0, 0, 0, 1 << 14), (-1, 0, 0, 0)], ids=str
)
def test_parts_that_do_not_fit_are_refused(parts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="no ioctl"):
        ioctl.request(*parts)
